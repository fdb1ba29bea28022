"""Recovery: time to open by situation, size, length of the log and target, and what a larger ledger would take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from experiments import plots
from experiments.analysis import common
from experiments.plots import Panel

ANSWER: Final = """
The largest ledger is open {open_clean_ms} ms after a clean close, {open_killed_ms} ms after a kill with the longest
log, and {open_index_lost_ms} ms after the loss of its index files; with none of its files in the page cache
{open_clean_cold_ms}, {open_killed_cold_ms} and {open_index_lost_cold_ms} ms. Reading its records and indexes once
takes {read_once_ms} ms. Redo takes {redo_bytes_per_s} bytes of log a second, cold {redo_cold_bytes_per_s}. Killed in
the middle of a sustained load of uniform keys under a target of {recovery_target_s} s, at {sustained_target_mops} M
updates a second, it is open after {open_killed_target_s} s; without a target it takes {sustained_unbounded_mops} M
updates a second. The largest ledger under such a load takes {largest_sustained_target_mops} M updates a second, and
is open after {largest_open_killed_target_s} s. The worst opening took {open_over_target_worst} of its target.
By the fit, 32 GiB of records would be open after {open_clean_32gib_ms} ms (closed), {open_killed_32gib_ms} ms (killed)
and {open_index_lost_32gib_ms} ms (indexes lost), and read once in {read_once_32gib_ms} ms.
"""
GIB32_ACCOUNTS: Final = (32 << 30) // 128
ACCOUNTS_PER_BLOCK: Final = 4096 // 128
FIT: Final = (
    "time = fixed + a × accounts + b × rows of the log + c × record blocks that these touch, none below 0, "
    "least squares of the relative errors"
)
_TERMS: Final = ("an account", "a row of the log", "a block that it touches")
_LINES: Final = {"clean": "closed", "read": "reading once", "killed": "killed", "index lost": "indexes lost"}
_NAMES: Final = {
    "closed": "open_clean", "reading once": "read_once", "killed": "open_killed", "indexes lost": "open_index_lost",
}  # fmt: skip
_PHASES: Final = ("map_ms", "check_index_ms", "redo_ms", "recount_ms", "ready_ms")


def openings(rows: pd.DataFrame, part: str = "size", **levels: Any) -> pd.DataFrame:
    """Return the openings of a part."""
    return common.select(rows, "open", part=part, **levels)


def times(rows: pd.DataFrame, cache: str) -> pd.DataFrame:
    """Return the times of each situation and of reading once, named as people call them, in a steady order."""
    found, read = openings(rows, cache=cache), common.select(rows, "read", part="size")
    both = pd.concat([found, read.assign(situation="read", open_ms=read["read_ms"], redo_rows=0)])
    name = pd.Categorical(both["situation"].map(_LINES), list(_LINES.values()))
    both = both.assign(line=name).sort_values(["line", "accounts"])
    both = both.astype({"line": str, "open_ms": float, "redo_rows": float})
    both.attrs = rows.attrs
    return both


def lines(rows: pd.DataFrame, cache: str) -> pd.DataFrame:
    """Return the same, after kills only with the longest log."""
    found = times(rows, cache)
    return found[(found["situation"] != "killed") | (found["log_mib"] == found["log_mib"].max())]


def fits(rows: pd.DataFrame, cache: str) -> pd.DataFrame:
    """Return the fitted curve of each line (see `FIT`), how well it fits, and what it says of 32 GiB of records.

    After a kill it is for the longest log that was measured.
    """
    if not _measured(rows, "size"):
        return pd.DataFrame()
    found = []
    for name, group in times(rows, cache).groupby("line", sort=False):
        cells = group.groupby(["accounts", "redo_rows"], as_index=False)["open_ms"].median()
        shares = _terms(cells["accounts"], cells["redo_rows"]) / cells[["open_ms"]].to_numpy()
        factors, _ = nnls(shares, np.ones(len(cells)))
        large = _terms(pd.Series([GIB32_ACCOUNTS]), pd.Series([cells["redo_rows"].max()]))
        found.append(
            {
                "opening": name,
                "sizes": cells["accounts"].nunique(),
                "fixed ms": factors[0],
                **{f"µs for {term}": factor * 1e3 for term, factor in zip(_TERMS, factors[1:], strict=True)},
                "worst relative error": float(np.abs(shares @ factors - 1).max()),
                "32 GiB, ms": float((large @ factors)[0]),
            }
        )
    return pd.DataFrame(found)


def _terms(accounts: pd.Series, log_rows: pd.Series) -> np.ndarray:
    """Return what the time is made of: a constant, accounts, rows of the log, and the blocks that those touch.

    So many random rows leave of each block untouched what a Poisson distribution says.
    """
    size, count = accounts.to_numpy(float), log_rows.to_numpy(float)
    blocks = size / ACCOUNTS_PER_BLOCK
    return np.stack([np.ones_like(size), size, count, blocks * -np.expm1(-count / blocks)], axis=1)


def figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of the summary, each with the ends of its 95 % interval where it was measured."""
    found: dict[str, float] = {}
    add = functools.partial(common.add_interval, found)
    if _measured(rows, "size"):
        _size_figures(rows, add)
        found |= _projected(rows)
    if _measured(rows, "load"):
        found |= _target_figures(rows, add)
    return found


def _size_figures(rows: pd.DataFrame, add: Callable[[str, Any], None]) -> None:
    """Add the figures of the largest ledger."""
    for cache, suffix in (("warm", ""), ("cold", "_cold")):
        shown = lines(rows, cache)
        large = shown[shown["accounts"] == shown["accounts"].max()]
        for situation in ("clean", "killed", "index lost"):
            add(f"open_{situation.replace(' ', '_')}{suffix}_ms", large.loc[large["situation"] == situation, "open_ms"])
        killed = large[large["situation"] == "killed"]
        add(f"redo{suffix}_bytes_per_s", killed["log_bytes"].astype(float) / killed["redo_ms"].astype(float) * 1e3)
    add("read_once_ms", large.loc[large["situation"] == "read", "open_ms"])


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return medians of opening, its phases and the first read, a row for each situation."""
    by = ["accounts", "situation", "cache", "log_mib"]
    columns = ["open_ms", *_PHASES, "first_get_ms", "resident_share"]
    found = openings(rows).reindex(columns=[*by, *columns]).astype(dict.fromkeys(columns, float))
    return found.groupby(by, as_index=False).median()


def load_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what the kills in the middle of a load came to: rate, length of the log, time to open."""
    if not _measured(rows, "load"):
        return pd.DataFrame()
    by = ["accounts", "keys", "recovery_target_s"]
    wrote = common.select(rows, "write", part="load").groupby(by)[["rows_per_s", "checkpoints", "log_limit_bytes"]]
    found = under_load(rows)
    opened = found.groupby(by).agg(
        kills=("round", "size"), log_mib=("log_mib", "median"), log_mib_most=("log_mib", "max"),
        open_ms=("open_ms", "median"), open_ms_most=("open_ms", "max"), redo_ms=("redo_ms", "median"),
    )  # fmt: skip
    return wrote.median(numeric_only=True).join(opened).reset_index()


def absent(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the cells that this machine has no room for, each with its reason."""
    return common.not_applicable(rows, ["part", "accounts"])


def under_load(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the openings after kills in the middle of a load, with the log that there was."""
    found = openings(rows, "load", cache="warm")
    found = found[found["round"] >= 0].astype({"open_ms": float, "redo_ms": float})
    return found.assign(log_mib=found["log_bytes"].astype(float) / (1 << 20))


def answer(found: dict[str, float]) -> str:
    """Return the answer in computed numbers."""
    return ANSWER.format_map(common.Said(found))


def headline(rows: pd.DataFrame) -> list[Panel]:
    """Return the figures of the summary; the notebook has the others."""
    return [panel for panel in (size_panel(rows, "warm"), rate_panel(rows)) if panel]


def size_panel(rows: pd.DataFrame, cache: str) -> Panel | None:
    """Draw the time to open against size, a line for each situation, and reading the files once beside them."""
    if not _measured(rows, "size"):
        return None
    where = "files in the page cache" if cache == "warm" else "files not in the page cache"
    return plots.lines(
        lines(rows, cache), x="accounts", y="open_ms", by="line", logx=True, logy=True,
        title=f"Time to open, {where}", xlabel="accounts", ylabel="ms",
    )  # fmt: skip


def log_panel(rows: pd.DataFrame) -> Panel | None:
    """Draw the time to open after a kill against the length of the log, for the smallest and the largest ledger."""
    if not _measured(rows, "size"):
        return None
    found = openings(rows, situation="killed").astype({"open_ms": float, "log_mib": int})
    found = found[found["accounts"].isin([found["accounts"].min(), found["accounts"].max()])]
    names = found["accounts"].map(plots.short) + ", " + found["cache"]
    shown = found.assign(name=names).sort_values(["cache", "accounts", "log_mib"])
    return plots.lines(
        shown, x="log_mib", y="open_ms", by="name", logx=True, logy=True,
        title="Time to open after a kill by length of the log", xlabel="log since the checkpoint (MiB)", ylabel="ms",
    )  # fmt: skip


def target_panel(rows: pd.DataFrame) -> Panel | None:
    """Draw the time to open after kills in the middle of a load against the target, and the target itself."""
    if not _measured(rows, "load"):
        return None
    found = under_load(rows)
    found = _smallest(found[found["recovery_target_s"] > 0]).sort_values(["keys", "recovery_target_s"])
    if found["recovery_target_s"].nunique() < 2:
        return None
    aim = found.drop_duplicates("recovery_target_s").assign(keys="target")
    both = pd.concat([found.assign(seconds=found["open_ms"] / 1e3), aim.assign(seconds=aim["recovery_target_s"])])
    both.attrs = rows.attrs
    return plots.lines(
        both, x="recovery_target_s", y="seconds", by="keys", logx=True, logy=True,
        title="Time to open after a kill in a sustained load", xlabel="recovery_target_s (s)", ylabel="s",
    )  # fmt: skip


def rate_panel(rows: pd.DataFrame) -> Panel | None:
    """Draw the sustained rate of durable updates under each target."""
    if not _measured(rows, "load"):
        return None
    found = _smallest(common.select(rows, "write", part="load")).sort_values(["recovery_target_s", "keys"])
    names = found["recovery_target_s"].map(lambda target: f"target {target:g} s" if target else "no target")
    speeds = found.assign(name=names).pivot_table("rows_per_s", "name", "keys", "median", sort=False) / 1e6
    title = "Sustained durable updates by target"
    return plots.bars(speeds[sorted(speeds)], rows, title=title, xlabel="million updates a second", log=True)


def _smallest(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the smallest ledger, at which all targets were measured."""
    return rows[rows["accounts"] == rows["accounts"].min()]


def _measured(rows: pd.DataFrame, part: str) -> bool:
    """Tell whether a part was measured."""
    return not common.select(rows, part=part).empty


def _target_figures(rows: pd.DataFrame, add: Callable[[str, Any], None]) -> dict[str, float]:
    """Return the figures of the longest target; those with an interval are added."""
    found, wrote = under_load(rows), common.select(rows, "write", part="load")
    aimed = found[found["recovery_target_s"] > 0]
    if aimed.empty:
        return {}
    sizes = sorted(aimed["accounts"].unique())
    target = float(aimed["recovery_target_s"].max())

    def uniform(table: pd.DataFrame, accounts: int, level: float) -> pd.DataFrame:
        return common.select(table, accounts=accounts, recovery_target_s=level, keys="uniform")

    def rate(accounts: int, level: float) -> pd.Series:
        return uniform(wrote, accounts, level)["rows_per_s"].astype(float) / 1e6

    add("open_killed_target_s", uniform(aimed, sizes[0], target)["open_ms"] / 1e3)
    add("sustained_target_mops", rate(sizes[0], target))
    add("sustained_unbounded_mops", rate(sizes[0], 0.0))
    if len(sizes) > 1:
        given = float(aimed.loc[aimed["accounts"] == sizes[-1], "recovery_target_s"].max())
        add("largest_open_killed_target_s", uniform(aimed, sizes[-1], given)["open_ms"] / 1e3)
        add("largest_sustained_target_mops", rate(sizes[-1], given))
    worst = float((aimed["open_ms"] / 1e3 / aimed["recovery_target_s"]).max())
    return {"recovery_target_s": target, "open_over_target_worst": worst}


def _projected(rows: pd.DataFrame) -> dict[str, float]:
    """Return what the fits say of 32 GiB of records, the files in the page cache; one size says nothing."""
    found = fits(rows, "warm")
    times = found[found["sizes"] > 1].set_index("opening")["32 GiB, ms"]
    return {f"{_NAMES[line]}_32gib_ms": float(times[line]) for line in times.index}
