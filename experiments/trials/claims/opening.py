"""Claims about opening: after a close, a kill, and with the indexes made anew."""

from __future__ import annotations

import dataclasses

from experiments.trial import Outcome, Trial
from experiments.trials import recovery
from ledger.layout import RECORD_BYTES


def by_situation(trial: Trial) -> Outcome:
    """Open one ledger in each situation of the experiment `recovery`, and set the others beside a clean opening."""
    found = recovery.measure(dataclasses.replace(trial, factors={"part": "size", "recovery_target_s": 0.0}))
    operations = [item for item in found.operations if item.name == "open"]
    rounds: dict[str, int] = {}
    clean: dict[int, float] = {}
    for item in operations:
        name = f"{item.numbers['situation']}, {item.numbers['cache']}"
        item.name, item.numbers["round"] = name, rounds.setdefault(name, 0)
        rounds[name] += 1
        if name == "clean, warm":
            clean[item.numbers["round"]] = item.numbers["open_ms"]
    for item in operations:
        item.numbers["over_clean"] = item.numbers["open_ms"] / clean[item.numbers["round"]]
        item.numbers["record_gb_per_s"] = trial.workload["accounts"] * RECORD_BYTES / item.numbers["open_ms"] / 1e6
    return dataclasses.replace(found, operations=operations)
