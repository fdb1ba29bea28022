"""What the analyses share: choosing rows, medians over repeats, merged histograms."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments import runs, stats
from experiments.measure import Histogram
from experiments.tables import format_cell

ENDS = ("_lo", "_hi")
"""What a figure's name is followed by in the names of the ends of its interval."""
LATENCY = ("p50", "p90", "p99", "p99_9", "p99_99", "max")


def select(rows: pd.DataFrame, operation: str | None = None, **levels: Any) -> pd.DataFrame:
    """Return the measured rows of an operation at some levels; a list of levels takes any of them."""
    chosen = rows[rows["status"] == "ok"]
    if operation is not None:
        chosen = chosen[chosen["operation"] == operation]
    for name, level in levels.items():
        chosen = chosen[chosen[name].isin(level if isinstance(level, list) else [level])]
    return chosen


def median(rows: pd.DataFrame, column: str, operation: str | None = None, **levels: Any) -> float | None:
    """Return the median of a column over the chosen rows, None where nothing was measured."""
    chosen = select(rows, operation, **levels)
    if column not in chosen or chosen[column].dropna().empty:
        return None
    return float(chosen[column].astype(float).median())


def add_interval(found: dict[str, float], name: str, values: Any) -> None:
    """Add the median of some values, and the ends of its 95 % interval, to the figures; nothing if there are none."""
    sample = np.asarray(values, float)
    sample = sample[np.isfinite(sample)]
    if sample.size:
        found[name], low, high = stats.median_interval(sample)
        if sample.size > 1:
            found |= {name + ENDS[0]: low, name + ENDS[1]: high}


def add_effect(found: dict[str, float], name: str, top: pd.Series, bottom: pd.Series, **how: Any) -> None:
    """Add the ratio of two levels, repeat by repeat, and the ends of its interval (see `stats.effect`)."""
    shown = stats.effect(*top.astype(float).align(bottom.astype(float), join="inner"), **how)
    found[name] = shown.ratio
    if not math.isnan(shown.lo):
        found |= {name + ENDS[0]: shown.lo, name + ENDS[1]: shown.hi}


def repeated(make: Callable[[pd.DataFrame], dict[str, float]]) -> Callable[[pd.DataFrame], dict[str, float]]:
    """Have each figure that `make` gives come with the interval that its values of the single repeats make.

    A ratio of two levels is so made of pairs, each within one repeat. Only repeats count that measured every cell;
    figures that come with ends of their own keep them. The interval is that of the median of the repeats, and as wide
    as to hold the figure, which is of all repeats together.
    """

    @functools.wraps(make)
    def figures(rows: pd.DataFrame) -> dict[str, float]:
        found = make(rows)
        groups = [group for _, group in select(rows).groupby("repeat")]
        cells = [set(zip(group["cell"], group["operation"], strict=True)) for group in groups]
        whole = [group for group, its in zip(groups, cells, strict=True) if its == set().union(*cells)]
        each: list[dict[str, float]] = []
        for group in whole if len(whole) > 1 else ():
            group.attrs = rows.attrs
            each.append(make(group))
        for name in [name for name in found if not name.endswith(ENDS) and name + ENDS[0] not in found]:
            sample = [one[name] for one in each if name in one]
            if len(sample) > 1:
                _, low, high = stats.median_interval(sample)
                found |= {name + ENDS[0]: min(low, found[name]), name + ENDS[1]: max(high, found[name])}
        return found

    return figures


def ratio(top: float | None, bottom: float | None) -> float | None:
    """Return top / bottom, None where either is missing."""
    return None if top is None or bottom is None or bottom == 0 else top / bottom


def merged(rows: pd.DataFrame, by: Sequence[str], kind: str = "latency") -> dict[tuple[Any, ...], Histogram]:
    """Return the histograms of rows added up over repeats, by the given columns."""
    stored = runs.histograms(rows, kind)
    found: dict[tuple[Any, ...], Histogram] = {}
    for row in select(rows).to_dict("records"):
        histogram = stored.get((int(row["trial"]), row["operation"]))
        if histogram is not None:
            found.setdefault(tuple(row[name] for name in by), Histogram()).merge(histogram)
    return found


def table(rows: pd.DataFrame, factors: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Return one row a cell and operation: medians over repeats, then latencies from merged histograms."""
    by = [*factors, "operation"]
    chosen = select(rows)
    present = [column for column in (*columns, "warmup_batches", "outliers") if column in chosen]
    numbers = chosen.groupby(by, sort=True)[present].median(numeric_only=True)
    latencies = {
        key: {"calls": found["count"], **{f"{name.replace('_', '.')} µs": _micro(found[name]) for name in LATENCY}}
        for key, histogram in merged(rows, by).items()
        if (found := histogram.quantiles(""))
    }
    shown = pd.DataFrame(list(latencies.values()), index=pd.MultiIndex.from_tuples(list(latencies), names=by))
    joined = numbers.join(shown, how="left").reset_index()
    return joined.astype({"calls": "Int64"}) if "calls" in joined else joined


def not_applicable(rows: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """Return the cells that cannot exist, each with its reason."""
    return rows.loc[rows["status"] == "not applicable", [*factors, "reason"]] if "reason" in rows else rows.iloc[:0]


def numbers(found: dict[str, float | None]) -> dict[str, float]:
    """Return the figures that could be computed."""
    return {name: float(value) for name, value in found.items() if value is not None}


def figure_rows(found: Mapping[str, float], words: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return one row a figure: its value, the ends of its interval where it has one, and its meaning."""
    ends = {name + end for name in found for end in ENDS}
    return [
        {
            "figure": name,
            "value": value,
            **{end.strip("_"): found.get(name + end) for end in ENDS},
            "meaning": words.get(name, ""),
        }
        for name, value in found.items()
        if name not in ends
    ]


class Said(dict[str, Any]):
    """Figures for ``str.format_map``: short numbers, and words where one was not measured.

    The format `effect` is for ratios: it gives the interval, and says so where it covers 1.

    Examples
    --------
    >>> "{a} M, {b:.0%}, {c}".format_map(Said({"a": 1234.5, "b": 0.5}))
    '1,234 M, 50%, (not measured)'
    >>> "{a:effect}".format_map(Said({"a": 1.02, "a_lo": 0.97, "a_hi": 1.08}))
    '1.02 times (0.97 to 1.08, no effect shown)'
    """

    def __init__(self, found: dict[str, float]) -> None:
        ends = {name: [found.get(name + end, math.nan) for end in ENDS] for name in found}
        super().__init__({name: _Number(value, *ends[name]) for name, value in found.items()})

    def __missing__(self, name: str) -> _Absent:
        """Return what stands for a figure that is not there."""
        return _Absent()


class _Number(float):
    """A number that is short unless a format is given."""

    def __new__(cls, value: float, low: float, high: float) -> _Number:
        number = super().__new__(cls, value)
        number.effect = stats.Effect(value, low, high)
        return number

    def __format__(self, form: str) -> str:
        if form == "effect":
            return str(self.effect)
        return float(self).__format__(form) if form else format_cell(float(self))


class _Absent:
    """A figure that was not measured, in any format."""

    def __format__(self, form: str) -> str:
        return "(not measured)"


def _micro(value: float | None) -> float | None:
    """Return nanoseconds as microseconds."""
    return None if value is None else value / 1e3
