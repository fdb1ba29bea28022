"""Limits: what the engine reaches of what memory and disk allow."""

from __future__ import annotations

import functools
from typing import Final

import pandas as pd

from experiments import plots, spec
from experiments.analysis import common
from experiments.plots import Panel

ANSWER: Final = """
`update_batch` reaches {update_batch_over_floor} of its floor ({update_batch_mops} of {update_floor_mops} M/s),
`get_batch` {get_batch_over_floor} ({get_batch_mops} of {get_floor_mops} M/s); prefetch makes it
{get_prefetch_gain:effect} as fast. Two callers make {sync_mops} M updates a second durable, {sync_over_bound} of the
lower of mode `none` and what the bare disk takes of the same frames ({disk_bound_mops} M/s); one caller that waits
for each batch reaches {sync_blocking_over_bound}. A single get takes {get_ns} ns, LMDB's {lmdb_get_over_get} times as
long. Opening takes {open_clean_ms} ms, memory beyond 200 MB is {memory_over_data} of the data.
"""
NAMES: Final = {
    "get_floor": "get, floor",
    "get_batch": "get",
    "get_no_prefetch": "get, no prefetch",
    "update_floor": "update, floor",
    "update_batch": "update",
    "sync": "sync, 2 callers",
    "sync_blocking": "sync, 1 caller",
    "disk": "bare disk",
}
_STRETCHES: Final = 10
_BATCHES: Final = (
    ("update_batch_over_floor", "update_batch", "update_floor"),
    ("get_batch_over_floor", "get_batch", "get_floor"),
    ("get_prefetch_gain", "get_batch", "get_no_prefetch"),
    ("sync_over_bound", "sync", "bound"),
    ("sync_blocking_over_bound", "sync_blocking", "bound"),
)
_RATES: Final = {
    "update_batch_mops": "update_batch",
    "get_batch_mops": "get_batch",
    "update_floor_mops": "update_floor",
    "get_floor_mops": "get_floor",
    "sync_mops": "sync",
    "sync_blocking_mops": "sync_blocking",
    "disk_bound_mops": "disk",
}


def rates(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    """Return rows a second, a row for each trial and round, a column for each operation; `bound` is the lower two."""
    chosen = common.select(rows, part=part).dropna(subset=["round", "rows_per_s"])
    found = chosen.pivot_table("rows_per_s", ["trial", "round"], "operation").astype(float)
    if {"update_batch", "disk"} <= set(found):
        found["bound"] = found[["update_batch", "disk"]].min(axis=1)
    return found


def figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of the summary, each with the ends of its 95 % interval."""
    found: dict[str, float] = {}
    add = functools.partial(common.add_interval, found)
    batches = rates(rows, "batches")
    for name, top, bottom in _BATCHES:
        if {top, bottom} <= set(batches):
            add(name, batches[top] / batches[bottom])
    for name, operation in _RATES.items():
        if operation in batches:
            add(name, batches[operation] / 1e6)
    gets = rates(rows, "single")
    if {"get", "lmdb", "lmdb_kept"} <= set(gets):
        add("lmdb_get_over_get", gets["get"] / gets["lmdb"])
        add("lmdb_kept_get_over_get", gets["get"] / gets["lmdb_kept"])
        add("get_ns", 1e9 / gets["get"])
        add("lmdb_get_ns", 1e9 / gets["lmdb"])
    opened, loaded = (common.select(rows, name, part="open") for name in ("open", "load"))
    if len(opened):
        large, small = (opened[opened["size"] == size(opened["size"])] for size in (max, min))
        add("open_clean_ms", large["open_first_ms"])
        add("open_clean_small_ms", small["open_first_ms"])
        add("open_again_ms", large["open_again_ms"])
        add("memory_over_data", loaded.loc[loaded["size"] == loaded["size"].max(), "memory_over_data"])
    return found


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the figures with their intervals and what they mean."""
    return pd.DataFrame(common.figure_rows(figures(rows), spec.load("limits").figures))


def bounds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what bounds each operation: the floor, or the lower of memory and disk, and the share reached."""
    found = rates(rows, "batches")
    chosen = common.select(rows, part="batches")
    distance = {kind: chosen[f"{kind}_floor_distance"].mode()[0] for kind in ("get", "update")}
    disk_is_lower = (found["disk"] < found["update_batch"]).mean() > 0.5
    durable = f"disk ({chosen['disk_way'].mode()[0]})" if disk_is_lower else "memory: update_batch in mode none"
    named = {
        "get_batch": (f"floor at distance {distance['get']}", "get_floor"),
        "update_batch": (f"floor at distance {distance['update']}", "update_floor"),
        "sync": (durable, "bound"),
        "sync_blocking": (durable, "bound"),
    }
    return pd.DataFrame(
        [
            {
                "operation": NAMES[name],
                "M rows/s": found[name].median() / 1e6,
                "bounded by": text,
                "bound, M rows/s": found[bound].median() / 1e6,
                "share reached": (found[name] / found[bound]).median(),
            }
            for name, (text, bound) in named.items()
        ]
    )


def answer(found: dict[str, float]) -> str:
    """Return the answer in computed numbers."""
    return ANSWER.format_map(common.Said(found))


def headline(rows: pd.DataFrame) -> list[Panel]:
    """Return the figures of the summary; the notebook has the others."""
    return [throughput_panel(rows), latency_panel(rows)]


def throughput_panel(rows: pd.DataFrame) -> Panel:
    """Draw rows a second of engine, floors and disk."""
    found = rates(rows, "batches")
    shown = pd.DataFrame({"median of the rounds": found[list(NAMES)].median() / 1e6}).rename(index=NAMES)
    return plots.bars(shown, rows, title="Engine, floors and disk, batch by batch", xlabel="million rows a second")


def ratio_panel(rows: pd.DataFrame) -> Panel:
    """Draw the share of its bound that each operation reached in the course of a trial, whose rounds are cut in ten."""
    found = rates(rows, "batches").reset_index()
    stretch = found["round"] * _STRETCHES // (found["round"].max() + 1) + 1
    shares = [
        pd.DataFrame({"trial": found["trial"], "stretch": stretch, "share": found[top] / found[bottom]})
        .groupby(["trial", "stretch"], as_index=False)
        .median()
        .assign(name=NAMES[top])
        for name, top, bottom in _BATCHES
        if name != "get_prefetch_gain"
    ]
    shown = pd.concat(shares)
    shown.attrs = rows.attrs
    return plots.lines(
        shown, x="stretch", y="share", by="name", title="Share of the bound in the course of a trial",
        xlabel="tenth of the rounds", ylabel="share of the bound",
    )  # fmt: skip


def latency_panel(rows: pd.DataFrame) -> Panel:
    """Draw the percentile curves of a batch: engine, floors, durable engine."""
    chosen = common.select(rows, part="batches", round=0)
    found = common.merged(chosen, ["operation"])
    curves = {text: found[name,] for name, text in NAMES.items() if (name,) in found}
    return plots.percentiles(curves, rows, title="Latency of a batch")


def single_panel(rows: pd.DataFrame) -> Panel:
    """Draw the percentile curves of a single get, ours and LMDB's; each call is timed, which adds some 50 ns."""
    found = common.merged(common.select(rows, part="single", round=0), ["operation"])
    names = {"get": "get", "lmdb": "LMDB, a transaction each"}
    curves = {text: found[name,] for name, text in names.items() if (name,) in found}
    return plots.percentiles(curves, rows, title="Latency of a single get")


def distance_panel(rows: pd.DataFrame) -> Panel:
    """Draw the floors by prefetch distance, as tried before the rounds."""
    names = {"get_floor_choice": "get", "update_floor_choice": "update"}
    chosen = common.select(rows, part="batches")
    chosen = chosen[chosen["operation"].isin(names)]
    chosen = chosen.assign(distance=chosen["way"].astype(int), name=chosen["operation"].map(names))
    return plots.lines(
        chosen.sort_values("distance"), x="distance", y="rows_per_s", by="name", scale=1e-6, logx=True,
        title="The floors by prefetch distance", xlabel="prefetch distance (rows)", ylabel="million rows a second",
    )  # fmt: skip
