"""Durability: latency of an acknowledged batch by mode, beside the disk's own time."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from experiments import plots
from experiments.analysis import common
from experiments.plots import Panel

FACTORS: Final = ("durability", "storage", "batch_rows", "arrival_calls_per_s")
COLUMNS: Final = ("rows_per_s", "bytes_written_per_row", "cpu_ns_per_row", "over_disk")
ANSWER: Final = """
A durable single update takes {sync_single_p50_us} µs (median; 99th percentile {sync_single_p99_us} µs), the bare
disk {disk_single_p50_us} µs for the same write. In the largest batch `sync` makes {sync_batch_mops} M updates a second
durable, `none` applies {none_batch_mops} M: durability takes {sync_over_none} times the time, which is
{sync_over_disk} times the disk's own time for the same bytes. `async` takes {async_over_none} times as long as `none`,
`msync` {msync_over_control} times its control on shared memory. `sync` writes {sync_bytes_per_update} B for each
update, `msync` {msync_bytes_per_update} B.
"""


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return medians of throughput, bytes, CPU time and latencies of each cell; the bare disk beside them."""
    return common.table(rows, FACTORS, COLUMNS)


def figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of the summary."""
    batches = sorted(common.select(rows)["batch_rows"].unique())
    single, large = batches[0], batches[-1]

    def at(column: str, mode: str, batch: int, operation: str = "update", storage: str = "private") -> float | None:
        levels: dict[str, Any] = {
            "durability": mode,
            "batch_rows": batch,
            "storage": storage,
            "arrival_calls_per_s": 0.0,
        }
        return common.median(rows, column, operation, **levels)

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
    return [throughput_panel(rows), latency_panel(rows, min(common.select(rows)["batch_rows"]))]


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


def latency_panel(rows: pd.DataFrame, batch_rows: int) -> Panel:
    """Draw the percentile curves of an acknowledged batch, a curve for each mode, and the bare disk."""
    chosen = _named(rows, ["update", "disk"], batch_rows=batch_rows)
    curves = {str(key[0]): histogram for key, histogram in common.merged(chosen, ["mode"]).items()}
    words = "1 update" if batch_rows == 1 else f"{batch_rows:,} updates"
    return plots.percentiles(curves, rows, title=f"Latency of an acknowledged batch of {words}")


def cost_panel(rows: pd.DataFrame, column: str, label: str, title: str) -> Panel:
    """Draw what an update costs against batch size, a line for each mode."""
    chosen = _named(rows, ["update"])
    chosen = chosen[chosen[column].astype(float) > 0]
    return plots.lines(
        chosen, x="batch_rows", y=column, by="mode", logx=True, logy=True, title=f"{title} by batch size",
        xlabel="updates of one batch", ylabel=label,
    )  # fmt: skip


def open_loop_panel(rows: pd.DataFrame) -> Panel | None:
    """Draw closed beside open loop for single durable updates: what waiting calls add."""
    chosen = common.select(rows, "update", durability=["sync", "async"], batch_rows=1)
    if chosen.empty or chosen["arrival_calls_per_s"].nunique() < 2:
        return None
    curves = {}
    for (mode, rate), histogram in sorted(common.merged(chosen, ["durability", "arrival_calls_per_s"]).items()):
        curves[f"{mode}, {'closed' if rate == 0 else f'{rate:g}/s'}"] = histogram
    return plots.percentiles(curves, rows, title="Single updates: closed loop and a set arrival rate")


def _named(rows: pd.DataFrame, operations: list[str], **levels: Any) -> pd.DataFrame:
    """Return the rows of the closed loop with the mode as people call it, in a steady order."""
    chosen = common.select(rows, **levels, arrival_calls_per_s=0.0)
    chosen = chosen[chosen["operation"].isin(operations)]
    mode = chosen["durability"].where(chosen["storage"] == "private", chosen["durability"] + ", " + chosen["storage"])
    mode = mode.replace({"msync, shared": "msync"}).where(chosen["operation"] != "disk", "bare disk")
    order = [
        "none",
        "none, memory",
        "none, shared",
        "msync",
        "async",
        "async, memory",
        "sync",
        "sync, memory",
        "bare disk",
    ]
    return chosen.assign(mode=pd.Categorical(mode, order)).sort_values("mode").astype({"mode": str})
