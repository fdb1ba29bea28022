"""Huge pages: asked and got, what is kept after updates, what they are worth."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from experiments import plots
from experiments.analysis import common
from experiments.plots import Panel

FACTORS: Final = ("hugepages", "storage", "accounts")
COLUMNS: Final = ("rows_per_s", "seconds", "faults_minor", "faults_major")
ANSWER: Final = """
Asked for transparent huge pages, anonymous memory got {thp_share_memory:.0%} of records and index on them; a private
file mapping got {thp_share_private:.0%} and had {thp_share_private_after:.0%} after updates; a shared one got
{thp_share_shared:.0%}. In memory they gave {thp_get_gain:effect} the hits and {thp_update_gain:effect} the updates. A
dependent load over the same footprint took {chase_off_ns} ns on small pages and {chase_thp_ns} ns on huge ones,
{chase_off_over_thp:effect} as long. hugetlb pages covered {hugetlb_share:.0%} of what asked for them (none are
reserved unless somebody did so).
"""


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return medians of throughput, faults and latencies of each cell."""
    return common.table(rows, FACTORS, COLUMNS)


def coverage(rows: pd.DataFrame) -> pd.DataFrame:
    """Return for each cell what was asked and what share of records and index was got, stage by stage."""
    stages = [
        "huge_share_before_updates",
        "huge_share_after_updates",
        "chase_huge_share",
        "chase_ns",
    ]
    chosen = common.select(rows, "update")
    found = chosen.groupby(list(FACTORS))[stages].median(numeric_only=True).reset_index()
    absent = common.not_applicable(rows, FACTORS)
    return pd.concat([found, absent], ignore_index=True).sort_values(list(FACTORS), ignore_index=True)


@common.repeated
def figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of the summary."""
    most = max(common.select(rows)["accounts"])

    def at(column: str, operation: str = "update", **levels: Any) -> float | None:
        return common.median(rows, column, operation, **{"accounts": most, **levels})

    thp = {"hugepages": "thp"}
    off_ns, thp_ns = (at("chase_ns", hugepages=asked) for asked in ("off", "thp"))
    found = {
        "thp_share_memory": at("huge_share_before_updates", storage="memory", **thp),
        "thp_share_private": at("huge_share_before_updates", storage="private", **thp),
        "thp_share_private_after": at("huge_share_after_updates", storage="private", **thp),
        "thp_share_shared": at("huge_share_before_updates", storage="shared", **thp),
        "chase_off_ns": off_ns,
        "chase_thp_ns": thp_ns,
        "chase_off_over_thp": common.ratio(off_ns, thp_ns),
        "tlb_cost_ns": None if off_ns is None or thp_ns is None else off_ns - thp_ns,
    }
    for name, operation in (("thp_get_gain", "get_hit"), ("thp_update_gain", "update")):
        speeds = [at("rows_per_s", operation, storage="memory", hugepages=asked) for asked in ("thp", "off")]
        found[name] = common.ratio(*speeds)
    found["hugetlb_share"] = at("huge_share_before_updates", storage="memory", hugepages="hugetlb")
    return common.numbers(found)


def answer(found: dict[str, float]) -> str:
    """Return the answer in computed numbers."""
    return ANSWER.format_map(common.Said(found))


def headline(rows: pd.DataFrame) -> list[Panel]:
    """Return the figures of the summary; the notebook has the others."""
    return [coverage_panel(rows), gain_panel(rows)]


def coverage_panel(rows: pd.DataFrame) -> Panel:
    """Draw the share on huge pages before and after updates, at the largest size."""
    most = max(common.select(rows)["accounts"])
    chosen = common.select(rows, "update", accounts=most)
    columns = {"huge_share_before_updates": "before updates", "huge_share_after_updates": "after updates"}
    shares = _by_cell(chosen)[list(columns)].median() * 100
    return plots.bars(
        shares.rename(columns=columns),
        rows,
        title=f"Share on huge pages, {most:,} accounts",
        xlabel="records and index on huge pages (%)",
        absent=_absent(rows),
    )


def gain_panel(rows: pd.DataFrame) -> Panel:
    """Draw throughput of get and update, at the largest size."""
    most = max(common.select(rows)["accounts"])
    names = {"get_hit": "get", "update": "update", "get_after_updates": "get after updates"}
    chosen = common.select(rows, accounts=most).query("operation in @names")
    speeds = (
        chosen.assign(cell=_cell(chosen))
        .sort_values(["storage", "hugepages"])
        .pivot_table("rows_per_s", "cell", "operation", "median", sort=False)
        / 1e6
    )
    return plots.bars(
        speeds[list(names)].rename(columns=names),
        rows,
        title=f"Throughput, {most:,} accounts",
        xlabel="million rows a second",
        absent=_absent(rows),
    )


def chase_panel(rows: pd.DataFrame) -> Panel:
    """Draw the time of a dependent load against the footprint."""
    chosen = common.select(rows, "update", storage="memory").dropna(subset=["chase_ns"])
    chosen = chosen.assign(mib=chosen["footprint_bytes"].astype(float) / (1 << 20))
    return plots.lines(
        chosen.assign(mib=chosen.groupby("accounts")["mib"].transform("median").round(1)),
        x="mib",
        y="chase_ns",
        by="hugepages",
        logx=True,
        title="A dependent load over the ledger's footprint",
        xlabel="footprint (MiB)",
        ylabel="ns a load",
    )


def open_panel(rows: pd.DataFrame) -> Panel:
    """Draw the time to open a closed ledger, at the largest size."""
    most = max(common.select(rows)["accounts"])
    seconds = _by_cell(common.select(rows, "open", accounts=most))[["seconds"]].median() * 1e3
    return plots.bars(
        seconds.rename(columns={"seconds": "open"}),
        rows,
        title=f"Time to open a closed ledger, {most:,} accounts",
        xlabel="ms",
        log=True,
        absent=_absent(rows),
    )


def latency_panel(rows: pd.DataFrame) -> Panel:
    """Draw percentile curves of get at the largest size, a curve for each cell in memory."""
    most = max(common.select(rows)["accounts"])
    chosen = common.select(rows, "get_hit", accounts=most, storage="memory")
    curves = {str(key[0]): histogram for key, histogram in common.merged(chosen, ["hugepages"]).items()}
    return plots.percentiles(curves, rows, title=f"Latency of a get batch in memory, {most:,} accounts")


def _cell(rows: pd.DataFrame) -> pd.Series:
    """Return the name of each row's cell."""
    return rows["storage"].astype(str) + " " + rows["hugepages"].astype(str)


def _by_cell(rows: pd.DataFrame) -> Any:
    """Return rows grouped by storage and huge pages, in a steady order."""
    return rows.assign(cell=_cell(rows)).sort_values(["storage", "hugepages"]).groupby("cell", sort=False)


def _absent(rows: pd.DataFrame) -> list[str]:
    """Return the names of cells that cannot exist."""
    found = common.not_applicable(rows, FACTORS)
    return sorted(set(_cell(found))) if len(found) else []
