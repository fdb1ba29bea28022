"""A stored run measured again here, whoever measured it first, and a verdict for each of its figures.

===========  ==========================================================================================
verdict      when
===========  ==========================================================================================
reproduced   the interval of theirs and ours overlap, or the figures are within `TOLERANCE` of each other
differs      neither, though both have an interval, and the figure can be compared
cannot tell  no interval; a figure in units of a machine that is another one; no such figure on one side
===========  ==========================================================================================

A figure has the interval that its analysis gives it; for one without, it is computed for each repeat by itself, and the
interval is that of the median of these. Ratios (to a floor, to another mode) can be compared between machines, times
and rates cannot.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from experiments import compare, progress, runs, spec, stats, sweep, tables, values, workbench
from experiments.compare import Difference
from experiments.errors import RunNotFoundError

TOLERANCE: Final = 0.1
EXIT: Final = {"reproduced": 0, "differs": 1, "cannot tell": 2}
WIDE: Final = 2.0
"""An interval whose ends are so many times apart agrees with anything."""
_RATIO: Final = re.compile(r"_over_|_gain|_share|share_|_ratio|_ks$|_distance$")
_BOUNDS: Final = ("_lo", "_hi")


@dataclass(frozen=True)
class Figure:
    """One number of the summary, theirs and ours, each with the interval of its repeats where it has one."""

    experiment: str
    figure: str
    theirs: float | None
    theirs_lo: float | None
    theirs_hi: float | None
    ours: float | None
    ours_lo: float | None
    ours_hi: float | None
    ratio: float | None
    lo: float | None
    hi: float | None
    verdict: str
    reason: str = ""


@dataclass(frozen=True)
class Reproduction:
    """A stored run beside its rerun; shows itself as a table."""

    theirs: str
    ours: str
    differences: list[Difference]
    figures: list[Figure]
    notes: list[str]

    @property
    def verdict(self) -> str:
        """Return the worst verdict that a figure has: "differs", else "cannot tell", else "reproduced"."""
        found = {figure.verdict for figure in self.figures}
        return next((word for word in ("differs", "cannot tell", "reproduced") if word in found), "cannot tell")

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "verdict": self.verdict, "theirs": self.theirs, "ours": self.ours, "notes": self.notes,
            "counts": {word: sum(figure.verdict == word for figure in self.figures) for word in EXIT},
            "machine_differences": [asdict(item) for item in self.differences],
            "figures": [asdict(figure) for figure in self.figures],
        }  # fmt: skip

    def table(self) -> pd.DataFrame:
        """Return one row a figure."""
        return pd.DataFrame(
            [
                {
                    "experiment": item.experiment,
                    "figure": item.figure,
                    "theirs": _with_bounds(item.theirs, item.theirs_lo, item.theirs_hi),
                    "ours": _with_bounds(item.ours, item.ours_lo, item.ours_hi),
                    "ours / theirs": _with_bounds(item.ratio, item.lo, item.hi),
                    "verdict": f"{item.verdict}: {item.reason}" if item.reason else item.verdict,
                }
                for item in self.figures
            ],
            dtype=object,
        )

    def _head(self) -> list[str]:
        """Return what stands above the table."""
        counts = ", ".join(f"{count} {word}" for word, count in self.as_dict()["counts"].items())
        return [f"figures: {counts}", f"theirs  {self.theirs}", f"ours    {self.ours}", *self.notes]

    def __str__(self) -> str:
        parts = ["\n".join(self._head()), compare.show_differences(self.differences), compare.aligned(self.table())]
        return "\n\n".join(part for part in parts if part)

    def _repr_html_(self) -> str:
        return compare.difference_table(self.differences) + tables.to_html(
            self.table(), caption=" · ".join(self._head())
        )


def run_folder(
    path: str, profile: str | None = None, changes: Mapping[str, Mapping[str, Any]] | None = None
) -> Reproduction:
    """Measure the experiments of a stored run here, with its parameters, and set both side by side.

    Parameters
    ----------
    path
        A folder with manifest.json and rows.parquet.
    profile
        Takes levels and workload of a profile in place of the run's own, for a smaller rerun.
    changes
        Parameters to measure with in place of the run's own, by experiment.

    Raises
    ------
    ParameterError
        There is no such experiment here, or it has no such parameter.
    RunNotFoundError
        The folder is no stored run.
    """
    theirs = manifest(path)
    profile_ = profile or theirs.get("profile", "standard")
    plans, notes = [], []
    for name, facts in theirs["experiments"].items():
        item = spec.load(name)
        own = (
            {}
            if profile
            else {key: value for key, value in facts["parameters"].items() if key not in ("run_id", "rerun")}
        )
        own |= (changes or {}).get(name, {})
        plan = sweep.plan(item, profile_, own)
        if item.digest != facts.get("spec_digest"):
            notes.append(f"{name}: its spec is not the one that was measured with")
        for key in sorted(plan.parameters.keys() - {"run_id", "rerun"}):
            if key not in facts["parameters"]:
                notes.append(f"{name}: {key} was not known then, and is {plan.parameters[key]} here")
            elif plan.parameters[key] != facts["parameters"][key]:
                notes.append(f"{name}: {key} is {plan.parameters[key]} here, {facts['parameters'][key]} there")
        plans.append(plan)
    done = sweep.run(plans, progress.for_stream())
    return beside(path, str(done.path), notes)


def beside(theirs: str, ours: str, notes: Sequence[str] = ()) -> Reproduction:
    """Return the figures of two stored runs side by side; only cells that both have count."""
    facts = manifest(theirs), manifest(ours)
    found = compare.differences(*facts)
    other = any(item.hardware for item in found)
    figures: list[Figure] = []
    for name in facts[0]["experiments"]:
        sides = [runs.load(path, name) for path in (theirs, ours)]
        for rows, path in zip(sides, (theirs, ours), strict=True):
            rows.attrs["run_id"] = path  # a stranger's folder has no id here
        for factor in facts[0]["experiments"][name]["factors"]:
            shared = set(sides[0][factor].dropna()) & set(sides[1][factor].dropna()) if factor in sides[1] else set()
            sides = [rows[rows[factor].isin(shared)] if shared else rows for rows in sides]
        analysis = workbench.analysis(name).figures
        left, right = (_figures(analysis, rows) for rows in sides)
        figures += [_judge(name, key, left.get(key), right.get(key), other) for key in dict.fromkeys([*left, *right])]
    return Reproduction(facts[0]["id"], facts[1]["id"], found, figures, list(notes))


def manifest(path: str) -> dict[str, Any]:
    """Return the manifest of a folder, with what is needed of it checked."""
    if not (Path(path) / "rows.parquet").is_file():
        raise RunNotFoundError(f"{path} has no rows.parquet", hint="give the folder of a stored run")
    try:
        found = runs.manifest(path)
        experiments = found["experiments"]
        if not all({"parameters", "factors"} <= set(item) for item in experiments.values()):
            raise KeyError("parameters, factors")
        return found | {"machine": found["machine"], "id": found["id"]}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunNotFoundError(f"{path}/manifest.json is not that of a stored run: {error}") from None


def _figures(analysis: Any, rows: pd.DataFrame) -> dict[str, tuple[float, float | None, float | None]]:
    """Return each figure of an experiment with the interval of the figures of its repeats."""
    try:
        whole = analysis(rows)
    except (KeyError, ValueError, IndexError):
        return {}  # too little was measured
    single: dict[str, list[float]] = {}
    repeats = rows.dropna(subset=["repeat"]).groupby("repeat")
    for _, some in repeats:
        some.attrs = rows.attrs
        with contextlib.suppress(KeyError, ValueError, IndexError):
            for name, value in analysis(some).items():
                single.setdefault(name, []).append(value)
    found = {}
    for name, value in whole.items():
        if name.endswith(_BOUNDS) and name[:-3] in whole:
            continue
        sample = single.get(name, [])
        if len(repeats) < 2:
            found[name] = (value, None, None)  # one process says nothing of the next
        elif name + "_lo" in whole:
            found[name] = (value, whole[name + "_lo"], whole[name + "_hi"])
        else:
            found[name] = (value, *(stats.median_interval(sample)[1:] if len(sample) > 1 else (None, None)))
    return found


def _judge(
    experiment: str, name: str, theirs: tuple[float, Any, Any] | None, ours: tuple[float, Any, Any] | None, other: bool
) -> Figure:
    """Return a figure with its verdict."""
    a, b = theirs or (None, None, None), ours or (None, None, None)
    ratio = lo = hi = None
    if a[0] and b[0]:
        ratio = b[0] / a[0]
    if all(number is not None and number > 0 for number in (*a, *b)):
        lo, hi = b[1] / a[2], b[2] / a[1]
    said = _verdict(name, a, b, ratio, lo, hi, other)
    return Figure(experiment, name, *a, *b, ratio, lo, hi, *said)


def _verdict(name: str, a: Any, b: Any, ratio: Any, lo: Any, hi: Any, other: bool) -> tuple[str, str]:
    """Return the verdict of a figure, and its reason where it says nothing."""
    if a[0] is None or b[0] is None:
        return "cannot tell", f"not measured {'there' if a[0] is None else 'here'}"
    if other and not _RATIO.search(name):
        return "cannot tell", "other hardware"
    if a[0] == b[0] or (ratio is not None and ratio > 0 and abs(math.log(ratio)) <= math.log1p(TOLERANCE)):
        return "reproduced", ""
    if "share" in name and abs(a[0] - b[0]) <= TOLERANCE / 10:
        return "reproduced", ""
    if lo is None or hi is None:
        return "cannot tell", "no interval"
    if not lo <= 1 <= hi:
        return "differs", ""
    return ("reproduced", "") if hi / lo <= WIDE else ("cannot tell", "the interval is too wide")


def _with_bounds(value: float | None, low: float | None, high: float | None) -> str:
    """Return a number with the ends of its interval behind it."""
    shown = tables.format_cell(value)
    return (
        shown if low is None or high is None else f"{shown} ({tables.format_cell(low)} to {tables.format_cell(high)})"
    )


def print_result(found: Reproduction, *, as_json: bool) -> int:
    """Print both sides and return the exit status of the verdict."""
    print(values.dumps(found.as_dict()) if as_json else found, flush=True)
    return EXIT[found.verdict]
