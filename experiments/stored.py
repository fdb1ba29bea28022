"""Stored runs as tables with small pictures: all of them, and one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from experiments import runs
from experiments.measure import BITS, BUCKETS, Histogram, bucket_edges
from experiments.tables import Table
from ledger.pictures import Bars

_QUARTERS: int = 1 << BITS - 2  # buckets of a quarter of an octave


def all_runs() -> Table:
    """Return one row a stored run, the newest first."""
    found = []
    for facts in sorted(map(_manifest, runs.ids()), key=lambda facts: facts["started"], reverse=True):
        row = {name: facts.get(name) for name in ("id", "profile", "state", "trials", "failed")}
        found.append({**row, "started": facts["started"][:19], "noise": (facts.get("noise") or {}).get("words")})
    return Table(found, "stored runs")


def one_run(run_id: str) -> Table:
    """Return one row for each operation of each experiment of a run: speed by cell, and latency.

    Raises
    ------
    RunNotFoundError
        There is no such run.
    """
    facts = runs.manifest(run_id)
    found = []
    for experiment in measured(run_id):
        rows = runs.load(run_id, experiment)
        rows = rows[rows["status"] == "ok"]
        histograms = runs.histograms(rows)
        found += [
            {"experiment": experiment, "operation": operation} | _operation(group, histograms)
            for operation, group in rows.groupby("operation", sort=False)
        ]
    return Table(found, f"run {facts['id']}: {facts['state']}, {facts.get('failed', 0)} failed")


def measured(run_id: str) -> list[str]:
    """Return the experiments of a run that have a row which was measured."""
    table = pq.read_table(runs.find(run_id) / "rows.parquet")
    if not {"experiment", "status"} <= set(table.column_names):
        return []
    there = table.filter(pc.equal(table["status"], "ok"))["experiment"]
    return [name for name in runs.manifest(run_id)["experiments"] if name in set(there.unique().to_pylist())]


def _operation(rows: pd.DataFrame, histograms: dict[tuple[int, str], Histogram]) -> dict[str, Any]:
    """Return what is told of one operation."""
    merged = Histogram()
    for trial, operation in zip(rows["trial"], rows["operation"], strict=True):
        if (int(trial), operation) in histograms:
            merged.merge(histograms[int(trial), operation])
    found: dict[str, Any] = {"rows": len(rows)}
    if "rows_per_s" in rows and rows["rows_per_s"].notna().any():
        cells = rows.groupby("cell")["rows_per_s"].median().dropna().astype(float)
        found |= {"rows/s": float(cells.median()), "by cell": Bars(list(cells), f"rows/s of {len(cells)} cells")}
    if merged.n:
        p50, p99 = (None if (ns := merged.quantile(q)) is None else ns / 1e3 for q in (0.5, 0.99))
        found |= {"p50 µs": p50, "p99 µs": p99, "latency": latency_bars(merged)}
    return found


def latency_bars(histogram: Histogram) -> Bars:
    """Return a histogram as a picture, a bar a quarter of an octave, from the least to the greatest."""
    counts = np.add.reduceat(histogram.counts, np.arange(0, BUCKETS, _QUARTERS))
    there = np.flatnonzero(counts)
    first, last = int(there[0]), int(there[-1]) + 1
    low, _ = bucket_edges(np.array([first, last]) * _QUARTERS)
    return Bars(counts[first:last].tolist(), f"calls by latency, {low[0] / 1e3:.3g} to {low[1] / 1e3:.3g} µs")


def _manifest(run_id: str) -> dict[str, Any]:
    """Return a run's manifest; one that cannot be read is a run of unknown state."""
    try:
        return runs.manifest(run_id)
    except (ValueError, OSError) as error:
        return {"id": run_id, "started": "", "state": f"cannot be read: {error}"}
