"""The verdict on a claim, from measured rows: an interval over trials set beside the published figure.

- A trial counts once, by the median of its rows; the interval (95 %) is that of the medians of the trials.
- Fewer than three trials give no verdict.
- The claim holds if, for every row name of its condition, the whole interval lies within the tolerance; it does
  not if for one of them the whole interval lies outside. An interval that straddles an edge cannot tell.
- What does not hold, and holds under another condition that was measured, holds only there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from experiments import stats
from experiments.claims import Claim
from experiments.tables import format_cell

HOLDS: Final = "holds"
FAILS: Final = "does not hold"
ELSEWHERE: Final = "only under another condition"
UNTESTABLE: Final = "cannot be tested here"
UNKNOWN: Final = "cannot tell"
UNMEASURED: Final = "not measured"
TRIALS_MIN: Final = 3


@dataclass(frozen=True)
class Interval:
    """What one kind of rows came to: median over trials, its interval, and the number of trials."""

    name: str
    median: float
    low: float
    high: float
    trials: int

    def __str__(self) -> str:
        numbers = [format_cell(value) for value in (self.median, self.low, self.high)]
        return f"{self.name} {numbers[0]} ({numbers[1]} to {numbers[2]})"


@dataclass(frozen=True)
class Verdict:
    """One line of the table; `ours`, `lo` and `hi` are None where nothing was measured."""

    id: str
    published: str
    ours: float | None
    lo: float | None
    hi: float | None
    unit: str
    verdict: str
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return dataclasses.asdict(self)


def published(claim: Claim) -> str:
    """Return the published figure as text."""
    low, high = format_cell(claim.low), format_cell(claim.high)
    return low if low == high else f"{low} to {high}"


def compare(interval: Interval, bounds: tuple[float, float]) -> str:
    """Say of one interval whether it lies within the bounds, outside, or on an edge."""
    if interval.trials < TRIALS_MIN:
        return UNKNOWN
    if bounds[0] <= interval.low and interval.high <= bounds[1]:
        return HOLDS
    return FAILS if interval.high < bounds[0] or interval.low > bounds[1] else UNKNOWN


def judge(claim: Claim, rows: pd.DataFrame | None) -> Verdict:
    """Return the verdict on a claim from the rows of the experiment ``claims``, None where none were measured."""
    if claim.test is None:
        return _verdict(claim, None, UNTESTABLE, claim.missing)
    rows = rows if rows is not None else pd.DataFrame({"claim": [], "status": []})
    mine = rows[rows["claim"] == claim.test.measured_by]
    found = {name: _interval(claim, mine, name) for name in (*claim.test.operations, *claim.test.elsewhere)}
    stated = [found[name] for name in claim.test.operations]
    if claim.missing:
        return _verdict(claim, stated[0], UNTESTABLE, f"{claim.missing} For comparison: {stated[0] or 'not measured'}.")
    failed, absent = (mine[mine["status"] == status] for status in ("failed", "not applicable"))
    if len(failed):
        return _verdict(claim, None, UNMEASURED, f"a trial failed: {failed['error'].iloc[0]}")
    if len(absent):
        return _verdict(claim, None, UNTESTABLE, str(absent["reason"].iloc[0]))
    if any(item is None for item in stated):
        lost = [name for name in claim.test.operations if found[name] is None]
        return _verdict(claim, None, UNMEASURED, f"no rows of {', '.join(lost)}")
    words = {item.name: compare(item, claim.bounds) for item in found.values() if item is not None}
    worst = min(stated, key=lambda item: (FAILS, UNKNOWN, HOLDS).index(words[item.name]))
    others = [item for item in (found[name] for name in claim.test.elsewhere) if item is not None]
    verdict = words[worst.name]
    if verdict == FAILS and any(words[item.name] == HOLDS for item in others):
        verdict = ELSEWHERE
    return _verdict(claim, worst, verdict, _reason(claim, worst, words, others))


def _interval(claim: Claim, rows: pd.DataFrame, name: str) -> Interval | None:
    """Return the interval of the rows of one name, None where there are none."""
    assert claim.test is not None
    if "operation" not in rows or claim.test.quantity not in rows:
        return None
    chosen = rows[(rows["status"] == "ok") & (rows["operation"] == name)]
    chosen = chosen.dropna(subset=[claim.test.quantity])
    medians = chosen[claim.test.quantity].astype(float).groupby(chosen["trial"]).median() * claim.test.scale
    if medians.empty:
        return None
    return Interval(name, *stats.median_interval(medians.to_numpy()), len(medians))


def _reason(claim: Claim, worst: Interval, words: dict[str, str], others: list[Interval]) -> str:
    """Say what was measured, and where else the claim holds or does not."""
    low, high = claim.bounds
    place = {FAILS: "below" if worst.high < low else "above", HOLDS: "within", UNKNOWN: "across an edge of"}
    if worst.trials < TRIALS_MIN:
        text = f"{worst} from {worst.trials} trials, and {TRIALS_MIN} are needed"
    else:
        text = f"{worst} is {place[words[worst.name]]} what is asked, {_bounds_words(low, high)}"
    for verdict in (HOLDS, FAILS, UNKNOWN):
        some = [str(item) for item in others if words[item.name] == verdict]
        text += f"; {verdict} for: {', '.join(some)}" if some else ""
    fails_here = claim.kind == "absolute" and words[worst.name] == FAILS
    return text + (". An absolute figure belongs to its machine: this is told of this one." if fails_here else ".")


def _bounds_words(low: float, high: float) -> str:
    """Return bounds as words."""
    if high == float("inf"):
        return f"at least {format_cell(low)}"
    return f"at most {format_cell(high)}" if low == -float("inf") else f"{format_cell(low)} to {format_cell(high)}"


def _verdict(claim: Claim, found: Interval | None, verdict: str, reason: str) -> Verdict:
    """Return the line of a claim."""
    numbers = (found.median, found.low, found.high) if found else (None, None, None)
    return Verdict(claim.id, published(claim), *numbers, claim.unit, verdict, reason)
