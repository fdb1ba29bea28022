"""Applying a frame: planned, written, its totals kept, published.

A frame is applied in two phases, by any number of threads, with the same result for any number:

1. rows are claimed in ranges; keys that exist are written, the others are noted;
2. noted rows are entered, each shard by one thread, in the order of the rows.
"""

from __future__ import annotations

import numpy as np

from ledger.kernels.hashing import hash1, hash8
from ledger.kernels.index import BROKEN, NONE, enter, find_slot, home_of, key_matches, probe, shard_of
from ledger.kernels.intrinsics import (
    fetch_add,
    load_acquire,
    prefetch_write,
    spin_pause,
    store_release,
)
from ledger.kernels.jit import kernel
from ledger.kernels.pipeline import (
    BASE,
    COUNT_INSERTED,
    COUNT_LIVE,
    COUNT_PROBES,
    COUNT_SUPPLY_HI,
    COUNT_SUPPLY_LO,
    COUNT_TAINTED,
    JOB_DONE,
    JOB_MISSED,
    JOB_PARTS_CLAIMED,
    JOB_PARTS_DONE,
    JOB_ROW,
    JOB_STATUS,
    LIVE,
    MASK,
    PER_BLOCK,
    POSITIONS,
    RECORDS,
    ROW_SHIFT,
    SEED,
    SET_DELETES,
    SET_DISTANCE,
    SET_LANES,
    SET_LSN,
    SET_PUBLISH,
    SET_REDO,
    SET_ROWS,
    SET_SHARDS,
    SHARD,
    SLOTS,
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
    USED,
    WORDS,
    WORDS_PER_BLOCK,
    claim,
    find_entry,
    find_home,
    hash_ahead,
    hash_some,
    joined,
)
from ledger.kernels.records import TAINTED, clear_broken_cells, write_cell
from ledger.layout import (
    KEY_WORDS,
    STATE_APPLIED,
    STATE_APPLIED_LIVE,
    STATE_APPLIED_SUPPLY_HI,
    STATE_APPLIED_SUPPLY_LO,
    STATE_COMMITTED,
    STATE_LIVE,
    STATE_SUPPLY_HI,
    STATE_SUPPLY_LO,
    STATE_TAINTED,
    STATUS_CORRUPT,
    STATUS_FULL,
)


@kernel
def hash_batch(rows, key, settings, job, hashes, lane):
    """Hash a batch of keys, any number of threads together.

    Parameters
    ----------
    rows : uint64[n, 4 or 8]
    key : uint32[8]
    settings, job, lane
        As in `apply_frame`.
    hashes : uint32[3, n]
        Gets the hash words that choose shard, home and fingerprint.

    Returns
    -------
    int64
        0
    """
    total = settings[SET_ROWS]
    if not joined(job, lane):
        return np.int64(0)
    while True:
        first, stop = claim(job, total, settings[SET_LANES])
        if first >= stop:
            break
        for row in range(first, stop, 8):
            if row + 8 <= stop:
                hash8(rows, row, key, hashes, row)
            else:
                for one in range(row, stop):
                    hash1(rows, one, key, hashes, one)
        fetch_add(job, np.uint64(JOB_DONE), np.uint64(stop - first))
    while load_acquire(job, np.uint64(JOB_DONE)) < total:
        spin_pause()
    return np.int64(0)


@kernel(inline=True)
def hash_row(rows, row, given, key, words):
    """Put the hash words of one row into place 0 of `words`, uint32[3, 8]: those that are given, or its own."""
    if given.shape[1] > 0:
        for word in range(3):
            words[word, 0] = given[word, row]
    else:
        hash1(rows, row, key, words, 0)


@kernel
def locate_rows(view, rows, given, key, shard_count, words, out):
    """Find the records of rows by their fingerprints, without touching a record.

    Parameters
    ----------
    rows : uint64[n, 4 or 8]
    out : uint64[n]
        Gets the number of the record in the view, or all ones.
    """
    index, _, shards, _ = view
    for row in range(rows.shape[0]):
        hash_row(rows, row, given, key, words)
        at = shard_of(words[0, 0], np.uint64(shard_count)) * SHARD
        home = home_of(words[1, 0], shards[at + POSITIONS])
        _, slot, _ = probe(
            index, shards[at + BASE], shards[at + POSITIONS], home, np.uint64(words[2, 0]), shards[at + USED]
        )
        out[row] = slot if slot == NONE else shards[at + RECORDS] + slot


@kernel
def plan_rows(view, rows, given, key, shard_count, words, new_rows):
    """Find the rows whose keys are new, without changing anything.

    Parameters
    ----------
    rows : uint64[n, 8]
    new_rows : uint32[n]
        Gets the shard + 1 of each row whose key is not in the ledger, else 0.
    """
    index, records, shards, _ = view
    for row in range(rows.shape[0]):
        hash_row(rows, row, given, key, words)
        shard = shard_of(words[0, 0], np.uint64(shard_count))
        home = home_of(words[1, 0], shards[shard * SHARD + POSITIONS])
        slot, _ = find_slot(
            index, records, shards, shard, home, np.uint64(words[2, 0]),
            rows[row, 0], rows[row, 1], rows[row, 2], rows[row, 3],
        )  # fmt: skip
        new_rows[row] = np.uint32(shard + U1) if slot == NONE else np.uint32(0)


@kernel(inline=True)
def count_change(counters, live, was_live, balance, was_balance):
    """Add one row's change of live accounts and supply to a thread's counters."""
    counters[np.uint64(COUNT_LIVE)] += live - was_live
    if live != U0:
        counters[np.uint64(COUNT_SUPPLY_LO)] += balance
        if counters[np.uint64(COUNT_SUPPLY_LO)] < balance:
            counters[np.uint64(COUNT_SUPPLY_HI)] += U1
    if was_live != U0:
        if counters[np.uint64(COUNT_SUPPLY_LO)] < was_balance:
            counters[np.uint64(COUNT_SUPPLY_HI)] -= U1
        counters[np.uint64(COUNT_SUPPLY_LO)] -= was_balance


@kernel(inline=True)
def write_row(records, dirty, shards, shard, slot, rows, row, number, lsn, is_delete, shared, counters):
    """Write row `row` of `rows` into its slot and count the change."""
    first = shards[shard * SHARD + RECORDS]
    seed = shards[shard * SHARD + SEED]
    record = (first + slot) * WORDS
    balance = nonce = staked = modified = U0
    flags = np.uint64(number) << ROW_SHIFT
    if not is_delete:
        balance = rows[row, U4]
        nonce = rows[row, U5]
        staked = rows[row, U6]
        modified = rows[row, U7]
        flags |= LIVE
    verdict, was_live, was_balance = write_cell(
        records, record, seed, slot, rows[row, U0], rows[row, U1], rows[row, U2], rows[row, U3],
        balance, nonce, staked, modified, lsn, flags, shared,
    )  # fmt: skip
    if verdict != U0:
        dirty[(first + slot) // PER_BLOCK] = 1
        count_change(counters, flags & LIVE, was_live, balance, was_balance)
        if verdict & TAINTED:
            counters[COUNT_TAINTED] = U1


@kernel
def update_range(view, pending, rows, given, key, settings, first, stop, number, job, counters, rings):
    """Write the rows first..stop-1 whose keys exist; note the others in `pending`.

    Parameters
    ----------
    view : tuple
        index, records (uint64 words), shards (uint64[shards * 8]), dirty (uint8 a block of records).
    pending : uint64[2, n]
        Gets for each row (shard << 32 | fingerprint) + 1 and home where the key is new, 0 where it was written.
    rows : uint64[n, 8] or uint64[n, 4]
        Rows, or keys of deletes.
    number : int64
        Number in the frame of row 0 of `rows`; `given` counts in the same way.

    Returns
    -------
    int64
        Rows noted.
    """
    index, records, shards, dirty = view
    lsn = settings[SET_LSN]
    distance = np.int64(settings[SET_DISTANCE])
    shared = settings[SET_LANES] > U1
    redo = settings[SET_REDO] != U0
    offset = number
    number = np.uint64(number)
    is_delete = rows.shape[1] == KEY_WORDS
    words, spots, homes, slots = rings
    count = 0
    place = U0
    ahead = distance > 0
    shard_count = settings[SET_SHARDS]
    hash_some(rows, first, first, stop, given, offset, key, words)
    for step in range(first, stop + 2 * distance):
        if step < stop:
            hash_ahead(rows, step, first, stop, given, offset, key, words)
            find_home(index, shards, shard_count, words, spots, homes, np.uint64(step - first) & MASK, ahead)
        behind = step - distance
        if first <= behind < stop:
            record = find_entry(index, shards, words, spots, homes, slots, np.uint64(behind - first) & MASK, counters)
            if ahead and record != NONE:
                prefetch_write(records, record)
                prefetch_write(records, record + U8)
        behind = step - 2 * distance
        if behind < first:
            continue
        row = np.uint64(behind)
        at = np.uint64(behind - first) & MASK
        shard = spots[at]
        slot = slots[at]
        if slot != NONE:
            record = (shards[shard + RECORDS] + slot) * WORDS
            if not key_matches(records, record, rows[row, U0], rows[row, U1], rows[row, U2], rows[row, U3]):
                slot, place = find_slot(
                    index, records, shards, shard // SHARD, homes[at], np.uint64(words[U2, at]),
                    rows[row, U0], rows[row, U1], rows[row, U2], rows[row, U3],
                )  # fmt: skip
        if slot == BROKEN:
            job[JOB_ROW] = ((shard // SHARD) << U32) | place
            store_release(job, np.uint64(JOB_STATUS), np.uint64(STATUS_CORRUPT))
            pending[U0, number + row] = U0
            continue
        if slot == NONE:
            pending[U0, number + row] = (((shard // SHARD) << U32) | np.uint64(words[U2, at])) + U1
            pending[U1, number + row] = homes[at]
            count += 1
            continue
        pending[U0, number + row] = U0
        if redo:
            clear_broken_cells(records, (shards[shard + RECORDS] + slot) * WORDS, shards[shard + SEED], slot)
        write_row(
            records, dirty, shards, shard // SHARD, slot, rows, row, number + row, lsn, is_delete, shared, counters
        )
    return count


@kernel
def enter_row(view, index_dirty, pending, rows, row, number, lsn, redo, job, counters):
    """Write one noted row: into a new slot, or into the one that an earlier row of the frame made."""
    index, records, shards, dirty = view
    row = np.uint64(row)
    number = np.uint64(number)
    is_delete = rows.shape[1] == KEY_WORDS
    noted = pending[U0, number + row] - U1
    shard = noted >> U32
    fingerprint = noted & np.uint64(0xFFFFFFFF)
    home = pending[U1, number + row]
    at_shard = shard * SHARD
    slot, place = find_slot(
        index, records, shards, shard, home, fingerprint, rows[row, U0], rows[row, U1], rows[row, U2], rows[row, U3]
    )
    if slot == BROKEN:
        job[JOB_ROW] = (shard << U32) | place
        return np.int64(STATUS_CORRUPT)
    if slot == NONE:
        if is_delete:
            return np.int64(0)
        slot = shards[at_shard + USED]
        if slot >= shards[at_shard + SLOTS]:
            return np.int64(STATUS_FULL)
        record = (shards[at_shard + RECORDS] + slot) * WORDS
        records[record] = rows[row, U0]
        records[record + U1] = rows[row, U1]
        records[record + U2] = rows[row, U2]
        records[record + U3] = rows[row, U3]
        if redo:
            clear_broken_cells(records, record, shards[at_shard + SEED], slot)
        write_row(records, dirty, shards, shard, slot, rows, row, number + row, lsn, is_delete, False, counters)
        at = enter(index, shards, at_shard, home, fingerprint, slot)
        if at == NONE:
            return np.int64(STATUS_FULL)
        index_dirty[(shards[at_shard + BASE] + at) // WORDS_PER_BLOCK] = 1
        store_release(shards, at_shard + USED, slot + U1)
        counters[COUNT_INSERTED] += U1
        return np.int64(0)
    write_row(records, dirty, shards, shard, slot, rows, row, number + row, lsn, is_delete, False, counters)
    return np.int64(0)


@kernel
def enter_part(view, index_dirty, pending, rows, deletes, settings, part, parts, job, counters):
    """Enter the noted rows of the shards of one part, rows first, then deletes, in their order."""
    index, _, shards, _ = view
    lsn = settings[SET_LSN]
    redo = settings[SET_REDO] != U0
    distance = np.int64(settings[SET_DISTANCE])
    n_rows = np.int64(settings[SET_ROWS])
    n_deletes = np.int64(settings[SET_DELETES])
    mask = (parts - U1) << U32
    want = part << U32
    for number in range(n_rows + n_deletes):
        ahead = number + distance
        if distance > 0 and ahead < n_rows + n_deletes and pending[0, ahead] != U0:
            noted = pending[0, ahead] - U1
            if noted & mask == want:
                prefetch_write(index, shards[(noted >> U32) * SHARD + BASE] + pending[1, ahead])
        if pending[0, number] == U0 or (pending[0, number] - U1) & mask != want:
            continue
        if number < n_rows:
            status = enter_row(view, index_dirty, pending, rows, number, n_rows - n_rows, lsn, redo, job, counters)
        else:
            status = enter_row(view, index_dirty, pending, deletes, number - n_rows, n_rows, lsn, redo, job, counters)
        if status != np.int64(0):
            store_release(job, np.uint64(JOB_STATUS), np.uint64(status))


@kernel
def apply_frame(
    view, index_dirty, state, pending, rows, deletes, given, key, settings, job, counters, words, ring, lane
):
    """Work on a frame until nothing of it is left; lane 0 then adds up the counters and may publish.

    Parameters
    ----------
    view : tuple
        See `update_range`.
    index_dirty : uint8[blocks]
    state : uint64[64]
        Shared state of the ledger.
    pending : uint64[2, n]
    rows, deletes : uint64[n, 8], uint64[m, 4]
    given : uint32[3, n + m]
        Hash words by another hash function, or empty.
    key : uint32[8]
    settings, job : uint64[8], uint64[16]
    counters : uint64[lanes, 264]
    words, ring : uint32[lanes, 4, 256], uint64[lanes, 3, 256]
        Scratch of each thread.
    lane : int64
        Number of this thread, 0 for the one that owns the frame.

    Returns
    -------
    int64
        0; STATUS_FULL for a row that had no slot (the planning before the log write prevents it); STATUS_CORRUPT
        for a damaged record, named in JOB_ROW. The frame is not published then.

    Notes
    -----
    **Ordering**: a thread's row is done before its fetch-and-add on JOB_DONE (release), which lane 0 acquires;
    so lane 0's release store of the committed LSN publishes the work of all.
    """
    n_rows, n_deletes, lanes = settings[SET_ROWS], settings[SET_DELETES], settings[SET_LANES]
    total = n_rows + n_deletes
    mine = counters[lane]
    rings = (words[lane], ring[lane, 0], ring[lane, 1], ring[lane, 2])
    if not joined(job, lane):
        return np.int64(0)
    while True:
        first, stop = claim(job, total, lanes)
        if first >= stop:
            break
        missed = 0
        middle = min(max(first, np.int64(n_rows)), stop)
        if first < middle:
            missed += update_range(
                view, pending, rows, given, key, settings, first, middle, np.int64(0), job, mine, rings
            )
        if middle < stop:
            base = np.int64(n_rows)
            missed += update_range(
                view, pending, deletes, given, key, settings, middle - base, stop - base, base, job, mine, rings
            )
        if missed > 0:
            fetch_add(job, np.uint64(JOB_MISSED), np.uint64(missed))
        fetch_add(job, np.uint64(JOB_DONE), np.uint64(stop - first))
    while load_acquire(job, np.uint64(JOB_DONE)) < total:
        spin_pause()
    if load_acquire(job, np.uint64(JOB_MISSED)) != U0:
        parts = U1
        while parts < lanes and parts < settings[SET_SHARDS]:
            parts += parts
        while True:
            part = fetch_add(job, np.uint64(JOB_PARTS_CLAIMED), U1)
            if part >= parts:
                break
            enter_part(view, index_dirty, pending, rows, deletes, settings, part, parts, job, mine)
            fetch_add(job, np.uint64(JOB_PARTS_DONE), U1)
        while load_acquire(job, np.uint64(JOB_PARTS_DONE)) < parts:
            spin_pause()
    if lane == 0:
        finish_frame(state, settings, job, counters)
    return np.int64(load_acquire(job, np.uint64(JOB_STATUS)))


@kernel
def publish(state, lsn):
    """Make the newest applied frame visible to readers; pairs with the acquire loads of STATE_COMMITTED.

    **Ordering**: each store is a release, so that totals in a mapped state are those of the committed LSN unless
    STATE_APPLIED is ahead of it.
    """
    store_release(state, np.uint64(STATE_LIVE), state[STATE_APPLIED_LIVE])
    store_release(state, np.uint64(STATE_SUPPLY_LO), state[STATE_APPLIED_SUPPLY_LO])
    store_release(state, np.uint64(STATE_SUPPLY_HI), state[STATE_APPLIED_SUPPLY_HI])
    store_release(state, np.uint64(STATE_COMMITTED), np.uint64(lsn))


@kernel
def finish_frame(state, settings, job, counters):
    """Move the threads' counters to the ledger's state, and publish the frame where the mode has no log."""
    for lane in range(counters.shape[0]):
        state[STATE_APPLIED_LIVE] += counters[lane, COUNT_LIVE]
        state[STATE_APPLIED_SUPPLY_LO] += counters[lane, COUNT_SUPPLY_LO]
        if state[STATE_APPLIED_SUPPLY_LO] < counters[lane, COUNT_SUPPLY_LO]:
            state[STATE_APPLIED_SUPPLY_HI] += U1
        state[STATE_APPLIED_SUPPLY_HI] += counters[lane, COUNT_SUPPLY_HI]
        if counters[lane, COUNT_TAINTED] != U0:
            state[STATE_TAINTED] = U1
        for word in range(COUNT_PROBES):
            counters[lane, word] = U0
    store_release(state, np.uint64(STATE_APPLIED), settings[SET_LSN])
    if settings[SET_PUBLISH] != U0 and job[JOB_STATUS] == U0:
        publish(state, settings[SET_LSN])
