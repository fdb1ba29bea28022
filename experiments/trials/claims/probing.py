"""Claims about open addressing: probes by load, inserts and updates of the bare index."""

from __future__ import annotations

import dataclasses
import mmap

import numpy as np

from experiments.analysis.probing import knuth_hit, knuth_miss
from experiments.trial import Operation, Outcome, Trial
from experiments.trials import capacity, common
from experiments.trials.turns import take_turns, whole
from ledger.kernels.index import enter, home_of, probe
from ledger.kernels.jit import kernel
from ledger.layout import SHARD_POSITIONS, SHARD_WORDS

_U0, _U1, _U32 = np.uint64(0), np.uint64(1), np.uint64(32)


def knuth(trial: Trial) -> Outcome:
    """Fill ledgers of some seeds to each load and divide the probes of hits and misses by Knuth's."""
    operations = []
    count = trial.workload["seeds"]
    for load in trial.workload["loads"]:
        for number in range(trial.repeat * count, (trial.repeat + 1) * count):
            one = dataclasses.replace(trial, seed=trial.seed + number, factors={"index_load": load})
            ledger, _ = common.create(trial.scratch / f"{load}-{number}", one, durability="none", storage="memory")
            hit, miss = Operation(f"hit at {load}", {"round": number}), Operation(f"miss at {load}", {"round": number})
            facts = capacity.probes(ledger, {"got_shards": 1}, hit, miss)
            taken = facts["got_load_factor"]
            hit.numbers["over_knuth"] = facts["probes_hit_mean"] / knuth_hit(taken)
            miss.numbers["over_knuth"] = facts["probes_miss_mean"] / knuth_miss(taken)
            operations += [hit, miss]
    return Outcome([dataclasses.replace(item, histograms={}) for item in operations])


def index_inserts(trial: Trial) -> Outcome:
    """Enter keys, whose hash words are at hand, into an empty index: in memory not touched before, and touched."""
    keys = trial.workload["keys"]
    homes, tags = _words(trial, keys)
    rounds, parts = range(trial.workload["rounds"]), {}
    for load in trial.workload["loads"]:
        positions = int(keys / load)

        def fresh(_: object, positions: int = positions) -> None:
            assert _insert(_empty(positions), _shard(positions), homes, tags) == keys

        index = _empty(positions)

        def prefaulted(_: object, index: np.ndarray = index) -> None:
            assert _insert(index, _shard(index.size), homes, tags) == keys

        parts |= {f"load {load}, fresh": whole(fresh), f"load {load}, prefaulted": whole(prefaulted)}
        _zero_between(parts, f"load {load}, prefaulted", index)
    operations = take_turns(parts, ({name: [0] for name in parts} for _ in rounds), keys)
    for item in operations:
        item.numbers["ms_per_million"] = item.numbers["seconds"] * 1e9 / keys
    return Outcome(operations)


def _zero_between(parts: dict, name: str, index: np.ndarray) -> None:
    """Empty an index, whose pages stay, before its part runs; the clock does not see it."""
    part = parts[name]

    def run(arguments):
        index[:] = 0
        return part(arguments)

    parts[name] = run


def index_updates(trial: Trial) -> Outcome:
    """Look up and rewrite entries of the bare index in random order, on one thread, for some numbers of keys."""
    parts, arguments = {}, {}
    for keys in trial.workload["keys"]:
        homes, tags = _words(trial, keys)
        positions = 2 * keys
        index, shard = _empty(positions), _shard(positions)
        assert _insert(index, shard, homes, tags) == keys
        random = np.random.Generator(np.random.Philox(key=[trial.seed, keys]))
        order = random.integers(0, keys, trial.workload["updates"])

        def update(arguments, index=index, homes=homes[order], tags=tags[order], keys=keys):
            assert _update(index, homes, tags, np.uint64(keys)) == len(tags)

        parts[f"{keys} keys"] = whole(update)
        arguments[f"{keys} keys"] = [0]
    return Outcome(take_turns(parts, [arguments] * trial.workload["rounds"], trial.workload["updates"]))


def warm_up() -> None:
    """Compile or load the kernels."""
    homes = np.arange(4, dtype=np.uint64)
    index = _empty(8)
    assert 4 == _insert(index, _shard(8), homes, homes)
    assert 4 == _update(index, homes, homes, np.uint64(4))
    capacity.warm_up()


def _words(trial: Trial, keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two hash words of random keys that the index looks at."""
    random = np.random.Generator(np.random.Philox(key=[trial.seed, 7]))
    return random.integers(0, 1 << 32, keys, np.uint64), random.integers(0, 1 << 32, keys, np.uint64)


def _empty(positions: int) -> np.ndarray:
    """Return an index of zeros whose memory nobody has touched."""
    return np.frombuffer(mmap.mmap(-1, positions * 8), np.uint64)


def _shard(positions: int) -> np.ndarray:
    """Return the descriptor of one shard with so many positions."""
    words = np.zeros(SHARD_WORDS, np.uint64)
    words[SHARD_POSITIONS] = positions
    return words


@kernel
def _insert(index, shards, homes, tags):
    """Enter a slot for each key; return how many there are."""
    positions = np.uint64(index.size)
    for i in range(homes.size):
        enter(index, shards, _U0, home_of(homes[i], positions), tags[i], np.uint64(i))
    return homes.size


@kernel
def _update(index, homes, tags, used):
    """Find each key's entry and write it again; return how many were found."""
    positions, found = np.uint64(index.size), 0
    for i in range(homes.size):
        at, slot, _ = probe(index, _U0, positions, home_of(homes[i], positions), tags[i], used)
        if slot < used:
            index[at] = (tags[i] << _U32) | (slot + _U1)
            found += 1
    return found
