"""Two stored runs side by side, operation by operation, and whether the second one is slower.

Every line is a ratio of times, B over A, above 1 where B takes longer, with an interval. The unit is the trial, one
fresh process: rounds within one share its memory layout and say nothing of the next. Scatter is that of the trials of
a cell, and no less than that of all cells of the operation together (pooled variance, Student's t), since a cell
alone has few. The intervals of whole operations hold together in 95 of 100 comparisons, and so do those of all cells
(Bonferroni): hundreds of lines do not call by chance.

Runs are of different times. Where a spec names a reference of an operation (a floor, the bare disk, another store),
both are divided, round by round, by that reference as the same trial measured it. A level of a factor is no reference:
it is the engine too, and would hide what slows both. Lines without a reference get a verdict only if both runs checked
how steady their machine was (`noise`) and found it quiet, and their intervals are widened by the ratio of the fixed
work that was done in these checks.

===========  ============================================================================  ===========
verdict      when                                                                          exit status
===========  ============================================================================  ===========
regression   the interval of any line lies above 1 + threshold                             1
none         the intervals of all whole operations end at or below 1 + threshold           0
cannot tell  neither: too wide, too few repeats, failed trials, noise, other hardware       2
===========  ============================================================================  ===========
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy.stats import t as student

from experiments import runs, samples, tables, values
from experiments.errors import ParameterError

THRESHOLD: Final = 0.05
CONFIDENCE: Final = 0.95
EXIT: Final = {"none": 0, "regression": 1, "cannot tell": 2}
_VOLATILE: Final = ("date", "load", "steal", "available_bytes", "free", "uptime")
_HARDWARE: Final = ("cpu.", "memory.total_bytes", "virtualisation", "file_system.type", "file_system.rotational")
_FIXED_WORK: Final = ("cache", "memory")
_FEW: Final = 4
"""Degrees of freedom below which the scatter of an operation is taken from its whole experiment."""
_SAME_MEMORY: Final = 0.02


@dataclass(frozen=True)
class Line:
    """One ratio: of a cell, or with no levels of all cells of an operation together."""

    experiment: str
    levels: Mapping[str, Any]
    operation: str
    metric: str
    ratio: float
    lo: float | None
    hi: float | None
    verdict: str
    reason: str = ""


@dataclass(frozen=True)
class Difference:
    """A fact of the machine or of the software that differs between the runs."""

    what: str
    a: Any
    b: Any

    @property
    def hardware(self) -> bool:
        """Return whether times on both sides cannot be compared because of it."""
        return self.what.startswith(_HARDWARE)


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; shows itself as a table."""

    a: str
    b: str
    threshold: float
    differences: list[Difference]
    lines: list[Line]
    notes: list[str] = field(default_factory=list)
    whole: bool = True
    confidence: float = CONFIDENCE

    @property
    def decided(self) -> bool:
        """Return whether something is said of every line."""
        return all(line.verdict != "cannot tell" for line in self.lines)

    @property
    def verdict(self) -> str:
        """Return "regression", "none" or "cannot tell"."""
        if any(line.verdict == "regression" for line in self.lines):
            return "regression"
        operations = {line.verdict for line in self.lines if not line.levels}
        return "none" if self.whole and operations == {"none"} else "cannot tell"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "verdict": self.verdict, "a": self.a, "b": self.b, "threshold": self.threshold,
            "machine_differences": [asdict(item) for item in self.differences], "notes": self.notes,
            "rows": [asdict(line) for line in self.lines],
        }  # fmt: skip

    def table(self, *, cells: bool = True) -> pd.DataFrame:
        """Return the lines, whole operations first; without `cells` only those of them that are regressions."""
        chosen = [line for line in self.lines if cells or not line.levels or line.verdict == "regression"]
        found = pd.DataFrame(
            [
                {
                    "experiment": line.experiment,
                    "operation": line.operation,
                    "cell": " ".join(f"{name}={level}" for name, level in line.levels.items()) or "all together",
                    "time of": line.metric,
                    "B / A": f"{line.ratio:.3f}",
                    f"{100 * self.confidence:.3g} %": "–"
                    if line.lo is None or line.hi is None
                    else f"{line.lo:.3f} to {line.hi:.3f}",
                    "verdict": f"{line.verdict}: {line.reason}" if line.reason else line.verdict,
                }
                for line in sorted(chosen, key=lambda line: bool(line.levels))
            ],
            dtype=object,
        )
        return found if any(line.levels for line in chosen) else found.drop(columns="cell", errors="ignore")

    def _head(self) -> list[str]:
        """Return what stands above the table."""
        called = sum(line.verdict == "regression" for line in self.lines)
        return [
            f"verdict: {self.verdict} ({called} of {len(self.lines)} lines slower by more than {self.threshold:.0%})",
            f"A  {self.a}",
            f"B  {self.b}",
            *self.notes,
        ]

    def show(self, *, cells: bool = True) -> str:
        """Return the comparison as text for a terminal."""
        parts = ["\n".join(self._head()), show_differences(self.differences), aligned(self.table(cells=cells))]
        return "\n\n".join(filter(None, parts))

    def __str__(self) -> str:
        return self.show()

    def _repr_html_(self) -> str:
        return difference_table(self.differences) + tables.to_html(self.table(), caption=" · ".join(self._head()))


def compare(a: str, b: str, *, threshold: float = THRESHOLD) -> Comparison:
    """Compare two stored runs by their ids or folders.

    Raises
    ------
    RunNotFoundError
        There is no such run.
    ParameterError
        The runs share no experiment, or the threshold is not above 0.
    """
    check_threshold(threshold)
    left, right = runs.manifest(a), runs.manifest(b)
    shared = [name for name in left["experiments"] if name in right["experiments"]]
    if not shared:
        names = (", ".join(facts["experiments"]) for facts in (left, right))
        raise ParameterError("the runs have no experiment in common: {} and {}".format(*names))
    found = differences(left, right)
    hardware = "other hardware" if any(item.hardware for item in found) else ""
    doubts = hardware, hardware or _unsteady(left) or _unsteady(right)
    notes = [text for which, facts in (("A", left), ("B", right)) for text in _troubles(which, facts)]
    whole = not notes
    notes += [f"{which}: {words}" for which, facts in (("A", left), ("B", right)) if (words := _noise_words(facts))]
    changed_speed = _speed_change(left, right)
    if changed_speed != (1.0, 1.0):
        notes.append("the machine's own fixed work took {:.3f} to {:.3f} times as long in B".format(*changed_speed))
    sides = {}
    for name in shared:
        changed = samples.changed_parameters(left, right, name)
        if changed:
            whole = False
            notes.append(f"{name} is left out: it was measured with other {', '.join(changed)}")
        else:
            sides[name] = (samples.load(a, name), samples.load(b, name))
            alone = len(sides[name][0].index.symmetric_difference(sides[name][1].index))
            if alone:
                notes.append(f"{name}: {alone} lines are in one of the runs only")
    return Comparison(
        left["id"], right["id"], threshold, found, list(_lines(sides, threshold, doubts, changed_speed)), notes, whole
    )


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that is no share."""
    if not 0 < threshold < 10:
        raise ParameterError(f"threshold is {threshold}", hint="give a share above 0: 0.05 is 5 %", name="threshold")


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Return what differs between the machines, versions and code of two manifests, hardware first."""
    sides = [dict(_flat({**facts["machine"], "code": facts.get("code", {})})) for facts in (a, b)]
    found = [
        Difference(name, sides[0].get(name), sides[1].get(name))
        for name in dict.fromkeys([*sides[0], *sides[1]])
        if sides[0].get(name) != sides[1].get(name) and not _changes_by_itself(name, *sides)
    ]
    return sorted(found, key=lambda item: not item.hardware)


def show_differences(found: list[Difference]) -> str:
    """Return differences as text, nothing if there are none."""
    return "differences\n" + aligned(pd.DataFrame(map(asdict, found), dtype=object)) if found else ""


def difference_table(found: list[Difference]) -> str:
    """Return differences as HTML, nothing if there are none."""
    return tables.to_html(map(asdict, found), caption="differences") if found else ""


def aligned(table: pd.DataFrame) -> str:
    """Return a table as text: words to the left, numbers to the right, two blanks between."""
    shown = [list(map(str, table.columns)), *(list(map(tables.format_cell, row)) for row in table.to_numpy())]
    widths = [max(len(row[place]) for row in shown) for place in range(len(table.columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown
    )


def verdict(lo: float | None, hi: float | None, threshold: float, doubt: str = "") -> tuple[str, str]:
    """Return what an interval of ratios says, and why where it says nothing."""
    if doubt:
        return "cannot tell", doubt
    if lo is None or hi is None:
        return "cannot tell", "too few repeats for an interval"
    if lo > 1 + threshold:
        return "regression", ""
    return ("none", "") if hi <= 1 + threshold else ("cannot tell", "the interval is too wide")


def _lines(
    sides: Mapping[str, tuple[pd.Series, pd.Series]],
    threshold: float,
    doubts: tuple[str, str],
    speed: tuple[float, float],
) -> Iterator[Line]:
    """Yield the line of each operation over all cells, and of each cell; the second doubt is for lines alone."""
    both = {name: a.index.intersection(b.index, sort=False) for name, (a, b) in sides.items()}
    operations = {name: list(dict.fromkeys(key[:2] for key in keys)) for name, keys in both.items()}
    cells_all, operations_all = (sum(map(len, found.values())) for found in (both, operations))

    def line(name: str, key: tuple[str, str], levels: Any, ratio: float, se: float, freedom: int) -> Line:
        alpha = (1 - CONFIDENCE) / (cells_all if levels else operations_all)
        wide = student.ppf(1 - alpha / 2, freedom) * se if freedom else math.inf
        alone = " over " not in key[1]
        least, most = speed if alone else (1.0, 1.0)
        lo, hi = (math.exp(ratio - wide) / most, math.exp(ratio + wide) / least) if wide < 20 else (None, None)
        return Line(name, dict(levels), *key, math.exp(ratio), lo, hi, *verdict(lo, hi, threshold, doubts[alone]))

    for name, (a, b) in sides.items():
        overall = _scatter([*a[both[name]], *b[both[name]]])
        for key in operations[name]:
            cells = [item for item in both[name] if item[:2] == key]
            own = _scatter([series[item] for item in cells for series in (a, b)])
            spread, freedom = own if own[1] >= _FEW else (max(own[0], overall[0]), overall[1])
            ratios, errors = [], []
            for item in cells:
                scatter = max(spread, _scatter([a[item], b[item]])[0])
                ratios.append(float(np.mean(b[item]) - np.mean(a[item])))
                errors.append(scatter * math.sqrt(1 / len(a[item]) + 1 / len(b[item])))
                if len(cells) > 1:
                    yield line(name, key, item[2], ratios[-1], errors[-1], freedom)
            yield line(name, key, {}, float(np.mean(ratios)), math.hypot(*errors) / len(errors), freedom)


def _scatter(groups: list[list[float]]) -> tuple[float, int]:
    """Return the pooled standard deviation within groups, and its degrees of freedom."""
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum(float(np.var(group)) * len(group) for group in groups)
    return (math.sqrt(squares / freedom), freedom) if freedom else (0.0, 0)


def _speed_change(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[float, float]:
    """Return the least and the greatest ratio, B over A, of the times of the machine's fixed work; 1 is among them."""
    checks = [facts.get("noise", {}).get("checks", []) for facts in (a, b)]
    if not all(checks):
        return 1.0, 1.0
    times = [{kind: np.median([one[kind]["p50_ms"] for one in side]) for kind in _FIXED_WORK} for side in checks]
    ratios = [float(times[1][kind] / times[0][kind]) for kind in _FIXED_WORK]
    return min(1.0, *ratios), max(1.0, *ratios)


def _troubles(which: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a manifest says against its own run."""
    if facts.get("state") != "complete":
        yield f"{which} is {facts.get('state')}: {facts.get('trials')} of {facts.get('planned')} trials"
    if facts.get("failed"):
        yield f"{which} has {facts['failed']} failed trials"


def _noise_words(facts: Mapping[str, Any]) -> str:
    """Return what the checks of the machine said against it."""
    noise = facts.get("noise", {})
    return str(noise.get("words", "")) if noise.get("disturbed") else ""


def _unsteady(facts: Mapping[str, Any]) -> str:
    """Return what forbids to trust a run's times by themselves."""
    if "noise" not in facts:
        return "no check of how steady the machine was"
    return "the machine was disturbed" if facts["noise"]["disturbed"] else ""


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested facts by dotted names."""
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value if not isinstance(value, list) else json.dumps(value)


def _changes_by_itself(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether a fact says nothing of what the machine is; one that only one side knows does not either."""
    if any(word in name for word in _VOLATILE) or name not in a or name not in b:
        return True
    close = isinstance(a[name], int) and isinstance(b[name], int) and name == "memory.total_bytes"
    return close and abs(a[name] - b[name]) <= _SAME_MEMORY * a[name]


def print_result(found: Comparison, *, as_json: bool, cells: bool) -> int:
    """Print a comparison and return the exit status of its verdict."""
    print(values.dumps(found.as_dict()) if as_json else found.show(cells=cells), flush=True)
    return EXIT[found.verdict]
