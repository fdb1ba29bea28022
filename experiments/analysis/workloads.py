"""Workloads: operations a second of each mix, one by one and in windows, and latencies of a trace at its own pace."""

from __future__ import annotations

from typing import Final

import pandas as pd

from experiments import plots
from experiments.analysis import common
from experiments.analysis.rivals import NAMES, OURS
from experiments.plots import Panel
from experiments.streams import MIXES

LABELS: Final = {name: name.replace("ycsb_", "YCSB ").upper() if "ycsb" in name else name for name in MIXES}
ANSWER: Final = """
In the largest windows the ledger makes {ycsb_a_mops} M operations a second of YCSB A [{ycsb_a_mops_lo},
{ycsb_a_mops_hi}], {ycsb_c_mops} M of C, {ycsb_f_mops} M of F and {transfer_mops} M transfers; one by one
{ycsb_a_single_kops}, {ycsb_c_single_kops}, {ycsb_f_single_kops} and {transfer_single_kops} thousand. Windows make it
{windows_over_single} times as fast [{windows_over_single_lo}, {windows_over_single_hi}]. A skewed choice of accounts is
{zipf_over_uniform} times as fast as an even one. Of our rate RocksDB makes {rocksdb_windows_over_ours} in windows
[{rocksdb_windows_over_ours_lo}, {rocksdb_windows_over_ours_hi}] and {rocksdb_single_over_ours} one by one
[{rocksdb_single_over_ours_lo}, {rocksdb_single_over_ours_hi}]. At its own pace half of the operations of the trace are
done {trace_p50_us} µs after they are due, 99 % within {trace_p99_us} µs.
"""


def rates(rows: pd.DataFrame, *, single: bool) -> pd.DataFrame:
    """Return operations a second one by one or in the largest windows; a trace at its own pace has no rate of ours."""
    found = common.select(rows, "all").astype({"rows_per_s": float})
    found = found[found["loop"] == "closed"]
    return found[found["batch_rows"] == (1 if single else found["batch_rows"].where(found["batch_rows"] > 1).max())]


def _table(rows: pd.DataFrame, *, single: bool) -> pd.DataFrame:
    """Return rates by repeat and workload, a column for each store."""
    return rates(rows, single=single).pivot_table("rows_per_s", ["repeat", "workload"], "store")


def figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of the summary, each with the ends of its 95 % interval."""
    found: dict[str, float] = {}
    tables = {end: _table(rows, single=end == "single") for end in ("windows", "single")}
    for (end, table), (unit, scale) in zip(tables.items(), (("mops", 1e-6), ("single_kops", 1e-3)), strict=True):
        if OURS not in table:
            continue
        for name in table.index.unique("workload"):
            common.add_interval(found, f"{name}_{unit}", table[OURS].xs(name, level="workload") * scale)
        for store in table.columns.drop(OURS):
            common.add_interval(found, f"{store}_{end}_over_ours", table[store] / table[OURS])
    if all(OURS in table for table in tables.values()):
        common.add_interval(found, "windows_over_single", tables["windows"][OURS] / tables["single"][OURS])
    if OURS in tables["windows"]:
        ours = tables["windows"][OURS].unstack()
        if {"ycsb_a", "uniform"} <= set(ours):
            common.add_interval(found, "zipf_over_uniform", ours["ycsb_a"] / ours["uniform"])
    return found | _trace_figures(rows)


def _trace_figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the latencies of the ledger under the trace, all repeats together."""
    chosen = common.select(rows, "all", workload="trace", store=OURS, loop="open", batch_rows=1)
    merged = common.merged(chosen, ["workload"]).get(("trace",)) if len(chosen) else None
    quantiles = {f"trace_{name}_us": merged and merged.quantile(q) for name, q in (("p50", 0.5), ("p99", 0.99))}
    return common.numbers({name: value / 1e3 if value else None for name, value in quantiles.items()})


def answer(found: dict[str, float]) -> str:
    """Return the answer in computed numbers."""
    return ANSWER.format_map(common.Said(found))


def headline(rows: pd.DataFrame) -> list[Panel]:
    """Return the figures of the summary; the notebook has the others."""
    return [panel for panel in (rate_panel(rows, single=False), rate_panel(rows, single=True)) if panel]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return medians and latencies of each cell as a whole."""
    factors, columns = ["workload", "store", "batch_rows"], ["rows_per_s", "operations_per_call", "store_share"]
    chosen = common.select(rows, "all")
    return common.table(chosen, ["loop", *factors], [name for name in columns if name in chosen]).drop(
        columns="operation"
    )


def kinds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the latencies of each kind of operation, where it was taken by itself."""
    chosen = common.select(rows)
    return common.table(chosen[chosen["operation"] != "all"], ["loop", "workload", "store", "batch_rows"], [])


def mixes() -> pd.DataFrame:
    """Return what each workload is."""
    shown = [{"workload": LABELS[name], "keys": mix.keys, "operations": mix.text} for name, mix in MIXES.items()]
    return pd.DataFrame([row for row in shown if row["workload"] != "mixed"])


def absent(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what was not measured, and why."""
    return common.not_applicable(rows, ["workload", "store", "batch_rows"]).drop_duplicates()


def rate_panel(rows: pd.DataFrame, *, single: bool) -> Panel | None:
    """Draw operations a second of each workload, a mark for each store."""
    found = rates(rows, single=single)
    if found.empty:
        return None
    shown = found.pivot_table("rows_per_s", "workload", "store", "median")
    shown = shown.reindex([name for name in MIXES if name in shown.index]).rename(index=LABELS, columns=NAMES)
    title = "One by one" if single else f"In windows of {int(found['batch_rows'].max()):,}"
    return plots.bars(shown, rows, title=title, xlabel="operations a second", log=True)


def trace_panel(rows: pd.DataFrame) -> Panel | None:
    """Draw the percentile curves of the trace at its own pace: each store, one by one and in windows."""
    chosen = common.select(rows, "all", workload="trace", loop="open")
    if chosen.empty:
        return None
    curves = {
        f"{NAMES.get(store, store)}, {'single' if size == 1 else f'{size:,}'}": histogram
        for (store, size), histogram in sorted(common.merged(chosen, ["store", "batch_rows"]).items())
    }
    return plots.percentiles(curves, rows, title="Operations of the trace, from when they were due")
