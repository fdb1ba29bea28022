"""The floors: what memory alone asks of a batch of reads or of updates.

A floor does over a ledger's own arrays what no store of this shape can leave out, and nothing else: probe the
index with the fingerprint, compare the whole key, then copy 64 bytes out or rewrite the four fields. Home and
fingerprint are worked out beforehand; there is no hash, checksum, version, counter or log. It touches one line
of the index and one line of the record.

Rows run through one pipeline: ask for the index line of row i, probe for row i - d and ask for its record,
touch the record of row i - 2 d. Threads take ranges of rows from a shared counter, as the engine's do, so that
one that wakes up late takes less. Each floor is to be run at the distance that suits it best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ledger.engine.pool import Pool
from ledger.kernels.hashing import hash_rows
from ledger.kernels.intrinsics import compare_swap, fetch_add, load_acquire, prefetch_read, prefetch_write, spin_pause
from ledger.kernels.jit import kernel
from ledger.layout import (
    CELL_A,
    INDEX_SLOT_MASK,
    RECORD_WORDS,
    SHARD_INDEX_BASE,
    SHARD_POSITIONS,
    SHARD_RECORD_BASE,
    SHARD_WORDS,
)
from ledger.storage.shard import View

DISTANCES: Final = (0, 4, 8, 16, 32)
"""Prefetch distances that are tried, in rows; a ring holds the rows between probe and touch."""

RING: Final = 64
JOB_WORDS: Final = 8
_U0, _U1, _U2, _U3, _U4, _U5, _U6, _U7 = (np.uint64(number) for number in range(8))
_U32, _RING_MASK, _SLOT_MASK = np.uint64(32), np.uint64(RING - 1), np.uint64(INDEX_SLOT_MASK)
_WORDS, _FIELD = np.uint64(RECORD_WORDS), np.uint64(CELL_A)
_BASE, _POSITIONS, _RECORDS = (np.uint64(word) for word in (SHARD_INDEX_BASE, SHARD_POSITIONS, SHARD_RECORD_BASE))
_CLAIMED, _DONE, _FOUND = _U0, _U1, _U2
_RANGE_MIN = np.uint64(512)
_NONE = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Places:
    """Where each row of a batch begins to look, worked out before the clock starts.

    Attributes
    ----------
    homes : uint64[n]
        Home position in the whole index array.
    tags : uint64[n]
        Fingerprint.
    spots : uint64[n]
        First word of the shard's descriptor.
    """

    homes: np.ndarray
    tags: np.ndarray
    spots: np.ndarray

    @classmethod
    def of(cls, view: View, rows: np.ndarray) -> Places:
        """Return the places of rows or keys (uint64[n, 8] or uint64[n, 4]) in a ledger."""
        words = np.empty((3, len(rows)), np.uint32)
        hash_rows(rows, view.key, words)
        shards = view.shards.reshape(-1, SHARD_WORDS)
        shard = words[0].astype(np.uint64) & np.uint64(len(shards) - 1)
        home = (words[1].astype(np.uint64) * shards[shard, SHARD_POSITIONS]) >> _U32
        home += shards[shard, SHARD_INDEX_BASE]
        return cls(home, words[2].astype(np.uint64), shard * np.uint64(SHARD_WORDS))


def get(pool: Pool, view: View, rows: np.ndarray, places: Places, distance: int, out: np.ndarray) -> int:
    """Copy 64 bytes of each row's record to `out` (uint64[n, 8]) and return how many keys were found."""
    return _run(pool, get_floor, view, rows, places, distance, out)


def update(pool: Pool, view: View, rows: np.ndarray, places: Places, distance: int) -> int:
    """Rewrite the four fields of each row's record and return how many keys were found.

    The ledger's seals do not fit any more: never close or read it afterwards.
    """
    return _run(pool, update_floor, view, rows, places, distance, rows)


def _run(pool: Pool, floor, view: View, rows: np.ndarray, places: Places, distance: int, out: np.ndarray) -> int:
    """Run a floor on all threads of the pool."""
    job = np.zeros(JOB_WORDS, np.uint64)
    ring = np.zeros((pool.lanes, RING), np.uint64)
    arguments = (
        (view.index, view.records, view.shards), (places.homes, places.tags, places.spots), rows, out, job, ring,
        np.uint64(distance), np.uint64(pool.lanes),
    )  # fmt: skip
    return int(pool.run(floor, arguments, pool.lanes))


@kernel(inline=True)
def claim(job, total, lanes):
    """Take a share of the rows left; return its first row and the row behind its last, equal when none is left."""
    while True:
        first = load_acquire(job, _CLAIMED)
        if first >= total:
            return total, total
        left = total - first
        take = min(left, max(_RANGE_MIN, left // (lanes + lanes)))
        if compare_swap(job, _CLAIMED, first, first + take):
            return first, first + take


@kernel(inline=True)
def probe(index, shards, at, tag, spot):
    """Walk to the first entry with the fingerprint: its position and its record's first word, or all ones."""
    while True:
        word = index[at]
        if word >> _U32 == tag:
            return at, (shards[spot + _RECORDS] + (word & _SLOT_MASK) - _U1) * _WORDS
        if word == _U0:
            return at, _NONE
        at = after(shards, at, spot)


@kernel(inline=True)
def after(shards, at, spot):
    """Return the next position of a shard's index, around its end."""
    at += _U1
    return shards[spot + _BASE] if at == shards[spot + _BASE] + shards[spot + _POSITIONS] else at


@kernel(inline=True)
def same_key(records, record, rows, row):
    """Compare all 32 bytes of a record's key with a row's."""
    return (
        (records[record] ^ rows[row, _U0]) | (records[record + _U1] ^ rows[row, _U1])
        | (records[record + _U2] ^ rows[row, _U2]) | (records[record + _U3] ^ rows[row, _U3])
    ) == _U0  # fmt: skip


@kernel
def find_other(ledger, places, rows, row):
    """Go on past entries whose fingerprint fits and whose key does not; all ones when there is no such key."""
    index, records, shards = ledger
    homes, tags, spots = places
    at, record = probe(index, shards, homes[row], tags[row], spots[row])
    while record != _NONE and not same_key(records, record, rows, row):
        at, record = probe(index, shards, after(shards, at, spots[row]), tags[row], spots[row])
    return record


@kernel(inline=True)
def look_ahead(ledger, places, ring, step, first, stop, distance, write):
    """Do for the rows ahead what can be done: ask for a line of the index, probe and ask for a record."""
    index, records, shards = ledger
    homes, tags, spots = places
    if step < stop and distance != _U0:
        prefetch_read(index, homes[step])
    row = step - distance
    if first + distance <= step < stop + distance:
        _, record = probe(index, shards, homes[row], tags[row], spots[row])
        ring[row & _RING_MASK] = record
        if distance != _U0 and record != _NONE:
            if write:
                prefetch_write(records, record)
            else:
                prefetch_read(records, record)


@kernel
def get_floor(ledger, places, rows, out, job, ring, distance, lanes, lane):
    """Copy each row's key and fields out; return the keys found, once all threads are done (lane 0)."""
    records = ledger[1]
    total = np.uint64(rows.shape[0])
    mine = ring[lane]
    found = _U0
    while True:
        first, stop = claim(job, total, lanes)
        if first == stop:
            break
        for step in range(first, stop + distance + distance):
            look_ahead(ledger, places, mine, step, first, stop, distance, False)
            row = step - distance - distance
            if step < first + distance + distance:
                continue
            record = mine[row & _RING_MASK]
            if record == _NONE or not same_key(records, record, rows, row):
                record = find_other(ledger, places, rows, row)
                if record == _NONE:
                    continue
            found += _U1
            out[row, _U0] = records[record]
            out[row, _U1] = records[record + _U1]
            out[row, _U2] = records[record + _U2]
            out[row, _U3] = records[record + _U3]
            out[row, _U4] = records[record + _FIELD]
            out[row, _U5] = records[record + _FIELD + _U1]
            out[row, _U6] = records[record + _FIELD + _U2]
            out[row, _U7] = records[record + _FIELD + _U3]
        fetch_add(job, _FOUND, found)
        found = _U0
        fetch_add(job, _DONE, stop - first)
    while lane == 0 and load_acquire(job, _DONE) < total:
        spin_pause()
    return load_acquire(job, _FOUND)


@kernel
def update_floor(ledger, places, rows, out, job, ring, distance, lanes, lane):
    """Rewrite the fields of each row's record; return the keys found, once all threads are done (lane 0)."""
    records = ledger[1]
    total = np.uint64(rows.shape[0])
    mine = ring[lane]
    found = _U0
    while True:
        first, stop = claim(job, total, lanes)
        if first == stop:
            break
        for step in range(first, stop + distance + distance):
            look_ahead(ledger, places, mine, step, first, stop, distance, True)
            row = step - distance - distance
            if step < first + distance + distance:
                continue
            record = mine[row & _RING_MASK]
            if record == _NONE or not same_key(records, record, rows, row):
                record = find_other(ledger, places, rows, row)
                if record == _NONE:
                    continue
            found += _U1
            records[record + _FIELD] = rows[row, _U4]
            records[record + _FIELD + _U1] = rows[row, _U5]
            records[record + _FIELD + _U2] = rows[row, _U6]
            records[record + _FIELD + _U3] = rows[row, _U7]
        fetch_add(job, _FOUND, found)
        found = _U0
        fetch_add(job, _DONE, stop - first)
    while lane == 0 and load_acquire(job, _DONE) < total:
        spin_pause()
    return load_acquire(job, _FOUND)
