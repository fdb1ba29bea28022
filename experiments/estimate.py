"""How long a plan will take, judged by the trials of stored runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments import machine, runs
from experiments.errors import RunNotFoundError
from experiments.sweep import Plan, missing


def table(plans: Sequence[Plan], run: runs.Run | None = None) -> list[dict[str, Any]]:
    """Return one row an experiment: its cells, its trials that a run has not measured yet, and their time."""
    todo = missing(plans, run)
    found = []
    for item in plans:
        cells = [cell.factors for _, plan, _, cell in todo if plan is item]
        seconds, judged_by = _seconds(item, cells)
        found.append(
            {
                "experiment": item.spec.name,
                "cells": len(item.possible),
                "cells left out": len(item.cells) - len(item.possible),
                "repeats": item.repeats,
                "trials": item.trials,
                "to measure": len(cells),
                "seconds": seconds,
                "judged by": judged_by,
            }
        )
    return found


def words(rows: Sequence[dict[str, Any]]) -> str:
    """Return the order's size and the time in one sentence."""
    known = [row["seconds"] for row in rows if row["seconds"] is not None]
    total = sum(row["to measure"] for row in rows)
    of_all = "" if len(known) == len(rows) else f" for {len(known)} of {len(rows)} experiments; the others are unknown"
    time = f"about {sum(known) // 60:.0f} min {sum(known) % 60:.0f} s{of_all}" if known else "unknown"
    return f"{total} trials, interleaved within each repeat; their time: {time}"


def _seconds(plan: Plan, cells: Sequence[dict[str, Any]]) -> tuple[float | None, str]:
    """Return the seconds that trials of these cells take, and the run that says so; None if no run does.

    That is the newest run of this experiment at this profile, measured on such a CPU. A cell that it does not have
    counts as the mean of those that it has.
    """
    cpu = machine.cpu()
    for facts in runs.stored("runs", "published"):
        theirs = facts["machine"]["cpu"]
        same = all(theirs.get(name) == cpu[name] for name in ("model", "usable"))
        if not same or facts["profile"] != plan.profile or plan.spec.name not in facts["experiments"]:
            continue
        try:
            rows = runs.load(facts["id"], plan.spec.name)
        except RunNotFoundError:
            continue
        once = rows.dropna(subset=["trial_s"]).drop_duplicates("trial") if "trial_s" in rows else rows.iloc[:0]
        factors = [name for name in plan.spec.factors if name in once]
        known = once.groupby(factors)["trial_s"].mean() if len(once) and factors else {}
        if len(known):
            times = {key if isinstance(key, tuple) else (key,): value for key, value in known.items()}
            mean = sum(times.values()) / len(times)
            seconds = sum(times.get(tuple(cell[name] for name in factors), mean) for cell in cells)
            return float(seconds), facts["id"]
    return None, "no stored run"
