"""What the trials share: options from levels, a filled ledger, a measured phase, facts read back.

A trial closes its ledger only where the closing is measured or its files are needed: else the image would
be written for nothing. The process ends, and its directory is removed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments import measure, stats
from experiments.measure import Histogram, Usage
from experiments.trial import Operation, Trial
from experiments.workload import Workload
from ledger import GeometricLedger, LedgerStats, Options

FILL_ROWS: Final = 45_000
_OPTION_NAMES: Final = {field.name for field in dataclasses.fields(Options)}


def settings(trial: Trial) -> dict[str, Any]:
    """Return levels and workload of a trial in one mapping."""
    return {**trial.workload, **trial.factors}


def options(trial: Trial, **fixed: Any) -> Options:
    """Return the options that a trial's levels and workload name, with `fixed` on top."""
    named = {name: value for name, value in settings(trial).items() if name in _OPTION_NAMES}
    load = workload(trial)
    capacity = load.accounts + settings(trial).get("spare_accounts", 0)
    return Options(**{"capacity": capacity, "hash_key": load.hash_key, **named, **fixed})


def workload(trial: Trial) -> Workload:
    """Return the trial's accounts and keys."""
    chosen = settings(trial)
    return Workload(chosen["accounts"], trial.seed, chosen.get("keys", "uniform"))


def calls_for(trial: Trial, batch_rows: int) -> int:
    """Return the number of calls: as many as make `rows_per_trial`, within `calls_min` and `calls_max`."""
    chosen = settings(trial)
    calls = chosen["rows_per_trial"] // batch_rows
    return int(max(chosen.get("calls_min", 1), min(chosen.get("calls_max", 1 << 30), calls)))


def create(path: Path, trial: Trial, **fixed: Any) -> tuple[GeometricLedger, Operation]:
    """Create a ledger and insert all accounts in batches; return both, the handle still open."""
    ledger = GeometricLedger.open(path, options(trial, **fixed))
    batches = list(workload(trial).fill(FILL_ROWS))
    inserted = phase("insert", ledger.update_batch, batches, workload(trial).accounts, steady=False)
    return ledger, inserted


def phase(
    name: str,
    call: Callable[[Any], object],
    batches: Sequence[Any],
    rows: int,
    *,
    calls_per_s: float = 0.0,
    steady: bool = True,
) -> Operation:
    """Run all batches and return what they took; the operation is the call.

    `rows_per_s` is over the time inside calls, after the warm-up that these show (`warmup_batches`) if the batches are
    alike and do `steady` work; an open loop idles between calls, so there it is over the whole. All else is over all
    calls: no latency is left out, `outliers` are counted.
    """
    latencies, used = measure.run_calls(call, batches, calls_per_s=calls_per_s)
    histogram = Histogram.of(latencies)
    busy_s = used["wall_s"] if calls_per_s > 0 else histogram.sum / 1e9
    warm_up = stats.warmup_length(latencies) if steady and not calls_per_s else 0
    steady_s = busy_s if calls_per_s > 0 else float(latencies[warm_up:].sum()) / 1e9
    numbers: dict[str, Any] = {
        "calls": len(batches),
        "rows": rows,
        "seconds": busy_s,
        "rows_per_s": rows * (1 - warm_up / len(batches)) / steady_s,
        "calls_per_s": len(batches) / busy_s,
        "cpu_ns_per_row": used["cpu_s"] * 1e9 / rows,
        "bytes_written_per_row": used["bytes_written"] / rows,
        "warmup_batches": warm_up,
        "outliers": stats.outliers(latencies[warm_up:]),
        "rss_bytes": measure.rss_bytes(),
        **used,
        **histogram.quantiles(),
    }
    return Operation(name, numbers, {"latency": histogram})


def timed(name: str, call: Callable[[], Any]) -> tuple[Any, Operation]:
    """Run one call and return its result and what it took."""
    before = Usage.now()
    result = call()
    used = Usage.now().since(before)
    return result, Operation(name, {"calls": 1, "rows": 0, "seconds": used["wall_s"], **used})


def check_found(name: str, call: Callable[[Any], Any], batches: Sequence[Any], *, expected: bool) -> None:
    """Assert on the first and last batch that keys are found, or not: a fast wrong answer is no result."""
    for batch in (batches[0], batches[-1]):
        _, found = call(batch)
        if not bool(np.all(found == expected)):
            raise AssertionError(f"{name}: {int(np.sum(found != expected))} of {found.size} keys answered wrongly")


def got(told: LedgerStats) -> dict[str, Any]:
    """Return what the ledger said of itself, plain values only, each name with ``got_`` before it."""
    facts = {field.name: getattr(told, field.name) for field in dataclasses.fields(told)}
    return {
        f"got_{name}": value
        for name, value in facts.items()
        if value is None or (isinstance(value, (bool, int, float, str)) and abs(_size(value)) < 1 << 63)
    }


def _size(value: Any) -> float:
    """Return a number's size, 0 for anything else."""
    return value if isinstance(value, (int, float)) else 0
