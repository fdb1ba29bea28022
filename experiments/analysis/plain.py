"""The analysis of a spec that names none: medians of each cell, throughput against the first factor."""

from __future__ import annotations

import pandas as pd

from experiments import plots, runs
from experiments.analysis import common
from experiments.plots import Panel


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return medians and latencies of each cell."""
    return common.table(rows, _factors(rows), ("rows_per_s", "cpu_ns_per_row", "bytes_written_per_row"))


@common.repeated
def figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the median throughput of each operation over all cells."""
    found = common.select(rows)["operation"].unique()
    return common.numbers({f"{name}_rows_per_s": common.median(rows, "rows_per_s", name) for name in found})


def answer(found: dict[str, float]) -> str:
    """Return the figures in words."""
    return "Medians over all cells: " + ", ".join(f"{name} {value:.3g}" for name, value in found.items()) + "."


def headline(rows: pd.DataFrame) -> list[Panel]:
    """Return throughput against the first factor, where it is a number."""
    first = _factors(rows)[0]
    chosen = common.select(rows).dropna(subset=["rows_per_s"])
    if not pd.api.types.is_numeric_dtype(chosen[first]):
        return []
    return [
        plots.lines(
            chosen,
            x=first,
            y="rows_per_s",
            by="operation",
            title=f"Throughput by {first}",
            xlabel=first,
            ylabel="rows a second",
        )
    ]


def _factors(rows: pd.DataFrame) -> list[str]:
    """Return the factors of the rows' experiment."""
    return list(runs.manifest(rows.attrs["run_id"])["experiments"][rows.attrs["experiment"]]["factors"])
