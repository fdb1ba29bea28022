"""Reading a batch of keys as of one commit, by any number of threads."""

from __future__ import annotations

import numpy as np

from ledger.kernels.index import BROKEN, NONE, find_slot, key_matches
from ledger.kernels.intrinsics import (
    fetch_add,
    load_acquire,
    prefetch_read,
    spin_pause,
    store_release,
)
from ledger.kernels.jit import kernel
from ledger.kernels.pipeline import (
    JOB_DONE,
    JOB_ROW,
    JOB_STATUS,
    MASK,
    RECORDS,
    SEED,
    SET_DISTANCE,
    SET_LANES,
    SET_LSN,
    SET_ROWS,
    SET_SHARDS,
    SHARD,
    U0,
    U1,
    U2,
    U3,
    U4,
    U5,
    U6,
    U7,
    U8,
    U32,
    WORDS,
    claim,
    find_entry,
    find_home,
    hash_ahead,
    hash_some,
    joined,
)
from ledger.kernels.records import read_cell
from ledger.layout import (
    STATE_COMMITTED,
    STATUS_CORRUPT,
    STATUS_RETRY,
)


@kernel
def committed_lsn(state):
    """Return the LSN that readers may see now (acquire)."""
    return load_acquire(state, np.uint64(STATE_COMMITTED))


@kernel
def read_range(view, rows, given, key, settings, first, stop, out, found, job, counters, rings):
    """Copy the accounts of the keys first..stop-1 as of the pinned LSN; stops at the first row that fails."""
    index, records, shards, _ = view
    committed = settings[SET_LSN]
    distance = np.int64(settings[SET_DISTANCE])
    words, spots, homes, slots = rings
    place = U0
    ahead = distance > 0
    shard_count = settings[SET_SHARDS]
    offset = first - first  # not a literal, for which numba would compile everything once more
    hash_some(rows, first, first, stop, given, offset, key, words)
    for step in range(first, stop + 2 * distance):
        if step < stop:
            hash_ahead(rows, step, first, stop, given, offset, key, words)
            find_home(index, shards, shard_count, words, spots, homes, np.uint64(step - first) & MASK, ahead)
        behind = step - distance
        if first <= behind < stop:
            record = find_entry(index, shards, words, spots, homes, slots, np.uint64(behind - first) & MASK, counters)
            if ahead and record != NONE:
                prefetch_read(records, record)
                prefetch_read(records, record + U8)
        behind = step - 2 * distance
        if behind < first:
            continue
        row = np.uint64(behind)
        at = np.uint64(behind - first) & MASK
        shard = spots[at]
        slot = slots[at]
        k0, k1, k2, k3 = rows[row, U0], rows[row, U1], rows[row, U2], rows[row, U3]
        if slot != NONE:
            record = (shards[shard + RECORDS] + slot) * WORDS
            if not key_matches(records, record, k0, k1, k2, k3):
                slot, place = find_slot(
                    index, records, shards, shard // SHARD, homes[at], np.uint64(words[U2, at]), k0, k1, k2, k3
                )
        if slot == BROKEN:
            job[JOB_ROW] = ((shard // SHARD) << U32) | place
            store_release(job, np.uint64(JOB_STATUS), np.uint64(STATUS_CORRUPT))
            return
        status = np.int64(1)
        balance = nonce = staked = modified = U0
        if slot != NONE:
            record = (shards[shard + RECORDS] + slot) * WORDS
            status, balance, nonce, staked, modified = read_cell(records, record, committed, shards[shard + SEED], slot)
        if status == np.int64(STATUS_RETRY) or status == np.int64(STATUS_CORRUPT):
            job[JOB_ROW] = ((shard // SHARD) << U32) | slot
            store_release(job, np.uint64(JOB_STATUS), np.uint64(status))
            return
        found[row] = status == np.int64(0)
        out[row, U0] = k0
        out[row, U1] = k1
        out[row, U2] = k2
        out[row, U3] = k3
        out[row, U4] = balance
        out[row, U5] = nonce
        out[row, U6] = staked
        out[row, U7] = modified


@kernel
def read_batch(view, rows, given, key, settings, job, out, found, counters, words, ring, lane):
    """Work on a batch of reads until nothing of it is left.

    Parameters
    ----------
    rows : uint64[n, 4]
        Keys.
    out : uint64[n, 8]
        Gets the accounts; fields are 0 where the key is absent.
    found : uint8[n]
    settings, job, counters, lane
        As in `apply_frame`; SET_LSN is the LSN pinned.

    Returns
    -------
    int64
        0, STATUS_RETRY or STATUS_CORRUPT; JOB_ROW then holds shard << 32 | slot.
    """
    total = settings[SET_ROWS]
    rings = (words[lane], ring[lane, 0], ring[lane, 1], ring[lane, 2])
    if not joined(job, lane):
        return np.int64(0)
    while True:
        first, stop = claim(job, total, settings[SET_LANES])
        if first >= stop:
            break
        if load_acquire(job, np.uint64(JOB_STATUS)) == U0:
            read_range(view, rows, given, key, settings, first, stop, out, found, job, counters[lane], rings)
        fetch_add(job, np.uint64(JOB_DONE), np.uint64(stop - first))
    while load_acquire(job, np.uint64(JOB_DONE)) < total:
        spin_pause()
    return np.int64(load_acquire(job, np.uint64(JOB_STATUS)))
