"""The index of a shard: open addressing, linear probing, one word a position.

Invariants:

- a word is (fingerprint << 32) | (slot + 1), and 0 where the position is empty;
- an entry never moves and is never removed, so a release store publishes it and readers take no lock;
- entries are made in the order of the slots, so the index is a function of the records alone: rebuilding it
  from them gives the same words;
- a shard's sum is that over its entries of a mix of word and position, so that it can be kept as entries are
  made, and checked although an image holds entries of later frames: `trim_index` takes those out.
"""

from __future__ import annotations

import numpy as np

from ledger.kernels.hashing import hash1, hash8
from ledger.kernels.intrinsics import load_acquire, store_release
from ledger.kernels.jit import kernel
from ledger.kernels.records import is_stranger, mix
from ledger.layout import (
    BLOCK_BYTES,
    INDEX_SLOT_MASK,
    PROBE_BUCKETS,
    RECORD_WORDS,
    SHARD_INDEX_BASE,
    SHARD_POSITIONS,
    SHARD_RECORD_BASE,
    SHARD_SEED,
    SHARD_SUM,
    SHARD_USED,
    SHARD_WORDS,
    STATUS_ABSENT,
    STATUS_CORRUPT,
    STATUS_FULL,
)

U0, U1, U2, U3 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3)
U32 = np.uint64(32)
SLOT_MASK = np.uint64(INDEX_SLOT_MASK)
WORDS = np.uint64(RECORD_WORDS)
BASE, POSITIONS = np.uint64(SHARD_INDEX_BASE), np.uint64(SHARD_POSITIONS)
RECORDS, USED, SEED = np.uint64(SHARD_RECORD_BASE), np.uint64(SHARD_USED), np.uint64(SHARD_SEED)
SHARD, SUM = np.uint64(SHARD_WORDS), np.uint64(SHARD_SUM)
WORDS_PER_BLOCK = np.uint64(BLOCK_BYTES // 8)
LAST_BUCKET = np.uint64(PROBE_BUCKETS - 1)
NONE = np.uint64(0xFFFFFFFFFFFFFFFF)
BROKEN = np.uint64(0xFFFFFFFFFFFFFFFE)


@kernel(inline=True)
def shard_of(word0, shards):
    """Return the shard that the first hash word chooses among `shards`, a power of two."""
    return np.uint64(word0) & (shards - U1)


@kernel(inline=True)
def home_of(word1, positions):
    """Return the home position that the second hash word chooses, by multiplication (D. Lemire, 2019)."""
    return (np.uint64(word1) * positions) >> U32


@kernel(inline=True)
def probe(index, base, positions, at, fingerprint, used):
    """Walk from position `at` to the first entry with the fingerprint, or to an empty position.

    Returns
    -------
    at : uint64
        Where the walk ended, to go on from when the key turns out to be another.
    slot : uint64
        Slot of the entry; all ones when the position is empty.
    steps : uint64
        Positions passed.
    """
    steps = U0
    while steps < positions:
        word = load_acquire(index, base + at)
        if word == U0:
            return at, NONE, steps
        if (word >> U32) == fingerprint:
            slot = (word & SLOT_MASK) - U1
            if slot < used:
                return at, slot, steps
        at += U1
        if at == positions:
            at = U0
        steps += U1
    return at, NONE, steps


@kernel(inline=True)
def key_matches(records, record, k0, k1, k2, k3):
    """Tell whether the record's key is the one given."""
    return (
        records[record] == k0
        and records[record + U1] == k1
        and records[record + U2] == k2
        and records[record + U3] == k3
    )


@kernel
def find_slot(index, records, shards, shard, home, fingerprint, k0, k1, k2, k3):
    """Find the slot of a key, comparing whole keys.

    Returns
    -------
    slot : uint64
        NONE when the key is absent; BROKEN when a record on the way may be the key's, but fails its seal.
    distance : uint64
        Probe distance: positions passed before the one where the walk ended; for BROKEN the slot.
    """
    at_shard = shard * SHARD
    base = shards[at_shard + BASE]
    positions = shards[at_shard + POSITIONS]
    first = shards[at_shard + RECORDS]
    used = load_acquire(shards, at_shard + USED)
    distance = U0
    at = home
    while distance < positions:
        at, slot, steps = probe(index, base, positions, at, fingerprint, used)
        distance += steps
        if slot == NONE or key_matches(records, (first + slot) * WORDS, k0, k1, k2, k3):
            return slot, distance
        if not is_stranger(records, (first + slot) * WORDS, shards[at_shard + SEED], slot):
            return BROKEN, slot
        distance += U1
        at += U1
        if at == positions:
            at = U0
    return NONE, distance


@kernel
def enter(index, shards, at_shard, home, fingerprint, slot):
    """Publish the entry of a new slot at the first free position from its home, and add it to the shard's sum.

    Returns
    -------
    uint64
        The position in the shard's index, or all ones when the index is full.

    Notes
    -----
    **Ordering**: release; pairs with the acquire load in `probe`. The record's key must be there before.
    """
    base = shards[at_shard + BASE]
    positions = shards[at_shard + POSITIONS]
    word = (fingerprint << U32) | (slot + U1)
    at = home
    for _ in range(positions):
        if load_acquire(index, base + at) == U0:
            store_release(index, base + at, word)
            shards[at_shard + SUM] += mix(word, at)
            return at
        at += U1
        if at == positions:
            at = U0
    return NONE


@kernel
def rebuild_index(index, records, shards, shard, first, stop, shard_count, given, key, words):
    """Enter the slots first..stop-1 of a shard into its index, which was zeroed before slot 0.

    Parameters
    ----------
    index, records : uint64[words]
    shards : uint64[shards * 8]
    shard, first, stop, shard_count : uint64
    given : uint32[3, n]
        Hash words of the slots first..stop-1 by another hash function, or an empty array.
    key : uint32[8]
        Key of the hash.
    words : uint32[3, 8]
        Scratch.

    Returns
    -------
    int64
        0; STATUS_CORRUPT when a record's key belongs to another shard; STATUS_FULL when positions are short.
    """
    at_shard = shard * SHARD
    positions = shards[at_shard + POSITIONS]
    origin = shards[at_shard + RECORDS]
    rows = records.reshape((records.size // RECORD_WORDS, RECORD_WORDS))
    slot = first
    while slot < stop:
        count = min(np.uint64(8), stop - slot)
        if given.shape[1] > 0:
            for lane in range(np.int64(count)):
                for word in range(3):
                    words[word, lane] = given[word, np.int64(slot - first) + lane]
        elif count == np.uint64(8):
            hash8(rows, np.int64(origin + slot), key, words, 0)
        else:
            for lane in range(np.int64(count)):
                hash1(rows, np.int64(origin + slot) + lane, key, words, lane)
        for lane in range(np.int64(count)):
            if shard_of(words[0, lane], shard_count) != shard:
                return np.int64(STATUS_CORRUPT)
            home = home_of(words[1, lane], positions)
            if enter(index, shards, at_shard, home, np.uint64(words[2, lane]), slot) == NONE:
                return np.int64(STATUS_FULL)
            slot += U1
    return np.int64(0)


@kernel
def trim_index(index, base, positions, used, dirty):
    """Take out the entries of slots that are not given out, and add up the others.

    Parameters
    ----------
    index : uint64[words]
    base, positions, used : uint64
        Of the shard.
    dirty : uint8[blocks]
        Gets 1 for each block of the index array that was changed.

    Returns
    -------
    uint64
        The sum over the entries that stay.

    Notes
    -----
    A checkpoint that writers overtook leaves entries of later frames in the image. An entry is only made where
    all positions before it are taken, so without the later ones the index is what it was at the checkpoint.
    **Complexity**: O(positions), a sequential pass.
    """
    total = U0
    for at in range(positions):
        word = index[base + np.uint64(at)]
        if word == U0:
            continue
        if (word & SLOT_MASK) - U1 < used:
            total += mix(word, np.uint64(at))
        else:
            index[base + np.uint64(at)] = U0
            dirty[(base + np.uint64(at)) // WORDS_PER_BLOCK] = 1
    return total


@kernel
def measure_distances(index, records, shards, shard, given, key, words, distances):
    """Write each position's probe distance to `distances` (int32[positions]), -1 where it is empty.

    `given` holds hash words by slot when another hash is in use (uint32[3, used]), else is empty; `words` is scratch
    (uint32[3, 8]).

    Returns
    -------
    int64
        0, or STATUS_ABSENT when an entry names a slot that is not given out.
    """
    at_shard = shard * SHARD
    base = shards[at_shard + BASE]
    positions = shards[at_shard + POSITIONS]
    origin = shards[at_shard + RECORDS]
    used = shards[at_shard + USED]
    rows = records.reshape((records.size // RECORD_WORDS, RECORD_WORDS))
    for at in range(np.int64(positions)):
        word = index[base + np.uint64(at)]
        if word == U0:
            distances[at] = -1
            continue
        slot = (word & SLOT_MASK) - U1
        if slot >= used:
            return np.int64(STATUS_ABSENT)
        if given.shape[1] > 0:
            home = home_of(given[1, np.int64(slot)], positions)
        else:
            hash1(rows, np.int64(origin + slot), key, words, 0)
            home = home_of(words[1, 0], positions)
        distance = np.int64(at) - np.int64(home)
        distances[at] = distance if distance >= 0 else distance + np.int64(positions)
    return np.int64(0)
