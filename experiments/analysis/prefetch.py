"""Prefetch: the best distance, its gain, and what helps on cold files."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from experiments import plots, stats
from experiments.analysis import common
from experiments.plots import Panel

FACTORS: Final = ("cache", "accounts", "batch_rows", "prefetch")
COLUMNS: Final = ("rows_per_s", "faults_major", "cpu_ns_per_row", "resident_share_dropped", "resident_share_after")
ANSWER: Final = """
In the largest ledger and longest batch most hits were measured at a distance of {prefetch_best_distance} rows:
{prefetch_get_gain:effect} as many a second as without prefetch, and {prefetch_update_gain:effect} as many updates at
their own best. In the smallest ledger there are {prefetch_get_gain_small:effect} as many hits, in the shortest batch
{prefetch_get_gain_short_batch:effect} as many. From cold files hits take {cold_over_warm:effect} as long as from warm
memory; with WILLNEED asked before there are {willneed_gain:effect} as many a second. (After the drop
{resident_share_dropped:.1%} of the files were still cached.)
"""
_CACHES: Final = {"warm": "warm", "cold": "cold", "cold_willneed": "cold, WILLNEED"}


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return medians of throughput and latencies of each cell."""
    return common.table(rows, FACTORS, COLUMNS)


@common.repeated
def figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of the summary."""
    chosen = common.select(rows)
    accounts, batches = (sorted(chosen[name].unique()) for name in ("accounts", "batch_rows"))
    large = {"accounts": accounts[-1], "batch_rows": batches[-1]}
    found: dict[str, Any] = {}
    bests = _add_gain(found, "prefetch_get_gain", rows, "get_hit", **large)
    if bests:
        found |= {"prefetch_best_distance" + end: n for end, n in zip(("", *common.ENDS), bests, strict=True)}
    _add_gain(found, "prefetch_update_gain", rows, "update", **large)
    _add_gain(found, "prefetch_get_gain_small", rows, "get_hit", **{**large, "accounts": accounts[0]})
    _add_gain(found, "prefetch_get_gain_short_batch", rows, "get_hit", **{**large, "batch_rows": batches[0]})
    speeds = {cache: _cold_speed(rows, cache, **large) for cache in _CACHES}
    found["cold_over_warm"] = common.ratio(speeds["warm"], speeds["cold"])
    found["willneed_gain"] = common.ratio(speeds["cold_willneed"], speeds["cold"])
    found["resident_share_dropped"] = common.median(rows, "resident_share_dropped", "get_hit", cache="cold")
    return common.numbers(found)


def answer(found: dict[str, float]) -> str:
    """Return the answer in computed numbers."""
    return ANSWER.format_map(common.Said(found))


def headline(rows: pd.DataFrame) -> list[Panel]:
    """Return the figures of the summary; the notebook has the others."""
    return [distance_panel(rows, "get_hit"), cold_panel(rows)]


def distance_panel(rows: pd.DataFrame, operation: str) -> Panel:
    """Draw throughput against distance, a line for each ledger and batch size."""
    chosen = common.select(rows, operation, cache="warm").sort_values(["accounts", "batch_rows"])
    lines = chosen["accounts"].map(plots.short) + " × " + chosen["batch_rows"].map(plots.short)
    return plots.lines(
        chosen.assign(line=lines),
        x="prefetch",
        y="rows_per_s",
        by="line",
        scale=1e-6,
        logx=True,
        title=f"{'Hits' if operation == 'get_hit' else 'Updates'} by prefetch distance (accounts × batch)",
        xlabel="prefetch distance (rows)",
        ylabel="million rows a second",
    )


def cold_panel(rows: pd.DataFrame) -> Panel:
    """Draw throughput of hits in warm memory, on cold files, and with WILLNEED."""
    chosen = common.select(rows, "get_hit", **_large(rows))
    distances = sorted(chosen.loc[chosen["cache"] != "warm", "prefetch"].unique())
    chosen = chosen[chosen["prefetch"].isin(distances)] if distances else chosen
    names = chosen["cache"].map(_CACHES)
    speeds = chosen.assign(cache=names, column="distance " + chosen["prefetch"].astype(str))
    shown = speeds.pivot_table("rows_per_s", "cache", "column", "median", sort=False) / 1e6
    order = [name for name in _CACHES.values() if name in shown.index]
    title = "Hits from warm memory and from cold files"
    return plots.bars(shown.loc[order], rows, title=title, xlabel="million rows a second", log=True)


def latency_panel(rows: pd.DataFrame) -> Panel:
    """Draw percentile curves of get batches, a curve for each distance, warm."""
    chosen = common.select(rows, "get_hit", **{**_large(rows), "cache": "warm"})
    found = sorted(common.merged(chosen, ["prefetch"]).items())
    curves = {f"distance {key[0]}": histogram for key, histogram in found}
    return plots.percentiles(curves, rows, title="Latency of a get batch, largest ledger and batch")


def _large(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the levels of the largest ledger and the longest batch."""
    chosen = common.select(rows)
    return {"accounts": max(chosen["accounts"]), "batch_rows": max(chosen["batch_rows"])}


def _add_gain(found: dict[str, Any], name: str, rows: pd.DataFrame, operation: str, **levels: Any) -> list[float]:
    """Add the throughput of the best distance over that of none; return the best distance, then the ends of its range.

    The best of several is chosen by the same repeats, so the confidence is raised for as many tries.
    """
    chosen = common.select(rows, operation, cache="warm", **levels)
    if chosen.empty:
        return []
    speeds = chosen.pivot_table("rows_per_s", "repeat", "prefetch").astype(float)
    best, tries = speeds.median().idxmax(), max(1, len(speeds.columns) - 1)
    if 0 in speeds:
        common.add_effect(found, name, speeds[best], speeds[0], confidence=1 - (1 - stats.CONFIDENCE) / tries)
    each = speeds.idxmax(axis=1)
    return [float(best), float(each.min()), float(each.max())]


def _cold_speed(rows: pd.DataFrame, cache: str, **levels: Any) -> float | None:
    """Return the throughput of hits at the greatest distance that was measured on cold files."""
    cold = common.select(rows, "get_hit", cache="cold", **levels)
    if cold.empty:
        return None
    return common.median(rows, "rows_per_s", "get_hit", cache=cache, prefetch=max(cold["prefetch"]), **levels)
