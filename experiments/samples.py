"""The times of a stored run, line by line, as two runs are compared by them.

A line is an operation in a cell. Its sample holds one time for each trial, a fresh process, as a logarithm; rounds
within one say nothing of the next, and count by their median.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from experiments import runs, spec
from experiments.errors import ParameterError

LABELS: Final = ("situation", "cache", "log_mib", "size")
"""Columns that tell rows of one operation apart where they are no factors."""
OURS: Final = {"store": "ledger"}
"""Levels that are the engine, of factors whose other levels are not and are nobody's regression."""
_METRICS: Final = ("rows_per_s", "open_ms", "read_ms", "latency_ns_p50")
_EFFORT: Final = {"rows_per_trial", "calls_min", "calls_max", "disk_calls_max", "rounds", "openings"}
"""Parameters that say how long something is measured, and not what."""
_CALLS_MIN: Final = 3
"""A rate of fewer calls is that of the first ones."""


def changed_parameters(a: Mapping[str, Any], b: Mapping[str, Any], name: str) -> list[str]:
    """Return the parameters, known to both runs, that make rows of equal levels mean something else."""
    left, right = (facts["experiments"][name]["parameters"] for facts in (a, b))
    levels = {key for key in left if isinstance(left[key], list) and key not in _workload_names(name)}
    known = (left.keys() & right.keys()) - levels - _EFFORT - spec.RUN_PARAMETERS.keys()
    return sorted(key for key in known if left[key] != right[key])


def load(run_id: str, name: str) -> pd.Series:
    """Return for each line of an experiment the logarithms of its times, one of each trial (a list a line)."""
    rows = runs.load(run_id, name)
    rows = rows[(rows["status"] == "ok") & rows["operation"].notna()].sort_values("cell", kind="stable")
    rows = rows[~rows["operation"].str.endswith("_choice") & (rows["at_s"].isna() if "at_s" in rows else True)]
    factors = runs.manifest(run_id)["experiments"][name]["factors"]
    for factor in OURS.keys() & set(factors):
        rows = rows[rows[factor] == OURS[factor]]
    keys = [*factors, *(label for label in LABELS if label in rows and label not in factors)]
    times = _times(rows).assign(**{key: rows[key].astype(object).where(rows[key].notna(), None) for key in keys})
    times = times.assign(trial=rows["trial"], round=rows["round"] if "round" in rows else 0)
    times = times.dropna(subset=["time"])
    if times.empty:
        return pd.Series(dtype=object)
    times = _over_references(times, name)
    times["line"] = [tuple(zip(keys, levels, strict=True)) for levels in times[keys].itertuples(index=False, name=None)]
    by = ["operation", "metric", "line"]
    return times.groupby([*by, "trial"], sort=False)["time"].median().groupby(by, sort=False).agg(list)


def _times(rows: pd.DataFrame) -> pd.DataFrame:
    """Return operation, time (as a logarithm) and the name of what was timed: the first metric that a row has."""
    found = pd.DataFrame({"operation": rows["operation"], "metric": None, "time": np.nan}, dtype=object)
    found["time"] = np.nan
    if "calls" in rows:
        rows = rows[~(rows["calls"].astype(float) < _CALLS_MIN)]
    for metric in _METRICS:
        if metric in rows:
            number = rows[metric].astype(float)
            new = found.index.isin(number.index[number > 0]) & found["metric"].isna()
            found.loc[new, "metric"] = "ns_per_row" if metric == "rows_per_s" else metric
            found.loc[new, "time"] = (
                math.log(1e9) - np.log(number[new]) if metric == "rows_per_s" else np.log(number[new])
            )
    return found


def _over_references(times: pd.DataFrame, name: str) -> pd.DataFrame:
    """Divide by the reference of the same trial and round where the spec names one; references are no lines."""
    try:
        references = spec.load(name).references
    except ParameterError:
        references = {}  # somebody else's experiment: its times stand as they are
    place = ["trial", "round"]
    for operation, reference in references.items():
        other = times.loc[times["operation"] == reference].groupby(place)["time"].median()
        mine = times["operation"] == operation
        base = other.reindex(pd.MultiIndex.from_frame(times.loc[mine, place])).to_numpy()
        has = mine.copy()
        has[mine] = ~np.isnan(base)
        times.loc[has, "time"] -= base[~np.isnan(base)]
        times.loc[has, "metric"] += f" over {reference}"
    return times[~times["operation"].isin(references.values())].copy()


def _workload_names(name: str) -> set[str]:
    """Return the workload parameters, which may be lists and are no levels."""
    try:
        return set(spec.load(name).workload["smoke"])
    except ParameterError:
        return set()
