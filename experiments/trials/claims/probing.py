"""Claims about open addressing: probes by load, inserts and updates of the bare index."""

from __future__ import annotations

import mmap

import numpy as np

from experiments.analysis.probing import knuth_hit, knuth_miss
from experiments.trial import Operation, Outcome, Trial
from experiments.trials import capacity
from experiments.trials.turns import take_turns, whole
from experiments.workload import Workload
from ledger.kernels.hashing import hash_rows
from ledger.kernels.index import enter, home_of, probe
from ledger.kernels.jit import kernel
from ledger.layout import INDEX_SLOT_MASK, SHARD_POSITIONS, SHARD_WORDS

_U0, _U1, _U32 = np.uint64(0), np.uint64(1), np.uint64(32)


def knuth(trial: Trial) -> Outcome:
    """Fill indexes of some seeds to each load and divide the probes of hits and misses by Knuth's.

    Keys, hash and kernel are the ledger's. A hit passes the positions from its home, a miss, whose home is any
    position alike, those to the next empty one.
    """
    operations = []
    keys, count = trial.workload["accounts"], trial.workload["seeds"]
    for number in range(trial.repeat * count, (trial.repeat + 1) * count):
        load = Workload(keys, trial.seed + number)
        words = np.empty((3, keys), np.uint32)
        rows = load.pubkeys(np.arange(keys)).view(np.uint64)
        hash_rows(rows, np.frombuffer(load.hash_key, np.uint32), words)
        words = words.astype(np.uint64)
        for share in trial.workload["loads"]:
            index = _empty(int(keys / share))
            assert _insert(index, _shard(index.size), words[1], words[2]) == keys
            at = np.flatnonzero(index)
            slot = (index[at] & np.uint64(INDEX_SLOT_MASK)) - _U1
            home = (words[1][slot] * np.uint64(index.size)) >> _U32
            hit = 1 + ((at - home.astype(np.int64)) % index.size).mean()
            miss = 1 + capacity.gaps(index != 0).mean()
            taken = keys / index.size
            for name, found, expected in (("hit", hit, knuth_hit(taken)), ("miss", miss, knuth_miss(taken))):
                numbers = {"round": number, "probes": float(found), "over_knuth": float(found / expected)}
                operations.append(Operation(f"{name} at {share}", numbers))
    return Outcome(operations)


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
    hash_rows(homes.reshape(1, 4), np.zeros(8, np.uint32), np.empty((3, 1), np.uint32))
    Workload(4).pubkeys(np.arange(4))


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
