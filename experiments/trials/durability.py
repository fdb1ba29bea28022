"""Durability: what an acknowledged batch costs in each mode, beside the disk's own time for its bytes."""

from __future__ import annotations

from experiments.trial import Operation, Outcome, Trial
from experiments.trials import common, disk


def measure(trial: Trial) -> Outcome:
    """Fill a ledger, then update in batches under one mode; then write the same bytes to the bare disk."""
    load = common.workload(trial)
    rows = trial.factors["batch_rows"]
    calls = common.calls_for(trial, rows)
    rate = trial.factors["arrival_calls_per_s"]
    path = trial.scratch / "ledger"
    ledger, _ = common.create(path, trial)
    try:
        ledger.snapshot()
        batches = load.updates(calls, rows)
        for batch in load.updates(trial.workload["warm_up_calls"], rows, stream=9):
            ledger.update_batch(batch)
        before = ledger.stats()
        updated = common.phase("update", ledger.update_batch, batches, calls * rows, calls_per_s=rate)
        after = ledger.stats()
        facts = common.got(after)
        facts["loop"] = "open" if rate > 0 else "closed"
        log_bytes = after.log_bytes - before.log_bytes
        updated.numbers["log_bytes_per_row"] = log_bytes / (calls * rows)
        state = ledger.state_hash()
    finally:
        _, closed = common.timed("close", ledger.close)
    operations = [updated, closed]
    if trial.factors["durability"] == "sync" and not rate:
        operations.append(_disk(trial, max(4096, log_bytes // calls), calls))
        updated.numbers["over_disk"] = updated.numbers["seconds"] / calls / operations[-1].numbers["seconds_per_call"]
    return Outcome(operations, state, facts)


def _disk(trial: Trial, frame_bytes: int, calls: int) -> Operation:
    """Write frames of the same size one after the other, durably, and nothing else."""
    calls = min(calls, trial.workload["disk_calls_max"])
    operation = disk.sequential(trial.scratch / "disk.bin", frame_bytes, calls)
    operation.numbers["rows"] = calls * trial.factors["batch_rows"]
    operation.numbers["rows_per_s"] = operation.numbers["rows"] / operation.numbers["seconds"]
    return operation
