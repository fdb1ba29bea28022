"""Capacity: throughput and probe distances of one size at one load factor."""

from __future__ import annotations

import tempfile

import numpy as np

from experiments.measure import Histogram
from experiments.trial import Operation, Outcome, Trial
from experiments.trials import common
from ledger import GeometricLedger, Options

PROBE_BUCKETS = 256


def warm_up() -> None:
    """Load the kernel that reads an index."""
    with (
        tempfile.TemporaryDirectory() as folder,
        GeometricLedger.open(folder, Options(capacity=16, shards=1)) as ledger,
    ):
        ledger.index_view(0)


def measure(trial: Trial) -> Outcome:
    """Fill a ledger to its capacity, then update, get hits and get misses; count probe distances."""
    load = common.workload(trial)
    rows = trial.workload["batch_rows"]
    calls = common.calls_for(trial, rows)
    path = trial.scratch / "ledger"
    fixed = {"durability": "none", "storage": "memory", "index_load": trial.factors["load_factor"]}
    ledger, inserted = common.create(path, trial, **fixed)
    updated = common.phase("update", ledger.update_batch, load.updates(calls, rows), calls * rows)
    hits, misses = load.hits(calls, rows), load.misses(calls, rows)
    common.check_found("get_hit", ledger.get_batch, hits, expected=True)
    common.check_found("get_miss", ledger.get_batch, misses, expected=False)
    hit = common.phase("get_hit", ledger.get_batch, hits, calls * rows)
    miss = common.phase("get_miss", ledger.get_batch, misses, calls * rows)
    facts = common.got(ledger.stats())
    facts |= _probes(ledger, facts, hit, miss)
    state = ledger.state_hash()
    return Outcome([inserted, updated, hit, miss], state, facts)


def _probes(ledger: GeometricLedger, facts: dict[str, object], hit: Operation, miss: Operation) -> dict[str, float]:
    """Read the index: distance of every entry, and from every position to the next empty one.

    The first are the probes that the keys cost when each is asked for once, the second those of a key
    that is not there, whose home is any position alike.
    """
    hits = np.zeros(PROBE_BUCKETS, np.int64)
    misses = np.zeros(PROBE_BUCKETS, np.int64)
    taken = positions = 0
    hit_sum = gap_sum = 0
    loads = []
    for shard in range(int(facts["got_shards"])):
        view = ledger.index_view(shard)
        occupied = np.asarray(view.occupied, bool)
        distance = np.asarray(view.distance, np.int64)
        distance = distance[occupied] if distance.size == occupied.size else distance
        gap = gaps(occupied)
        hits += np.bincount(np.minimum(distance, PROBE_BUCKETS - 1), minlength=PROBE_BUCKETS)
        misses += np.bincount(np.minimum(gap, PROBE_BUCKETS - 1), minlength=PROBE_BUCKETS)
        hit_sum += int(distance.sum())
        gap_sum += int(gap.sum())
        taken += distance.size
        positions += occupied.size
        loads.append(occupied.mean())
    hit.histograms["probe_distance"] = _histogram(hits, hit_sum)
    miss.histograms["probe_distance"] = _histogram(misses, gap_sum)
    return {
        "got_load_factor": taken / positions,
        "got_load_factor_min": float(min(loads)),
        "got_load_factor_max": float(max(loads)),
        "index_positions": positions,
        "probes_hit_mean": 1 + hit_sum / taken,
        "probes_miss_mean": 1 + gap_sum / positions,
    }


def gaps(occupied: np.ndarray) -> np.ndarray:
    """Return the distance from each position to the next empty one, around the end."""
    n = occupied.size
    empty = np.flatnonzero(~occupied)
    nearest = np.searchsorted(empty, np.arange(n))
    around = np.append(empty, empty[0] + n)
    return around[nearest] - np.arange(n)


def _histogram(counts: np.ndarray, total: int) -> Histogram:
    """Return counts of small whole numbers, one bucket each, as a histogram."""
    buckets = np.flatnonzero(counts)
    return Histogram.from_sparse(buckets, counts[buckets], int(buckets.max(initial=0)), total)
