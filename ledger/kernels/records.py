"""The two version cells of a record: seal, read, write, check.

This module is the only one that knows where the fields of a record lie.

Invariants:

- the newest cell with lsn <= committed is the record's state; lsn 0 is a cell never written;
- frame n is applied only when committed >= n - 1, so at most one cell carries an LSN above committed;
- a cell whose lsn word has bit 63 set is being written; whoever set it owns the record's writing.
"""

from __future__ import annotations

import numpy as np

from ledger.kernels.intrinsics import (
    compare_swap,
    crc32c_u64,
    fence_acquire,
    fence_release,
    load_acquire,
    load_relaxed,
    spin_pause,
    store_relaxed,
    store_release,
)
from ledger.kernels.jit import kernel
from ledger.layout import (
    CELL_A,
    CELL_B,
    CELL_LSN,
    CELL_SEAL,
    FLAG_LIVE,
    FLAG_ROW_SHIFT,
    LSN_BUSY,
    RECORD_WORDS,
    STATUS_ABSENT,
    STATUS_CORRUPT,
    STATUS_RETRY,
)

U0, U1, U2, U3, U4 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
U32, U63 = np.uint64(32), np.uint64(63)
LOW32 = np.uint64(0xFFFFFFFF)
A, B = np.uint64(CELL_A), np.uint64(CELL_B)
LSN, SEAL = np.uint64(CELL_LSN), np.uint64(CELL_SEAL)
BUSY = np.uint64(LSN_BUSY)
WORDS = np.uint64(RECORD_WORDS)
LIVE = np.uint64(FLAG_LIVE)
ROW_SHIFT = np.uint64(FLAG_ROW_SHIFT)

# Verdicts of write_cell, OR-ed together.
WRITTEN = np.uint64(1)
TAINTED = np.uint64(2)


@kernel(inline=True)
def key_seal(seed, slot, k0, k1, k2, k3):
    """Return the crc32c register over place and key, the last word of either cell's seal."""
    crc = crc32c_u64(seed ^ slot, k0)
    crc = crc32c_u64(crc, k1)
    crc = crc32c_u64(crc, k2)
    return crc32c_u64(crc, k3)


@kernel(inline=True)
def cell_seal(state, balance, nonce, staked, modified, lsn, flags):
    """Return the seal word of a cell: its crc32c in the low half, its flags in the high half.

    The key's part comes last, so that a processor works on both chains at once.
    """
    crc = crc32c_u64(lsn & LOW32, balance)
    crc = crc32c_u64(crc, nonce)
    crc = crc32c_u64(crc, staked)
    crc = crc32c_u64(crc, modified)
    crc = crc32c_u64(crc, (lsn >> U32) | (flags << U32))
    crc = crc32c_u64(crc, state)
    return (flags << U32) | (crc & LOW32)


@kernel(inline=True)
def cell_is_whole(records, cell, state, lsn):
    """Tell whether the cell's seal fits its fields and `lsn`."""
    seal = load_relaxed(records, cell + SEAL)
    return seal == cell_seal(
        state,
        load_relaxed(records, cell),
        load_relaxed(records, cell + U1),
        load_relaxed(records, cell + U2),
        load_relaxed(records, cell + U3),
        lsn,
        seal >> U32,
    )


@kernel(inline=True)
def is_broken(records, cell, state, lsn):
    """Tell whether a cell that had `lsn` fails its seal, or was never written and has one; not while it is written."""
    if lsn == BUSY:
        return False
    if lsn == U0:
        broken = load_relaxed(records, cell + SEAL) != U0
    else:
        broken = not cell_is_whole(records, cell, state, lsn)
    fence_acquire()
    return broken and load_relaxed(records, cell + LSN) == lsn


@kernel
def is_stranger(records, record, seed, slot):
    """Tell whether a record holds its own key, sealed: then a key that its fingerprint fits is another one."""
    state = key_seal(seed, slot, records[record], records[record + U1], records[record + U2], records[record + U3])
    lsn_a = load_acquire(records, record + A + LSN)
    lsn_b = load_acquire(records, record + B + LSN)
    return not (is_broken(records, record + A, state, lsn_a) or is_broken(records, record + B, state, lsn_b))


@kernel(inline=True)
def write_cell(records, record, seed, slot, k0, k1, k2, k3, balance, nonce, staked, modified, lsn, flags, shared):
    """Write one row into the older cell of its record, or over an earlier row of the same frame.

    Parameters
    ----------
    records : uint64[words]
    record : uint64
        First word of the record.
    seed, slot : uint64
        What the seal is seeded with.
    k0, k1, k2, k3 : uint64
        The public key.
    balance, nonce, staked, modified : uint64
        The new state.
    lsn, flags : uint64
        LSN of the frame; live bit and row number.
    shared : bool
        Whether other threads apply rows of the same frame at the same time.

    Returns
    -------
    verdict, was_live, was_balance : uint64
        `verdict` lacks WRITTEN when a later row of the frame was there already, and has TAINTED when the
        record holds a cell that this frame's redo did not expect; the other two are the state replaced.

    Notes
    -----
    **Ordering**: busy lsn, fence release, fields, then a release store of the lsn; pairs with the acquire
    loads and the acquire fence of `read_cell`. The row number is read after the claim, since the lsn may have
    gone lsn -> busy -> the same lsn meanwhile.
    """
    while True:
        lsn_a = load_acquire(records, record + A + LSN)
        lsn_b = load_acquire(records, record + B + LSN)
        if (lsn_a | lsn_b) >> U63:
            spin_pause()
            continue
        in_b = lsn_b == lsn or (lsn_a != lsn and lsn_b < lsn_a)
        cell = record + (B if in_b else A)
        old = lsn_b if in_b else lsn_a
        other = lsn_a if in_b else lsn_b
        if not shared:
            store_relaxed(records, cell + LSN, BUSY)
            break
        if compare_swap(records, cell + LSN, old, BUSY):
            break
    verdict = WRITTEN
    if other > lsn or old > lsn:
        verdict |= TAINTED
    before = cell if old == lsn else record + (A if in_b else B)
    seal_before = load_relaxed(records, before + SEAL)
    was_live = (seal_before >> U32) & LIVE
    was_balance = load_relaxed(records, before)
    if old == lsn:
        row_before = seal_before >> (U32 + ROW_SHIFT)
        row = flags >> ROW_SHIFT
        if row_before > row:
            store_release(records, cell + LSN, lsn)
            return U0, was_live, was_balance
        if row_before == row:
            verdict |= TAINTED
    elif other == U0:
        was_live = U0
    fence_release()
    store_relaxed(records, cell, balance)
    store_relaxed(records, cell + U1, nonce)
    store_relaxed(records, cell + U2, staked)
    store_relaxed(records, cell + U3, modified)
    state = key_seal(seed, slot, k0, k1, k2, k3)
    store_relaxed(records, cell + SEAL, cell_seal(state, balance, nonce, staked, modified, lsn, flags))
    store_release(records, cell + LSN, lsn)
    return verdict, was_live, was_balance


@kernel(inline=True)
def read_cell(records, record, committed, seed, slot):
    """Copy the state of a record as of `committed`.

    Returns
    -------
    status : int64
        0 live; STATUS_ABSENT never written by then, or deleted; STATUS_RETRY overtaken by two later frames,
        or torn; STATUS_CORRUPT the seal does not fit.
    balance, nonce, staked, modified : uint64

    Notes
    -----
    **Ordering**: acquire loads of both lsn words, copy, fence acquire, lsn again; pairs with `write_cell`.
    """
    lsn_a = load_acquire(records, record + A + LSN)
    lsn_b = load_acquire(records, record + B + LSN)
    fits_a = lsn_a <= committed
    fits_b = lsn_b <= committed
    if not (fits_a or fits_b):
        return np.int64(STATUS_RETRY), U0, U0, U0, U0
    in_a = fits_a and (not fits_b or lsn_a > lsn_b)
    cell = record + (A if in_a else B)
    lsn = lsn_a if in_a else lsn_b
    state = key_seal(seed, slot, records[record], records[record + U1], records[record + U2], records[record + U3])
    # The cell passed over is checked too: a damaged lsn would make this answer a stale one.
    if is_broken(records, record + (B if in_a else A), state, lsn_b if in_a else lsn_a):
        return np.int64(STATUS_CORRUPT), U0, U0, U0, U0
    if lsn == U0:
        broken = is_broken(records, cell, state, lsn)
        return np.int64(STATUS_CORRUPT if broken else STATUS_ABSENT), U0, U0, U0, U0
    balance = load_relaxed(records, cell)
    nonce = load_relaxed(records, cell + U1)
    staked = load_relaxed(records, cell + U2)
    modified = load_relaxed(records, cell + U3)
    seal = load_relaxed(records, cell + SEAL)
    fence_acquire()
    if load_relaxed(records, cell + LSN) != lsn:
        return np.int64(STATUS_RETRY), U0, U0, U0, U0
    flags = seal >> U32
    if seal != cell_seal(state, balance, nonce, staked, modified, lsn, flags):
        return np.int64(STATUS_CORRUPT), U0, U0, U0, U0
    if flags & LIVE == U0:
        return np.int64(STATUS_ABSENT), U0, U0, U0, U0
    return np.int64(0), balance, nonce, staked, modified


@kernel
def clear_broken_cells(records, record, seed, slot):
    """Empty each cell of a record whose seal does not fit, as redo does first.

    Another thread of the redo may be writing the same record, so a cell is cleared by compare-and-swap only
    when its lsn was the same before and after the check.
    """
    state = key_seal(seed, slot, records[record], records[record + U1], records[record + U2], records[record + U3])
    for offset in (A, B):
        cell = record + offset
        lsn = load_acquire(records, cell + LSN)
        if is_broken(records, cell, state, lsn) and compare_swap(records, cell + LSN, lsn, BUSY):
            store_relaxed(records, cell + SEAL, U0)
            store_release(records, cell + LSN, U0)


@kernel(inline=True)
def mix(a, b):
    """Return a 64-bit mix of two words (the finisher of MurmurHash3, by A. Appleby)."""
    x = a ^ (b * np.uint64(0x9E3779B97F4A7C15))
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


@kernel
def sum_records(records, base, used, seed, committed, out):
    """Add up the live accounts of a shard as of `committed`, and hash them in no order.

    Parameters
    ----------
    records : uint64[words]
    base, used, seed, committed : uint64
        First slot of the shard in the array, slots given out, seal seed, LSN.
    out : uint64[8]
        Added to: live, balance low, balance high, hash low, hash high; word 5 counts corrupt records,
        word 6 is the first corrupt slot + 1.

    Notes
    -----
    **Complexity**: O(used), a sequential pass.
    """
    for slot in range(used):
        slot_ = np.uint64(slot)
        record = (base + slot_) * WORDS
        status = np.int64(STATUS_RETRY)
        balance = nonce = staked = modified = U0
        status, balance, nonce, staked, modified = read_cell(records, record, committed, seed, slot_)
        if status == np.int64(STATUS_CORRUPT):
            out[5] += U1
            if out[6] == U0:
                out[6] = slot_ + U1
            continue
        if status != np.int64(0):
            continue
        out[0] += U1
        out[1] += balance
        if out[1] < balance:
            out[2] += U1
        h = mix(records[record], records[record + U1])
        h = mix(h ^ records[record + U2], records[record + U3])
        h = mix(h ^ balance, nonce)
        h = mix(h ^ staked, modified)
        out[3] += h
        if out[3] < h:
            out[4] += U1
        out[4] += mix(h, np.uint64(0x5851F42D4C957F2D))


@kernel
def export_records(records, base, first, stop, seed, committed, rows):
    """Copy the live accounts of slots first..stop-1 into `rows` (uint64[n, 8]).

    Returns
    -------
    int64
        Rows written, or a negative number -1 - slot when that slot's record is corrupt.
    """
    count = 0
    for slot in range(first, stop):
        slot_ = np.uint64(slot)
        record = (base + slot_) * WORDS
        status, balance, nonce, staked, modified = read_cell(records, record, committed, seed, slot_)
        if status == np.int64(STATUS_CORRUPT):
            return np.int64(-1) - np.int64(slot)
        if status != np.int64(0):
            continue
        for word in range(4):
            rows[count, word] = records[record + np.uint64(word)]
        rows[count, 4] = balance
        rows[count, 5] = nonce
        rows[count, 6] = staked
        rows[count, 7] = modified
        count += 1
    return np.int64(count)


@kernel
def copy_words(source, runs, out):
    """Copy runs of words, given as int64[n, 3]: first word in `source`, words, first word in `out`."""
    for run in range(runs.shape[0]):
        first, at = runs[run, 0], runs[run, 2]
        for word in range(runs[run, 1]):
            out[at + word] = source[first + word]


@kernel
def check_records(records, base, slots, used, seed, committed, out):
    """Check both cells of every slot of a shard; slots not given out must be empty.

    `out` (int64[4]) gets: cells that fail their seal, slots beyond `used` with a cell, given-out slots with
    no cell at all, cells with an lsn above `committed`; and out[4] the first slot at fault + 1.
    """
    for slot in range(slots):
        slot_ = np.uint64(slot)
        record = (base + slot_) * WORDS
        state = key_seal(seed, slot_, records[record], records[record + U1], records[record + U2], records[record + U3])
        written = False
        bad = False
        for offset in (A, B):
            lsn = records[record + offset + LSN]
            if lsn == U0:
                continue
            written = True
            if lsn > committed:
                out[3] += 1
                bad = True
            elif not cell_is_whole(records, record + offset, state, lsn):
                out[0] += 1
                bad = True
        if written and slot_ >= used:
            out[1] += 1
            bad = True
        if not written and slot_ < used:
            out[2] += 1
            bad = True
        if bad and out[4] == 0:
            out[4] = slot + 1


@kernel
def roll_back(records, base, slots, seed, committed, out):
    """Undo what lies above `committed` and what fails its seal, in place; mapped files after a kill.

    Parameters
    ----------
    out : uint64[4]
        Slots that stay given out; cells above `committed` removed; cells that failed their seal removed;
        the greatest lsn that stays.

    Notes
    -----
    Slots are given out in order, so the slots of the batch in flight are the last ones of the shard.
    """
    for slot in range(slots):
        slot_ = np.uint64(slot)
        record = (base + slot_) * WORDS
        state = key_seal(seed, slot_, records[record], records[record + U1], records[record + U2], records[record + U3])
        for offset in (A, B):
            cell = record + offset
            lsn = records[cell + LSN]
            if lsn == U0:
                continue
            if lsn > committed:
                out[1] += U1
                records[cell + LSN] = records[cell + SEAL] = U0
            elif not cell_is_whole(records, cell, state, lsn):
                out[2] += U1
                records[cell + LSN] = records[cell + SEAL] = U0
            else:
                out[0] = slot_ + U1
                out[3] = max(out[3], lsn)
    for slot in range(np.int64(out[0]), slots):
        record = (base + np.uint64(slot)) * WORDS
        for word in range(RECORD_WORDS):
            if records[record + np.uint64(word)] != U0:
                records[record + np.uint64(word)] = U0
