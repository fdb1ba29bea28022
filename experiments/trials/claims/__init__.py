"""Trials that put published claims to the test, a module for each subject.

The level of the factor `claim` names a file of ``experiments/claims``, which names the trial function and holds
the workload of each profile. A row's operation is the condition that it was measured under.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence

from experiments import claims, spec
from experiments.trial import Operation, Outcome, Trial


def measure(trial: Trial) -> Outcome:
    """Run the trial function of a claim with its workload."""
    test = claims.load(trial.factors["claim"]).test
    assert test is not None
    return spec.resolve(test.trial)(dataclasses.replace(trial, workload=dict(test.workload[trial.workload["size"]])))


def warm_up() -> None:
    """Load the kernels of all these trials."""
    modules = {test.trial.partition(":")[0] for name in claims.tested() if (test := claims.load(name).test)}
    for name in sorted(modules):
        getattr(importlib.import_module(name), "warm_up", lambda: None)()


def compare(operations: Sequence[Operation], column: str, pairs: Mapping[str, str]) -> list[Operation]:
    """Add to the rows of each pair's first name the ratio of their rows a second to those of the second, by round."""
    rates = {(item.name, item.numbers.get("round", 0)): item.numbers.get("rows_per_s") for item in operations}
    for item in operations:
        if item.name in pairs:
            below = rates[pairs[item.name], item.numbers.get("round", 0)]
            item.numbers[column] = item.numbers["rows_per_s"] / below
    return list(operations)
