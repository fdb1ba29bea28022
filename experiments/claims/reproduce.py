"""Measure what some claims need into one run of the experiment ``claims``, and give a verdict on each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from experiments import claims, progress, runs, spec, sweep
from experiments.claims import verdict
from experiments.claims.verdict import Verdict
from experiments.tables import format_cell

_WIDTH = 118


def reproduce(names: Sequence[str], profile: str, **changes: Any) -> tuple[list[Verdict], runs.Run | None]:
    """Return the verdicts on claims (all of them if none is named), and the run that they rest on, if one was needed.

    `changes` go to the plan: repeats, seed.

    Raises
    ------
    ParameterError
        A claim is unknown.
    """
    chosen = [claims.load(name) for name in dict.fromkeys(names or claims.names())]
    tests = sorted({item.test.measured_by for item in chosen if item.test})
    if not tests:
        return [verdict.judge(item, None) for item in chosen], None
    plan = sweep.plan(spec.load("claims"), profile, {"claims": tests, **changes})
    done = sweep.run([plan], progress.for_stream())
    rows = runs.load(done.id, "claims")
    return [verdict.judge(item, rows) for item in chosen], done


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts for a terminal: a line of figures and the reason below it."""
    wide = max(len(item.id) for item in verdicts)
    lines = []
    for item in verdicts:
        ours = (
            "–" if item.ours is None else f"{format_cell(item.ours)} ({format_cell(item.lo)} to {format_cell(item.hi)})"
        )
        lines.append(f"{item.id:<{wide}}  {item.verdict:<28}  published {item.published}, ours {ours} {item.unit}")
        lines += textwrap.wrap(item.reason, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)
