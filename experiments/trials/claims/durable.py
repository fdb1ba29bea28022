"""Claims about durable batches: rate beside memory's, latency by size, group commit, and what a kill loses."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments.children import Child, die_with_parent
from experiments.measure import Histogram, closed_loops
from experiments.trial import Operation, Outcome, Trial
from experiments.trials import common, limits
from experiments.trials.claims import compare
from experiments.trials.turns import take_turns, timed
from experiments.workload import Workload
from ledger import GeometricLedger, Options

warm_up = limits.warm_up
_PAIRS: Final = {
    "over_none": {"sync": "update_batch", "sync_blocking": "update_batch"},
    "over_floor": {"sync": "update_floor", "sync_blocking": "update_floor", "update_batch": "update_floor"},
    "over_disk": {"sync": "disk", "sync_blocking": "disk"},
}


def beside_limits(trial: Trial) -> Outcome:
    """Run the trial of `limits` at some batch sizes: durable batches beside memory, the bare index and the disk."""
    operations: list[Operation] = []
    facts: dict[str, Any] = {}
    state = ""
    for rows in trial.workload["sizes"]:
        scratch = trial.scratch / str(rows)
        scratch.mkdir()
        found = limits.batches(
            dataclasses.replace(trial, scratch=scratch, workload={**trial.workload, "batch_rows": rows})
        )
        timed_rows = [item for item in found.operations if "round" in item.numbers]
        for column, pairs in _PAIRS.items():
            compare(timed_rows, column, pairs)
        operations += [dataclasses.replace(item, name=f"{item.name} {rows}") for item in timed_rows]
        facts |= {f"disk_way_{rows}": found.facts["disk_way"]}
        state += found.state_hash or ""
    return Outcome(operations, state, facts)


# ---------------------------------------------------------------- latency by size
def hot_and_uniform(trial: Trial) -> Outcome:
    """Write durable batches of transfers, two updates each, between two accounts, and between any."""
    chosen, load = trial.workload, common.workload(trial)
    rows = 2 * chosen["transfers"]
    ledger, _ = common.create(trial.scratch / "ledger", trial, durability="sync")
    ledger.snapshot()
    hot = load.records(np.resize(np.arange(2), rows), 1)
    parts = {"two accounts": timed(ledger.update_batch), "uniform": timed(ledger.update_batch)}
    rounds = [
        {"two accounts": [hot] * chosen["calls"], "uniform": load.updates(chosen["calls"], rows, 1)}
        for _ in range(chosen["rounds"] + 1)
    ]
    operations = [item for item in take_turns(parts, rounds, rows) if item.numbers["round"]]  # the first warms up
    for item in operations:
        item.numbers["ms_per_batch"] = item.numbers["seconds"] * 1e3 / item.numbers["calls"]
    return Outcome(operations, ledger.state_hash(), common.got(ledger.stats()))


def latency_by_size(trial: Trial) -> Outcome:
    """Offer durable rows at set rates, in small batches and in large ones: when a row is done after it was due.

    A row waits for its batch to fill, for the batches before it, and for the disk: the median over rows has all three.
    """
    chosen, load = trial.workload, common.workload(trial)
    ledger, _ = common.create(trial.scratch / "ledger", trial, durability="sync")
    ledger.snapshot()
    operations = []
    for rate in chosen["rates"]:
        medians = {}
        for rows in chosen["sizes"]:
            calls = max(3, int(rate * chosen["seconds"] / rows))
            ages = common.phase(
                f"{rows} rows at {rate}/s", ledger.update_batch, load.updates(calls, rows), calls * rows,
                calls_per_s=rate / rows,
            )  # fmt: skip
            median = ages.histograms["latency"].quantile(0.5, beyond=1) or 0.0
            ages.numbers["row_latency_ms"] = medians[rows] = median / 1e6 + rows / rate * 1e3 / 2
            operations.append(ages)
        small, large = min(medians), max(medians)
        operations.append(Operation(f"{rate} rows/s", {"small_over_large": medians[small] / medians[large]}))
    return Outcome(operations, ledger.state_hash(), common.got(ledger.stats()))


# ---------------------------------------------------------------- group commit
def group_commit(trial: Trial) -> Outcome:
    """Write single durable rows from some threads: those that wait together share a write, or each has its own."""
    chosen = trial.workload
    ledger, _ = common.create(trial.scratch / "ledger", trial, durability="sync")
    ledger.snapshot()
    alone = threading.Lock()

    def one_each(batch: np.ndarray) -> None:
        with alone:
            ledger.update_batch(batch)

    operations = []
    for callers in chosen["callers"]:
        batches = common.workload(trial).updates(chosen["calls"], 1)
        shares = [batches[i::callers] for i in range(callers)]
        for number in range(chosen["rounds"]):
            found = []
            for name, call in (("one each", one_each), ("shared", ledger.update_batch))[:: 1 if number % 2 else -1]:
                before = ledger.stats().log_frames
                latencies, seconds = closed_loops(call, shares)
                if len(latencies) != len(batches):
                    raise AssertionError(f"{len(latencies)} of {len(batches)} batches were acknowledged")
                numbers = {"round": number, "callers": callers, "calls": len(batches), "rows": len(batches)}
                numbers |= {"seconds": seconds, "rows_per_s": len(batches) / seconds}
                numbers |= {"rows_per_sync": len(batches) / (ledger.stats().log_frames - before)}
                numbers |= Histogram.of(latencies).quantiles()
                found.append(Operation(f"{name}, {callers} callers", numbers))
            operations += compare(found, "gain", {f"shared, {callers} callers": f"one each, {callers} callers"})
    return Outcome(operations, ledger.state_hash(), common.got(ledger.stats()))


# ---------------------------------------------------------------- what a kill loses
def killed(trial: Trial) -> Outcome:
    """Kill a durable writer in the middle of its work, open what it left, and look for every acknowledged batch.

    Batch n gives all accounts of its group the record of version n, so that what is found tells which batch it is of.
    """
    chosen, load = trial.workload, common.workload(trial)
    path, rows, groups = trial.scratch / "ledger", chosen["batch_rows"], chosen["groups"]
    options = common.options(trial, durability="sync")
    ledger = GeometricLedger.open(path, options)
    for group in range(groups):
        ledger.update_batch(load.records(_group(group, rows), 0))
    ledger.close()
    operations, done = [], 0
    random = np.random.default_rng([trial.seed, trial.repeat])
    for number in range(chosen["kills"]):
        first = done + 1

        def write(say: Any, first: int = first) -> None:
            die_with_parent()
            with GeometricLedger.open(path, options, create=False) as book:
                for version in range(first, 1 << 20):
                    book.update_batch(load.records(_group(version % groups, rows), version))
                    say(version)

        child = Child(write)
        said = [child.line()]
        time.sleep(random.uniform(0.0, chosen["kill_after_s"]))
        said += child.kill()
        acknowledged = [int(word) for word in said if word]
        if not acknowledged:
            raise RuntimeError(f"the writer ended with {child.status}")
        done = acknowledged[-1]
        operations.append(
            Operation("kill", {"round": number, **_found(path, options, load, rows, groups, done, first)})
        )
        done += 1  # the batch in flight may be there: the next one is another
    return Outcome(operations)


def _group(group: int, rows: int) -> np.ndarray:
    """Return the account numbers of a group."""
    return np.arange(group * rows, (group + 1) * rows)


def _found(
    path: Path, options: Options, load: Workload, rows: int, groups: int, done: int, first: int
) -> dict[str, Any]:
    """Return the share of acknowledged batches, of those that no later one wrote over, that are there whole."""
    kept = 0
    visible = range(max(first, done - groups + 1), done + 1)
    with GeometricLedger.open(path, options, create=False) as ledger:
        for version in visible:
            numbers = _group(version % groups, rows)
            records, _ = ledger.get_batch(load.pubkeys(numbers))
            versions = {
                version,
                done + 1 if done + 1 == version + groups else version,
            }  # the one in flight may be there
            kept += any(np.array_equal(records, load.records(numbers, some)) for some in versions)
    return {"batches": len(visible), "kept_share": kept / len(visible), "acknowledged": done - first + 1}
