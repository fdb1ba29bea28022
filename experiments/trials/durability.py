"""Durability: what an acknowledged batch costs in each mode, shared, handed over, and beside a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from experiments import measure as clocks
from experiments.measure import Histogram
from experiments.trial import Operation, Outcome, Trial
from experiments.trials import common, disk
from experiments.trials.turns import NO_LATENCIES, take_turns, timed
from ledger import GeometricLedger

WINDOW_S: Final = 0.02
"""Calls are put together over so long a time to be drawn against it."""


def measure(trial: Trial) -> Outcome:
    """Measure one part of the experiment."""
    return {"modes": modes, "group": group, "submit": submit, "checkpoints": checkpoints}[trial.factors["part"]](trial)


# ---------------------------------------------------------------- modes
def modes(trial: Trial) -> Outcome:
    """Fill a ledger, then update in batches under one mode; then write the same bytes to the bare disk."""
    rows = trial.factors["batch_rows"]
    calls = common.calls_for(trial, rows)
    rate = trial.factors["arrival_calls_per_s"]
    ledger = _filled(trial)
    try:
        batches = _batches(trial, calls, rows)
        before = ledger.stats()
        updated = common.phase("update", ledger.update_batch, batches, calls * rows, calls_per_s=rate)
        after = ledger.stats()
        facts = common.got(after)
        facts["loop"] = "open" if rate > 0 else "closed"
        log_bytes = after.log_bytes - before.log_bytes
        updated.numbers["log_bytes_per_row"] = log_bytes / (calls * rows)
        updated.numbers["checkpoints"] = after.checkpoints - before.checkpoints
        state = ledger.state_hash()
    finally:
        _, closed = common.timed("close", ledger.close)
    operations = [updated, closed]
    if trial.factors["durability"] == "sync" and not rate:
        operations.append(_disk(trial, max(4096, log_bytes // calls), calls))
        updated.numbers["over_disk"] = updated.numbers["seconds"] / calls / operations[-1].numbers["seconds_per_call"]
    return Outcome(operations, state, facts)


def _filled(trial: Trial, **fixed: Any) -> GeometricLedger:
    """Return a ledger that holds all accounts, on disk too."""
    ledger, _ = common.create(trial.scratch / "ledger", trial, **fixed)
    ledger.snapshot()
    for batch in common.workload(trial).updates(trial.workload["warm_up_calls"], trial.factors["batch_rows"], stream=9):
        ledger.update_batch(batch)
    return ledger


def _batches(trial: Trial, calls: int, rows: int) -> list[np.ndarray]:
    """Return batches of updates; each account is always given the same record, so that any order has one result."""
    return common.workload(trial).updates(calls, rows)


def _disk(trial: Trial, frame_bytes: int, calls: int) -> Operation:
    """Write frames of the same size one after the other, durably, and nothing else."""
    calls = min(calls, trial.workload["disk_calls_max"])
    operation = disk.sequential(trial.scratch / "disk.bin", frame_bytes, calls)
    operation.numbers["rows"] = calls * trial.factors["batch_rows"]
    operation.numbers["rows_per_s"] = operation.numbers["rows"] / operation.numbers["seconds"]
    return operation


# ---------------------------------------------------------------- group commit
def group(trial: Trial) -> Outcome:
    """Update in small batches from several threads, each waiting for its own: what waits together shares a frame."""
    chosen = trial.workload
    ledger = _filled(trial)
    operations = []
    for rows in chosen["group_rows"]:
        for callers in chosen["group_callers"]:
            batches = _batches(trial, chosen["group_calls"], rows)
            before = ledger.stats()
            latencies, seconds = clocks.closed_loops(ledger.update_batch, [batches[i::callers] for i in range(callers)])
            after = ledger.stats()
            if len(latencies) != len(batches):
                raise AssertionError(f"{len(latencies)} of {len(batches)} batches were acknowledged")
            histogram = Histogram.of(latencies)
            calls = len(batches)
            numbers = {
                "callers": callers, "batch_rows": rows, "calls": calls, "rows": calls * rows, "seconds": seconds,
                "rows_per_s": calls * rows / seconds, "checkpoints": after.checkpoints - before.checkpoints,
                "batches_per_frame": calls / (after.log_frames - before.log_frames), **histogram.quantiles(),
            }  # fmt: skip
            operations.append(Operation(f"group_{callers}x{rows}", numbers, {"latency": histogram}))
    return Outcome(operations, ledger.state_hash(), common.got(ledger.stats()))


# ---------------------------------------------------------------- handing over
def submit(trial: Trial) -> Outcome:
    """Update from one thread in small batches: wait for each, or hand all over and wait for the last; in turn."""
    chosen = trial.workload
    ledger = _filled(trial)
    batches = _batches(trial, chosen["submit_calls"], chosen["submit_rows"])

    def hand_over(batches: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        start = time.perf_counter_ns()
        futures = [ledger.submit_batch(batch) for batch in batches]
        ledger.flush()
        seconds = (time.perf_counter_ns() - start) / 1e9
        if not all(future.done() and future.result() for future in futures):
            raise AssertionError("a batch was not acknowledged")
        return NO_LATENCIES, seconds

    parts = {"blocking": timed(ledger.update_batch), "submit": hand_over}
    before = ledger.stats().checkpoints
    rounds = [dict.fromkeys(parts, batches) for _ in range(chosen["submit_rounds"])]
    operations = take_turns(parts, rounds, chosen["submit_rows"])
    for operation in operations:
        operation.numbers |= {"batch_rows": chosen["submit_rows"], "checkpoints": ledger.stats().checkpoints - before}
    return Outcome(operations, ledger.state_hash(), common.got(ledger.stats()))


# ---------------------------------------------------------------- beside checkpoints
def checkpoints(trial: Trial) -> Outcome:
    """Update at a set rate while checkpoints come and go; tell the calls that met one from the others."""
    chosen = trial.workload
    rows, rate = chosen["checkpoint_rows"], chosen["checkpoint_calls_per_s"]
    calls = int(rate * chosen["checkpoint_s"])
    log_bytes = chosen["checkpoint_each_bytes"]
    ledger = _filled(trial, checkpoint_log_bytes=log_bytes, log_segment_bytes=2 * log_bytes)
    batches = _batches(trial, calls, rows)
    taker = ledger._checkpointer  # what `stats` tells of it, without a walk of the page tables at each call
    assert taker is not None
    met = np.zeros(calls, bool)
    ends = np.zeros(calls, np.int64)
    numbers = iter(range(calls))

    def update(batch: np.ndarray) -> None:
        number = next(numbers)
        running, taken = taker.running, taker.taken
        ledger.update_batch(batch)
        met[number] = running or taker.running or taker.taken != taken
        ends[number] = time.perf_counter_ns()

    before = taker.taken
    latencies, _ = clocks.run_calls(update, batches, calls_per_s=rate)
    taken = taker.taken - before
    starts = (ends - latencies - (ends[0] - latencies[0])) / 1e9
    operations = [*_windows(starts, latencies), *_intervals(starts, met)]
    for name, which, count in (("beside_checkpoints", met, taken), ("between_checkpoints", ~met, 0)):
        histogram = Histogram.of(latencies[which])
        numbers = {"calls": histogram.n, "rows": histogram.n * rows, "checkpoints": count, **histogram.quantiles()}
        operations.append(Operation(name, numbers, {"latency": histogram}))
    for operation in operations:
        operation.numbers |= {"batch_rows": rows, "arrival_calls_per_s": rate}
    return Outcome(operations, ledger.state_hash(), common.got(ledger.stats()))


def _windows(starts: np.ndarray, latencies: np.ndarray) -> list[Operation]:
    """Return median and greatest latency of the calls that were due in each window of time."""
    found = []
    number = (starts // WINDOW_S).astype(int)
    for window in np.unique(number):
        some = latencies[number == window]
        numbers = {"latency_ns_p50": float(np.median(some)), "latency_ns_max": int(some.max())}
        found.append(Operation("window", {"at_s": float(window * WINDOW_S), **numbers}))
    return found


def _intervals(starts: np.ndarray, met: np.ndarray) -> list[Operation]:
    """Return the times from the first to the last call in a row that met a checkpoint."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], met, [False]])))
    times = zip(starts[edges[::2]].tolist(), starts[edges[1::2] - 1].tolist(), strict=True)
    return [Operation("checkpoint", {"at_s": first, "until_s": last}) for first, last in times]
