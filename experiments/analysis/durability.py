"""Durability: latency of an acknowledged batch by mode, beside the disk's own time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import pandas as pd

from experiments import plots
from experiments.analysis import common
from experiments.plots import Panel

FACTORS: Final = ("durability", "storage", "batch_rows", "arrival_calls_per_s")
COLUMNS: Final = ("rows_per_s", "bytes_written_per_row", "cpu_ns_per_row", "over_disk", "checkpoints")
ANSWER: Final = """
A durable single update takes {sync_single_p50_us} µs (median; 99th percentile {sync_single_p99_us} µs), the bare disk
{disk_single_p50_us} µs for the same write. In the largest batch `sync` makes {sync_batch_mops} M updates a second
durable, `none` applies {none_batch_mops} M: a durable batch takes {sync_over_none:effect} as long, and
{sync_over_disk:effect} as long as the disk alone for the same bytes. `async` takes {async_over_none:effect} as long
as `none`, `msync` {msync_over_control:effect} as long as its control on shared memory. `sync` writes
{sync_bytes_per_update} B for each update, `msync` {msync_bytes_per_update} B. The most threads with single updates
make {group_gain:effect} as many a second as one thread, with a median of {group_single_p50_us} µs; one thread that
hands small batches over makes {submit_over_blocking:effect} as many updates as one that waits for each. The 99th
percentile of calls beside a checkpoint is {checkpoint_p99_ratio:effect} that of the others.
"""
_BESIDE: Final = ("beside_checkpoints", "between_checkpoints")


def _of(part: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Have a panel or table be None where its part was not measured."""

    def wrap(make: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(make)
        def made(rows: pd.DataFrame, *arguments: Any) -> Any:
            return None if _part(rows, part).empty else make(rows, *arguments)

        return made

    return wrap


@_of("modes")
def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return medians of throughput, bytes, CPU time and latencies of each cell; the bare disk beside them."""
    return common.table(_part(rows, "modes"), FACTORS, COLUMNS)


@_of("group")
def group_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what threads with small batches of their own came to."""
    columns = ("rows_per_s", "batches_per_frame", "checkpoints")
    chosen = _part(rows, "group")
    return common.table(chosen, ("batch_rows", "callers"), columns).drop(columns="operation")


@_of("submit")
def submit_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what one thread came to that waited for each small batch, or handed all over: medians of the rounds."""
    columns = ["operation", "batch_rows", "rows_per_s", "cpu_ns_per_row", "checkpoints"]
    return _part(rows, "submit")[columns].groupby("operation", as_index=False).median()


@_of("checkpoints")
def beside_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the latencies of calls beside checkpoints and of the others."""
    chosen = _part(rows, "checkpoints")
    chosen = chosen[chosen["operation"].isin(_BESIDE)]
    return common.table(chosen, ("batch_rows", "arrival_calls_per_s"), ("checkpoints",))


def over_none(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the time of a batch in each mode over that of none in the same repeat, msync over none on shared."""
    chosen = common.select(_part(rows, "modes"), "update", arrival_calls_per_s=0.0)
    speed = chosen.pivot_table("rows_per_s", ["repeat", "batch_rows"], ["durability", "storage"]).astype(float)
    ratios = {
        f"{mode}, memory" if storage == "memory" else mode: speed["none", storage] / speed[mode, storage]
        for mode, storage in speed
        if mode != "none"
    }
    found = pd.DataFrame(ratios).melt(ignore_index=False, var_name="mode", value_name="over_none").reset_index()
    found.attrs = rows.attrs
    return found.dropna(subset="over_none")


@common.repeated
def figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of the summary, of the parts that were measured."""
    makers = {
        "modes": _mode_figures,
        "group": _group_figures,
        "submit": _submit_figures,
        "checkpoints": _beside_figures,
    }
    found: dict[str, float] = {}
    for part, make in makers.items():
        if not _part(rows, part).empty:
            found |= make(rows)
    return found


def _mode_figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the figures of the modes."""
    modes = _part(rows, "modes")
    batches = sorted(modes["batch_rows"].unique())
    single, large = batches[0], batches[-1]

    def at(column: str, mode: str, batch: int, operation: str = "update", storage: str = "private") -> float | None:
        levels: dict[str, Any] = {
            "durability": mode,
            "batch_rows": batch,
            "storage": storage,
            "arrival_calls_per_s": 0.0,
        }
        return common.median(modes, column, operation, **levels)

    def micro(column: str, operation: str) -> float | None:
        value = at(column, "sync", single, operation)
        return None if value is None else value / 1e3

    none, sync = at("rows_per_s", "none", large), at("rows_per_s", "sync", large)
    control = at("rows_per_s", "none", large, storage="shared")
    found = {
        "sync_single_p50_us": micro("latency_ns_p50", "update"),
        "sync_single_p99_us": micro("latency_ns_p99", "update"),
        "disk_single_p50_us": micro("latency_ns_p50", "disk"),
        "sync_batch_mops": None if sync is None else sync / 1e6,
        "none_batch_mops": None if none is None else none / 1e6,
        "sync_over_none": common.ratio(none, sync),
        "async_over_none": common.ratio(none, at("rows_per_s", "async", large)),
        "msync_over_control": common.ratio(control, at("rows_per_s", "msync", large, storage="shared")),
        "sync_over_disk": at("over_disk", "sync", large),
        "sync_single_over_none": common.ratio(at("rows_per_s", "none", single), at("rows_per_s", "sync", single)),
        "async_single_over_none": common.ratio(at("rows_per_s", "none", single), at("rows_per_s", "async", single)),
        "sync_bytes_per_update": at("bytes_written_per_row", "sync", large),
        "msync_bytes_per_update": at("bytes_written_per_row", "msync", large, storage="shared"),
        "sync_cpu_ns_per_update": at("cpu_ns_per_row", "sync", large),
    }
    return common.numbers(found)


def answer(found: dict[str, float]) -> str:
    """Return the answer in computed numbers."""
    return ANSWER.format_map(common.Said(found))


def headline(rows: pd.DataFrame) -> list[Panel]:
    """Return the figures of the summary; the notebook has the others."""
    return [panel for panel in (throughput_panel(rows), group_panel(rows)) if panel]


@_of("modes")
def throughput_panel(rows: pd.DataFrame) -> Panel:
    """Draw updates a second against batch size, a line for each mode, and the bare disk."""
    return plots.lines(
        _named(rows, ["update", "disk"]),
        x="batch_rows",
        y="rows_per_s",
        by="mode",
        logx=True,
        logy=True,
        title="Updates a second by batch size",
        xlabel="updates of one batch",
        ylabel="updates a second",
    )


@_of("modes")
def over_none_panel(rows: pd.DataFrame) -> Panel:
    """Draw what each mode costs against batch size, as a ratio to none."""
    return plots.lines(
        over_none(rows), x="batch_rows", y="over_none", by="mode", logx=True, logy=True,
        title="Time of a batch over that of none", xlabel="updates of one batch", ylabel="times as long as none",
    )  # fmt: skip


@_of("group")
def group_panel(rows: pd.DataFrame) -> Panel:
    """Draw durable updates a second against the number of threads, a line for each batch size."""
    chosen = _part(rows, "group")
    names = chosen["batch_rows"].map(lambda rows: "1 row" if rows == 1 else f"{rows:,} rows")
    return plots.lines(
        chosen.assign(name=names).sort_values(["batch_rows", "callers"]), x="callers", y="rows_per_s", by="name",
        logx=True, logy=True, title="Durable updates of threads with small batches", xlabel="threads",
        ylabel="updates a second",
    )  # fmt: skip


@_of("checkpoints")
def checkpoint_panel(rows: pd.DataFrame) -> Panel:
    """Draw latency against time in one trial, with the checkpoints that were taken meanwhile."""
    chosen = _part(rows, "checkpoints")
    chosen = chosen[chosen["trial"] == chosen["trial"].min()]
    window = chosen[chosen["operation"] == "window"].set_index("at_s")
    spans = chosen.loc[chosen["operation"] == "checkpoint", ["at_s", "until_s"]]
    named = {"longest": window["latency_ns_max"] / 1e3, "median": window["latency_ns_p50"] / 1e3}
    return plots.timeline(
        named, rows, spans=list(spans.itertuples(index=False, name=None)), title="Calls beside checkpoints (shaded)",
        ylabel="latency in a window (µs)",
    )  # fmt: skip


@_of("modes")
def latency_panel(rows: pd.DataFrame, pick: Callable[[pd.Series], int]) -> Panel:
    """Draw the percentile curves of a batch of the least or greatest size, for each mode and the bare disk."""
    batch_rows = pick(_part(rows, "modes")["batch_rows"])
    chosen = _named(rows, ["update", "disk"], batch_rows=batch_rows)
    curves = {str(key[0]): histogram for key, histogram in common.merged(chosen, ["mode"]).items()}
    words = "1 update" if batch_rows == 1 else f"{batch_rows:,} updates"
    return plots.percentiles(curves, rows, title=f"Latency of an acknowledged batch of {words}")


@_of("modes")
def cost_panel(rows: pd.DataFrame, column: str, label: str, title: str) -> Panel:
    """Draw what an update costs against batch size, a line for each mode."""
    chosen = _named(rows, ["update"])
    chosen = chosen[chosen[column].astype(float) > 0]
    return plots.lines(
        chosen, x="batch_rows", y=column, by="mode", logx=True, logy=True, title=f"{title} by batch size",
        xlabel="updates of one batch", ylabel=label,
    )  # fmt: skip


@_of("modes")
def open_loop_panel(rows: pd.DataFrame) -> Panel | None:
    """Draw closed beside open loop for single durable updates: what waiting calls add."""
    chosen = common.select(_part(rows, "modes"), "update", durability=["sync", "async"], batch_rows=1)
    if chosen.empty or chosen["arrival_calls_per_s"].nunique() < 2:
        return None
    curves = {}
    for (mode, rate), histogram in sorted(common.merged(chosen, ["durability", "arrival_calls_per_s"]).items()):
        curves[f"{mode}, {'closed' if rate == 0 else f'{rate:g}/s'}"] = histogram
    return plots.percentiles(curves, rows, title="Single updates: closed loop and a set arrival rate")


def _named(rows: pd.DataFrame, operations: list[str], **levels: Any) -> pd.DataFrame:
    """Return the rows of the closed loop with the mode as people call it, in a steady order."""
    chosen = common.select(_part(rows, "modes"), **levels, arrival_calls_per_s=0.0)
    chosen = chosen[chosen["operation"].isin(operations)]
    mode = chosen["durability"].where(chosen["storage"] == "private", chosen["durability"] + ", " + chosen["storage"])
    mode = mode.replace({"msync, shared": "msync"}).where(chosen["operation"] != "disk", "bare disk")
    order = [
        "none", "none, memory", "none, shared", "msync", "async", "async, memory", "sync", "sync, memory", "bare disk",
    ]  # fmt: skip
    return chosen.assign(mode=pd.Categorical(mode, order)).sort_values("mode").astype({"mode": str})


def _part(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    """Return the measured rows of a part; runs from before there were parts hold modes only."""
    chosen = common.select(rows)
    return chosen[chosen["part"] == part] if "part" in chosen else chosen[: len(chosen) if part == "modes" else 0]


def _group_figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the figures of threads with single updates."""
    found: dict[str, float] = {}
    chosen = _part(rows, "group")
    chosen = chosen[chosen["batch_rows"] == chosen["batch_rows"].min()].astype({"callers": int})
    speed = chosen.pivot_table("rows_per_s", "repeat", "callers").astype(float)
    common.add_interval(found, "group_gain", speed[speed.columns.max()] / speed[speed.columns.min()])
    merged = common.merged(chosen[chosen["callers"] == chosen["callers"].max()], ["part"])
    for name, q in (("p50", 0.5), ("p99", 0.99)):
        value = merged["group",].quantile(q)
        found |= common.numbers({f"group_single_{name}_us": None if value is None else value / 1e3})
    return found


def _submit_figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the ratio of handing over to waiting, made within a round."""
    found: dict[str, float] = {}
    speed = _part(rows, "submit").pivot_table("rows_per_s", ["trial", "round"], "operation").astype(float)
    common.add_interval(found, "submit_over_blocking", speed["submit"] / speed["blocking"])
    return found


def _beside_figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the figures of calls beside checkpoints, all repeats together."""
    merged = common.merged(_part(rows, "checkpoints"), ["operation"])
    beside, between = (merged[name,].quantile(0.99) if (name,) in merged else None for name in _BESIDE)
    ratio = common.ratio(beside, between)
    return common.numbers({"checkpoint_p99_ratio": ratio, "checkpoint_p99_us": beside and beside / 1e3})
