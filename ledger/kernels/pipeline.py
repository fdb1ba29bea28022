"""The fused loops over a batch: hash, probe, touch, each some rows ahead of the next.

Row i is hashed (eight keys at once) and the line of its home position is asked for; `distance` rows later its
index entry is probed and the two lines of its record are asked for; another `distance` rows later it is read or
written. So many cache misses are under way at once, and no row waits for its own.
(Group prefetching: Chen, Ailamaki, Gibbons, Mowry, ICDE 2004; here as one software pipeline.)

Work is claimed by fetch-and-add on the words of a job, so that a thread that comes late takes less, and one
that comes too late nothing.
"""

from __future__ import annotations

import numpy as np

from ledger.kernels.hashing import hash1, hash8, hash8_finish, hash8_part, hash8_start
from ledger.kernels.index import NONE, home_of, probe, shard_of
from ledger.kernels.intrinsics import (
    compare_swap,
    load_acquire,
    prefetch_read,
    spin_pause,
    store_release,
)
from ledger.kernels.jit import kernel
from ledger.layout import (
    FLAG_LIVE,
    FLAG_ROW_SHIFT,
    PROBE_BUCKETS,
    RECORD_WORDS,
    RECORDS_PER_BLOCK,
    SHARD_INDEX_BASE,
    SHARD_POSITIONS,
    SHARD_RECORD_BASE,
    SHARD_SEED,
    SHARD_SLOTS,
    SHARD_USED,
    SHARD_WORDS,
)

U0, U1, U2, U3, U4, U5, U6, U7 = (np.uint64(number) for number in range(8))
U8, U32 = np.uint64(8), np.uint64(32)
WORDS = np.uint64(RECORD_WORDS)
BASE, POSITIONS = np.uint64(SHARD_INDEX_BASE), np.uint64(SHARD_POSITIONS)
RECORDS, SLOTS, USED = np.uint64(SHARD_RECORD_BASE), np.uint64(SHARD_SLOTS), np.uint64(SHARD_USED)
SEED, SHARD = np.uint64(SHARD_SEED), np.uint64(SHARD_WORDS)
PER_BLOCK = np.uint64(RECORDS_PER_BLOCK)
WORDS_PER_BLOCK = np.uint64(512)
LIVE = np.uint64(FLAG_LIVE)
ROW_SHIFT = np.uint64(FLAG_ROW_SHIFT)
LAST_BUCKET = np.uint64(PROBE_BUCKETS - 1)

# Words of a job: uint64[16], fresh for each frame or batch of reads.
JOB_CLAIMED = 0  # rows claimed so far
JOB_DONE = 1  # rows done
JOB_MISSED = 2  # rows whose keys are new
JOB_PARTS_CLAIMED = 3
JOB_PARTS_DONE = 4
JOB_STATUS = 5  # 0, or the negative status of a row that failed
JOB_ROW = 6  # shard << 32 | slot of the record behind that status
JOB_ARMED = 7  # set by lane 0: an interrupt between posting the job and running it must not leave half a frame
JOB_WORDS = 16

# Settings of a job: uint64[8].
SET_LSN = 0  # of the frame; for reads the LSN that is pinned
SET_DISTANCE = 1
SET_LANES = 2  # threads that may join in
SET_SHARDS = 3
SET_REDO = 4
SET_ROWS = 5
SET_DELETES = 6
SET_PUBLISH = 7
SET_WORDS = 8

# Words of a thread's counters: uint64[8 + PROBE_BUCKETS]. The probes add up for ever, the others for one frame.
COUNT_LIVE = 0  # wraps: added as a signed difference
COUNT_SUPPLY_LO = 1
COUNT_SUPPLY_HI = 2
COUNT_TAINTED = 3
COUNT_INSERTED = 4
COUNT_PROBES = 8
COUNT_WORDS = 8 + PROBE_BUCKETS

RING = 256
ARM_SPINS = 100_000
RING_MASK = RING - 1
MASK = np.uint64(RING_MASK)


@kernel
def hash_some(rows, row, first, stop, given, offset, key, words):
    """Hash up to eight rows from `row` into the ring: the first group, the last, and any by another hash."""
    count = min(8, stop - row)
    at = (row - first) & RING_MASK
    if given.shape[1] > 0:
        for lane in range(count):
            for word in range(3):
                words[word, at + lane] = given[word, offset + row + lane]
    elif count == 8:
        hash8(rows, row, key, words, at)
    else:
        for lane in range(count):
            hash1(rows, row + lane, key, words, at + lane)


@kernel(inline=True)
def hash_ahead(rows, step, first, stop, given, offset, key, words):
    """Do an eighth of the work of hashing the group of eight rows behind the one that `step` is in.

    The hash leaves the memory idle, so it is cut into pieces that run while cache misses are under way.
    """
    phase = (step - first) & 7
    group = step - phase + 8
    if group >= stop:
        return
    at = (group - first) & RING_MASK
    if group + 8 <= stop and given.shape[1] == 0:
        state = words[3]
        if phase == 0:
            hash8_start(rows, group, key, state)
        elif phase == 1:
            hash8_part(state, 0)
        elif phase == 3:
            hash8_part(state, 1)
        elif phase == 5:
            hash8_part(state, 2)
        elif phase == 7:
            hash8_part(state, 3)
            hash8_finish(state, words, at)
    elif phase == 7:
        hash_some(rows, group, first, stop, given, offset, key, words)


@kernel(inline=True)
def find_home(index, shards, shard_count, words, spots, homes, at, ahead):
    """Work out shard and home of the row at place `at` of the ring, and ask for the line of the home."""
    shard = shard_of(words[U0, at], shard_count) * SHARD
    home = home_of(words[U1, at], shards[shard + POSITIONS])
    spots[at] = shard
    homes[at] = home
    if ahead:
        prefetch_read(index, shards[shard + BASE] + home)


@kernel(inline=True)
def find_entry(index, shards, words, spots, homes, slots, at, counters):
    """Probe for the row at place `at` of the ring; return the first word of its record, or NONE."""
    shard = spots[at]
    used = load_acquire(shards, shard + USED)
    _, slot, steps = probe(
        index, shards[shard + BASE], shards[shard + POSITIONS], homes[at], np.uint64(words[U2, at]), used
    )
    slots[at] = slot
    counters[np.uint64(COUNT_PROBES) + min(steps, LAST_BUCKET)] += U1
    return slot if slot == NONE else (shards[shard + RECORDS] + slot) * WORDS


@kernel
def joined(job, lane):
    """Wait for lane 0 to have begun, for a bounded time; tell whether the thread may take work."""
    if lane == 0:
        store_release(job, np.uint64(JOB_ARMED), U1)
        return True
    for _ in range(ARM_SPINS):
        if load_acquire(job, np.uint64(JOB_ARMED)) != U0:
            return True
        spin_pause()
    return False


@kernel(inline=True)
def claim(job, total, lanes):
    """Claim the next range of rows: a share of what is left, in multiples of eight.

    Returns
    -------
    first, stop : int64
        Equal when nothing is left.
    """
    while True:
        first = load_acquire(job, np.uint64(JOB_CLAIMED))
        if first >= total:
            return np.int64(total), np.int64(total)
        left = total - first
        take = left if lanes == U1 else max(np.uint64(512), (left // (lanes + lanes)) & ~np.uint64(7))
        take = min(take, left)
        if compare_swap(job, np.uint64(JOB_CLAIMED), first, first + take):
            return np.int64(first), np.int64(first + take)
