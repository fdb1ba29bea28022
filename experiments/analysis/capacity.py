"""Capacity: throughput by size and load, probe distances beside Knuth's."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from experiments import machine, plots, runs
from experiments.analysis import common, probing
from experiments.plots import Panel

FACTORS: Final = ("accounts", "load_factor")
COLUMNS: Final = ("rows_per_s", "got_load_factor", "cpu_ns_per_row")
ANSWER: Final = """
At the largest size and least load: {insert_mops} M inserts, {update_mops} M updates, {get_hit_mops} M hits and
{get_miss_mops} M misses a second. At the greatest load factor there are {get_hit_full_over_half:effect} as many hits
a second and {get_miss_full_over_half:effect} as many misses; the smallest ledger answers
{get_hit_small_over_large:effect} as many hits. Mean probes are {probes_hit_over_expected:.3f} of Knuth's for hits and
{probes_miss_over_expected:.3f} for misses in the worst cell, and the distribution of a hit is within
{probe_distance_ks:.4f} of the expected one.
"""
_OPERATIONS: Final = {"insert": "insert", "update": "update", "get_hit": "get, hit", "get_miss": "get, miss"}
_RECORD_BYTES: Final = 128


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return medians of throughput and latencies of each cell."""
    return common.table(rows, FACTORS, COLUMNS)


def probes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return measured and expected probes of each cell, at the load that it really had."""
    hits, misses = (_shares(rows, operation) for operation in ("get_hit", "get_miss"))
    found = []
    cells = common.select(rows, "get_hit").groupby(list(FACTORS))
    for key, cell in cells:
        load = float(cell["got_load_factor"].median())
        hit, miss = float(cell["probes_hit_mean"].median()), float(cell["probes_miss_mean"].median())
        found.append(
            {
                "accounts": key[0],
                "load_factor": key[1],
                "load got": load,
                "probes hit": hit,
                "Knuth hit": probing.knuth_hit(load),
                "probes miss": miss,
                "Knuth miss": probing.knuth_miss(load),
                "KS hit": probing.ks_distance(hits[key], probing.hit_distribution(load)),
                "KS miss": probing.ks_distance(misses[key], probing.miss_distribution(load)),
            }
        )
    return pd.DataFrame(found)


@common.repeated
def figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of the summary."""
    accounts = sorted(common.select(rows)["accounts"].unique())
    loads = sorted(common.select(rows)["load_factor"].unique())
    most = {"accounts": accounts[-1], "load_factor": loads[0]}
    found: dict[str, float | None] = {}
    for operation in _OPERATIONS:
        speed = common.median(rows, "rows_per_s", operation, **most)
        found[f"{operation}_mops"] = None if speed is None else speed / 1e6
    for operation in ("get_hit", "get_miss"):
        full = common.median(rows, "rows_per_s", operation, accounts=accounts[-1], load_factor=loads[-1])
        found[f"{operation}_full_over_half"] = common.ratio(full, common.median(rows, "rows_per_s", operation, **most))
    small = common.median(rows, "rows_per_s", "get_hit", accounts=accounts[0], load_factor=loads[0])
    found["get_hit_small_over_large"] = common.ratio(small, common.median(rows, "rows_per_s", "get_hit", **most))
    depth = probes(rows)
    large = depth[depth["accounts"] >= min(100_000, accounts[-1])]
    found["probes_hit_over_expected"] = _worst(large["probes hit"] / large["Knuth hit"])
    found["probes_miss_over_expected"] = _worst(large["probes miss"] / large["Knuth miss"])
    found["probe_distance_ks"] = float(large["KS hit"].max())
    return common.numbers(found)


def answer(found: dict[str, float]) -> str:
    """Return the answer in computed numbers."""
    return ANSWER.format_map(common.Said(found))


def headline(rows: pd.DataFrame) -> list[Panel]:
    """Return the figures of the summary; the notebook has the others."""
    return [probe_panel(rows, "get_hit"), size_panel(rows)]


def probe_panel(rows: pd.DataFrame, operation: str) -> Panel:
    """Draw the distribution of probe distances at the largest size beside the expected one."""
    accounts = max(common.select(rows)["accounts"])
    shares = _shares(rows, operation)
    expected = probing.hit_distribution if operation == "get_hit" else probing.miss_distribution
    curves = {}
    for load in sorted({key[1] for key in shares if key[0] == accounts}):
        real = common.median(rows, "got_load_factor", operation, accounts=accounts, load_factor=load)
        assert real is not None
        curves[f"load {real:.2f}"] = (shares[(accounts, load)], expected(real))
    name = "Probes of a hit" if operation == "get_hit" else "Probes of a miss"
    title = f"{name}, {accounts:,} accounts (lines: expected)"
    return plots.distribution(curves, rows, title=title, xlabel="probes (1 is the home position)")


def size_panel(rows: pd.DataFrame) -> Panel:
    """Draw throughput against size at the least load, with the ends of caches and TLB."""
    load = min(common.select(rows)["load_factor"])
    return plots.lines(
        _named(rows, load_factor=load),
        x="accounts",
        y="rows_per_s",
        by="operation",
        scale=1e-6,
        logx=True,
        title=f"Throughput by size, load factor {load:g}",
        xlabel="accounts",
        ylabel="million rows a second",
        marks=marks(rows, load),
    )


def load_panel(rows: pd.DataFrame) -> Panel:
    """Draw throughput against load factor at the largest size."""
    accounts = max(common.select(rows)["accounts"])
    return plots.lines(
        _named(rows, accounts=accounts),
        x="load_factor",
        y="rows_per_s",
        by="operation",
        scale=1e-6,
        title=f"Throughput by load factor, {accounts:,} accounts",
        xlabel="load factor of a full ledger",
        ylabel="million rows a second",
    )


def latency_panel(rows: pd.DataFrame) -> Panel:
    """Draw the percentile curves of the four operations at the largest size, all loads together."""
    accounts = max(common.select(rows)["accounts"])
    found = common.merged(common.select(rows, accounts=accounts), ["operation"])
    curves = {_OPERATIONS[key[0]]: histogram for key, histogram in found.items()}
    return plots.percentiles(curves, rows, title=f"Latency of a batch, {accounts:,} accounts, all load factors")


def marks(rows: pd.DataFrame, load: float) -> dict[str, float]:
    """Return the number of accounts at which each cache level, and the TLB's reach, is full."""
    cpu = runs.manifest(rows.attrs["run_id"])["machine"]["cpu"]
    account_bytes = _RECORD_BYTES + 8 / load
    found = {f"{name} full": size / account_bytes for name, size in cpu["caches"].items()}
    if cpu.get("tlb_entries_4k"):
        reach = cpu["tlb_entries_4k"] * 4096
        found[f"TLB reach {machine.size_words(reach)}"] = reach / account_bytes
    return found


def _named(rows: pd.DataFrame, **levels: object) -> pd.DataFrame:
    """Return the chosen rows with operations as people call them."""
    chosen = common.select(rows, **levels)
    return chosen.assign(operation=chosen["operation"].map(_OPERATIONS))


def _shares(rows: pd.DataFrame, operation: str) -> dict[tuple[object, ...], np.ndarray]:
    """Return the share of each probe distance for every cell."""
    found = common.merged(common.select(rows, operation), FACTORS, kind="probe_distance")
    return {key: h.counts[: probing.BUCKETS] / max(1, h.n) for key, h in found.items()}


def _worst(ratios: pd.Series) -> float:
    """Return the ratio farthest from 1."""
    return float(ratios.iloc[int(np.abs(ratios.to_numpy() - 1).argmax())])
