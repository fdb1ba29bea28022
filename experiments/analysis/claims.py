"""Claims: a verdict for each published figure, and the figures beside ours."""

from __future__ import annotations

from collections import Counter
from typing import Final

import pandas as pd

from experiments import claims, plots
from experiments.analysis import common
from experiments.claims import Claim, verdict
from experiments.claims.verdict import Verdict
from experiments.plots import Panel
from experiments.tables import Marked

COLOURS: Final = {
    verdict.HOLDS: "#2f9e6e", verdict.FAILS: "#c0392b", verdict.ELSEWHERE: "#d9822b", verdict.UNKNOWN: "#8a6d00",
}  # fmt: skip
OTHER: Final = "#7a828c"
COUNTS: Final = {
    "claims_hold": verdict.HOLDS,
    "claims_elsewhere": verdict.ELSEWHERE,
    "claims_fail": verdict.FAILS,
    "claims_cannot_tell": verdict.UNKNOWN,
    "claims_untestable": verdict.UNTESTABLE,
    "claims_unmeasured": verdict.UNMEASURED,
}
ANSWER: Final = """
Of the published figures {claims_hold:.0f} hold, {claims_elsewhere:.0f} hold only under another condition than was
published, {claims_fail:.0f} do not hold, {claims_cannot_tell:.0f} cannot be told apart from their edge, and
{claims_untestable:.0f} cannot be tested here; {claims_unmeasured:.0f} were not measured in this run.
"""


def verdicts(rows: pd.DataFrame) -> list[Verdict]:
    """Return the verdicts on all claims."""
    return [verdict.judge(claims.load(name), rows) for name in claims.names()]


def figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return how many claims got each verdict."""
    found = Counter(item.verdict for item in verdicts(rows))
    return {name: float(found[words]) for name, words in COUNTS.items()}


def answer(found: dict[str, float]) -> str:
    """Return the counts in words."""
    return ANSWER.format_map(common.Said(found))


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the verdict on each claim with the published figure and our interval."""
    order = list(COUNTS.values())
    shown = [
        {
            "claim": item.id, "verdict": Marked(item.verdict, COLOURS.get(item.verdict, OTHER)),
            "published": item.published, "ours": item.ours, "low": item.lo, "high": item.hi, "unit": item.unit,
        }
        for item in sorted(verdicts(rows), key=lambda item: order.index(item.verdict))
    ]  # fmt: skip
    return pd.DataFrame(shown, dtype=object)


def details(rows: pd.DataFrame) -> str:
    """Return as Markdown who claims what, how it is tested, and why the verdict is what it is."""
    return "\n\n".join(_detail(claims.load(item.id), item) for item in verdicts(rows))


def _detail(claim: Claim, found: Verdict) -> str:
    """Return the paragraphs of one claim."""
    lines = [
        f"### {claim.id}: {found.verdict}",
        f"{claim.sentence} *{claim.who}; {claim.where}.*",
        f"**Conditions:** {claim.conditions}.",
        f"**Of the figure:** {claim.origin}" if claim.origin else "",
        f"**Tested here:** {claim.test.how}" if claim.test else "",
        f"**Published** {found.published} {claim.unit}. **Measured:** {found.reason}",
    ]
    return "\n\n".join(filter(None, lines))


def headline(rows: pd.DataFrame) -> list[Panel]:
    """Return the figure of the summary."""
    return [panel(rows)]


def panel(rows: pd.DataFrame) -> Panel:
    """Draw our interval over the published figure, a line a claim: 1 is the figure itself."""
    groups: dict[str, dict[str, list[float]]] = {words: {} for words in COUNTS.values()}
    for item in sorted(verdicts(rows), key=_over_published, reverse=True):
        claim = claims.load(item.id)
        if item.ours and claim.low > 0:
            middle = (claim.low * claim.high) ** 0.5
            ends = (claim.low, claim.high, item.lo, item.ours, item.hi)
            groups[item.verdict][item.id] = [float(value or 0.0) / middle for value in ends]
    return plots.intervals(
        {words: items for words, items in groups.items() if items}, rows,
        title="Our interval over the published figure", xlabel="measured here / published",
        colours={words: COLOURS.get(words, OTHER) for words in groups},
    )  # fmt: skip


def _over_published(item: Verdict) -> float:
    """Return our figure over the published one, 0 where there is none."""
    low = claims.load(item.id).low
    return item.ours / low if item.ours and low > 0 else 0.0
