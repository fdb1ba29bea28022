"""Limits: the engine beside its floors, the bare disk and LMDB, all of them in turn in one process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from experiments import floors
from experiments.baselines.lmdb_store import LmdbStore
from experiments.floors import Places
from experiments.measure import Histogram, closed_loop, closed_loops
from experiments.trial import Operation, Outcome, Trial
from experiments.trials import common, fresh
from experiments.trials.frames import FrameWriter
from experiments.trials.turns import Part, take_turns, timed, whole
from experiments.workload import Workload
from ledger import GeometricLedger, Options
from ledger.storage.frames import frame_bytes

CALLERS: Final = 2
CHOICE_ROUNDS: Final = 7


def measure(trial: Trial) -> Outcome:
    """Measure one part of the experiment."""
    return {"batches": batches, "single": single, "open": fresh.measure}[trial.factors["part"]](trial)


def warm_up() -> None:
    """Compile or load the floors."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Workload(16).records(np.arange(16), 0)
        options = Options(durability="none", capacity=16, shards=1, threads=1)
        ledger = GeometricLedger.open(folder, options)
        ledger.update_batch(rows)
        words = rows.view(np.uint64).reshape(-1, 8)
        keys = np.ascontiguousarray(words[:, :4])
        places = Places.of(ledger._view, keys)
        assert floors.get(ledger._pool, ledger._view, keys, places, 4, np.zeros((16, 8), np.uint64)) == 16
        assert floors.update(ledger._pool, ledger._view, words, places, 4) == 16


# ---------------------------------------------------------------- the best way of a part
def choose(what: str, ways: Mapping[Any, Part], arguments: Sequence[Any], rows_per_call: int) -> tuple[Any, list[Any]]:
    """Run the ways of a part in turn and return the fastest by its median, and a row for each way."""
    rates: dict[Any, list[float]] = {way: [] for way in ways}
    for _ in range(CHOICE_ROUNDS):
        for way, part in ways.items():
            rates[way].append(len(arguments) * rows_per_call / part(arguments)[1])
    medians = {way: float(np.median(found)) for way, found in rates.items()}
    rows = [Operation(f"{what}_choice", {"way": str(way), "rows_per_s": rate}) for way, rate in medians.items()]
    return max(medians, key=lambda way: medians[way]), rows


# ---------------------------------------------------------------- batches
def batches(trial: Trial) -> Outcome:
    """Measure batches of reads and updates: engine, floors, durable engine, bare disk."""
    bench = Bench(trial)
    rows, some = bench.batch_rows, bench.next(trial.workload["calls"])
    get_distance, tried = choose("get_floor", {d: bench.get_floor(d) for d in floors.DISTANCES}, some, rows)
    update_distance, more = choose("update_floor", {d: bench.update_floor(d) for d in floors.DISTANCES}, some, rows)
    disk = FrameWriter(trial.scratch / "frames.bin", bench.frame_bytes)
    ways = {way: whole(write) for way, write in disk.ways.items()}
    disk_way, written = choose("disk", ways, bench.next(trial.workload["sync_calls"]), rows)
    parts = {
        "get_floor": bench.get_floor(get_distance),
        "get_batch": timed(bench.get),
        "get_no_prefetch": bench.get_without_prefetch,
        "update_floor": bench.update_floor(update_distance),
        "update_batch": timed(bench.update),
        "sync": bench.sync,
        "sync_blocking": timed(bench.update_durably),
        "disk": ways[disk_way],
    }
    bench.check()
    for name in parts:
        parts[name](bench.next(CALLERS))
    bench.write_log_once()
    before = bench.checkpoints
    operations = take_turns(parts, bench.rounds(parts), rows)
    facts = {
        **common.got(bench.engine.stats()),
        "get_floor_distance": get_distance,
        "update_floor_distance": update_distance,
        "disk_way": disk_way,
        "frame_bytes": bench.frame_bytes,
        "checkpoints_in_rounds": bench.durable.stats().checkpoints - before - bench.own_checkpoints,
    }
    disk.close()
    return Outcome(operations + tried + more + written, bench.engine.state_hash() + bench.durable.state_hash(), facts)


class Bench:
    """Three equal ledgers and the batches that go through them.

    `engine` and `durable` are what is measured; the floor for reads runs over the engine's own memory, the one
    for updates over that of the third ledger, since it breaks the seals of what it rewrites. All are filled here,
    so that every page of every ledger has been written by this process.
    """

    def __init__(self, trial: Trial) -> None:
        chosen = trial.workload
        self.load = common.workload(trial)
        self.batch_rows: int = chosen["batch_rows"]
        self.frame_bytes = frame_bytes(self.batch_rows, 0)
        self._chosen = chosen
        self._at = 0
        self._log_bytes = 0
        self.own_checkpoints = 0
        self.engine, _ = common.create(trial.scratch / "engine", trial, durability="none")
        self._spoilt, _ = common.create(trial.scratch / "floor", trial, durability="none")
        log_bytes_max = 2 * max(chosen["log_bytes"], chosen["log_segment_bytes"])
        self.durable, _ = common.create(trial.scratch / "sync", trial, durability="sync", log_bytes_max=log_bytes_max)
        numbers = self.load.choose(chosen["batches"] * self.batch_rows, 1).reshape(chosen["batches"], -1)
        caller = np.arange(len(numbers))[:, None] % CALLERS
        numbers = np.abs(numbers - (numbers - caller) % CALLERS)  # no two callers share a key: any order, one result
        self._records = [self.load.records(some, 1) for some in numbers]
        self._keys = [self.load.pubkeys(some) for some in numbers]
        self._rows = [records.view(np.uint64).reshape(-1, 8) for records in self._records]
        self._key_words = [keys.view(np.uint64).reshape(-1, 4) for keys in self._keys]
        self._places = [Places.of(self.engine._view, words) for words in self._key_words]
        self._out = np.zeros((self.batch_rows, 8), np.uint64)

    @property
    def checkpoints(self) -> int:
        """Snapshots of the durable ledger so far, asked for or not."""
        return self.durable.stats().checkpoints

    def next(self, count: int) -> list[int]:
        """Return the numbers of the next batches, around the end of the list."""
        numbers = [(self._at + i) % len(self._records) for i in range(count)]
        self._at = (self._at + count) % len(self._records)
        return numbers

    def rounds(self, parts: Iterable[str]) -> Iterable[dict[str, list[int]]]:
        """Yield what each part does in each round; all take the same batches, the disk and its rivals more."""
        calls, sync_calls = self._chosen["calls"], self._chosen["sync_calls"]
        for _ in range(self._chosen["rounds"]):
            self._log_bytes += (sync_calls + calls) * self.frame_bytes
            if self._log_bytes > self._chosen["log_bytes"]:
                self._snapshot()
                self._log_bytes = (sync_calls + calls) * self.frame_bytes
            numbers = self.next(max(calls, sync_calls))
            yield {name: numbers[: sync_calls if name in ("sync", "disk") else calls] for name in parts}

    def _snapshot(self) -> None:
        self.durable.snapshot()
        self.own_checkpoints += 1

    def write_log_once(self) -> None:
        """Pass over as much log as the rounds will use between two snapshots, so that all of it is recycled."""
        size = self._chosen["log_bytes"] + self._chosen["log_segment_bytes"]
        for _ in range(-(-size // (self.frame_bytes * CALLERS))):
            self.sync(self.next(CALLERS))
        self.durable.snapshot()

    def check(self) -> None:
        """Assert that engine and floor find the same, all of it: a fast wrong answer is no result."""
        records, found = self.engine.get_batch(self._keys[0])
        got = floors.get(self.engine._pool, self.engine._view, self._key_words[0], self._places[0], 8, self._out)
        if not (found.all() and got == len(found) and (self._out[:, :4] == self._key_words[0]).all()):
            raise AssertionError(f"{int(found.sum())} keys found by the engine, {got} by the floor, of {len(found)}")
        if not (records.view(np.uint64).reshape(-1, 8) == self._out).all():
            raise AssertionError("engine and floor read different accounts")

    # ------------------------------------------------------------ what is timed
    def get(self, number: int) -> None:
        """Read a batch."""
        self.engine.get_batch(self._keys[number])

    def update(self, number: int) -> None:
        """Write a batch."""
        self.engine.update_batch(self._records[number])

    def update_durably(self, number: int) -> None:
        """Write a batch and wait until it is durable."""
        self.durable.update_batch(self._records[number])

    def get_without_prefetch(self, numbers: Sequence[int]) -> tuple[np.ndarray, float]:
        """Read batches with the same kernel at distance 0."""
        applier = self.engine._applier
        distance, applier.distance = applier.distance, 0
        try:
            return timed(self.get)(numbers)
        finally:
            applier.distance = distance

    def get_floor(self, distance: int) -> Part:
        """Return the floor of reads at a distance, over the engine's own memory."""
        pool, view, out = self.engine._pool, self.engine._view, self._out
        return timed(lambda i: floors.get(pool, view, self._key_words[i], self._places[i], distance, out))

    def update_floor(self, distance: int) -> Part:
        """Return the floor of updates at a distance."""
        pool, view = self._spoilt._pool, self._spoilt._view
        return timed(lambda i: floors.update(pool, view, self._rows[i], self._places[i], distance))

    def sync(self, numbers: Sequence[int]) -> tuple[np.ndarray, float]:
        """Write batches durably from two callers, each waiting for its own: two are in flight."""
        shares = [[number for number in numbers if number % CALLERS == caller] for caller in range(CALLERS)]
        done, seconds = closed_loops(self.update_durably, shares)
        if len(done) != len(numbers):
            raise AssertionError(f"{len(done)} of {len(numbers)} durable batches were acknowledged")
        return done, seconds


# ---------------------------------------------------------------- single gets
def single(trial: Trial) -> Outcome:
    """Measure gets of one key after the other: ours, LMDB's in a transaction each, and in one that is kept."""
    load = common.workload(trial)
    ledger, _ = common.create(trial.scratch / "engine", trial, durability="none")
    folder = trial.scratch / "lmdb"
    folder.mkdir()
    store = LmdbStore.open(folder, load.accounts)
    store.load(load.fill(common.FILL_ROWS))
    gets = trial.workload["single_gets"]

    def get_each(keys: Sequence[bytes]) -> int:
        get = ledger.get
        found = 0
        for key in keys:
            account = get(key)
            if account is not None:
                found += 1
        return found

    def keys_of(stream: int) -> list[bytes]:
        return [key.tobytes() for key in load.pubkeys(load.choose(gets, stream))]

    loops = {"get": get_each, "lmdb": store.get_each, "lmdb_kept": store.get_each_kept}
    keys = keys_of(1)
    for key in keys[:100]:
        account = ledger.get(key)
        if account is None or tuple(account[1:]) != store.get(key):
            raise AssertionError("the ledger and LMDB read different accounts")
    for name, loop in loops.items():
        if loop(keys) != gets:
            raise AssertionError(f"{name} did not find all keys")
    parts = {name: whole(loop) for name, loop in loops.items()}
    rounds = ({name: some for name in parts} for some in map(keys_of, range(2, 2 + trial.workload["rounds"])))
    operations = take_turns(parts, rounds, 1)
    calls = {"get": ledger.get, "lmdb": store.get}
    for operation in operations[: len(parts)]:
        if operation.name in calls:
            operation.histograms["latency"] = Histogram.of(closed_loop(calls[operation.name], keys))
    facts = common.got(ledger.stats())
    store.close()
    return Outcome(operations, ledger.state_hash(), facts)
