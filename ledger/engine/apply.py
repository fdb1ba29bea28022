"""Calls of the batch kernels: settings, jobs, scratch, and the threads that join in.

Thread safety: one `apply` at a time, which the committer sees to; reads from any number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ledger.engine.pool import Pool
from ledger.errors import CapacityError, CorruptionError, CorruptRecordError
from ledger.kernels import batch_read, batch_write, pipeline
from ledger.kernels.single import CONTEXT_WORDS, context_words
from ledger.layout import PROBE_BUCKETS, SHARD_SLOTS, SHARD_USED, SHARD_WORDS, STATUS_CORRUPT, STATUS_FULL
from ledger.options import HashFunction, Options
from ledger.storage.shard import View

ROWS_PER_LANE = 1024
NO_HASHES = np.zeros((3, 0), np.uint32)
NOWHERE = np.uint64((1 << 64) - 1)
NO_DELETES = np.zeros((0, 4), np.uint64)


class Scratch:
    """Memory that the lanes of one kernel call work in."""

    def __init__(self, lanes: int) -> None:
        self.words = np.zeros((lanes, 4, pipeline.RING), np.uint32)
        self.rings = np.zeros((lanes, 3, pipeline.RING), np.uint64)
        self.counters = np.zeros((lanes, pipeline.COUNT_WORDS), np.uint64)


class Spread(NamedTuple):
    """How many slots the rows of a batch may take.

    Attributes
    ----------
    slots : int or int64[shards]
        In any shard, or by shard.
    hashes : uint32[3, n]
        Hash words of the keys, where they were made to know the shards; else empty.
    """

    slots: Any
    hashes: np.ndarray = NO_HASHES


class Applier:
    """Apply frames to a view, and read batches from it.

    Parameters
    ----------
    view : View
    pool : Pool
    options : Options
        Prefetch distance, threads, and the hash when it is not keyed BLAKE3.
    hash_key : bytes
        32 bytes.
    """

    def __init__(self, view: View, pool: Pool, options: Options, hash_key: bytes) -> None:
        self.view = view
        self.pool = pool
        self.distance = options.prefetch
        self.lanes = pool.lanes
        self.shards = len(view.shards) // SHARD_WORDS
        self._hash: HashFunction | None = options.hash_function
        self._hash_key = hash_key
        self._scratch = Scratch(self.lanes)
        self._all_scratch = [self._scratch]
        self._read_scratch: list[Scratch] = []
        self._pending = np.zeros((2, 0), np.uint64)
        self._free_at_least = 0  # slots free in every shard, for sure

    def probes(self) -> np.ndarray:
        """Return the histogram of probe distances of all rows so far, uint64[PROBE_BUCKETS]."""
        total = np.zeros(PROBE_BUCKETS, np.uint64)
        for scratch in list(self._all_scratch):
            total += scratch.counters[:, pipeline.COUNT_PROBES :].sum(axis=0)
        return total

    @property
    def own_hash(self) -> bool:
        """Whether the hash is not the kernels' own."""
        return self._hash is not None

    def hashes(self, rows: np.ndarray) -> np.ndarray:
        """Return the hash words of the keys of `rows` (uint64[n, 4 or more]), or nothing for keyed BLAKE3."""
        if self._hash is None:
            return NO_HASHES
        keys = np.ascontiguousarray(rows[:, :4]).view(np.uint8).reshape(len(rows), 32)
        words = np.asarray(self._hash(keys, self._hash_key))
        if words.shape != (len(rows), 3) or words.dtype != np.uint32:
            raise TypeError(f"hash_function gave {words.dtype}{words.shape}, not uint32[{len(rows)}, 3]")
        return np.ascontiguousarray(words.T)

    def hash_words(self, rows: np.ndarray) -> np.ndarray:
        """Return the hash words of the keys of `rows` (uint64[n, 4 or more]), by whichever hash (uint32[3, n])."""
        if self._hash is not None:
            return self.hashes(rows)
        hashes = np.empty((3, len(rows)), np.uint32)
        settings, job, lanes = self._settings(0, len(rows))
        self.pool.run(batch_write.hash_batch, (rows, self.view.key, settings, job, hashes), lanes)
        return hashes

    def _settings(self, lsn: int, rows: int, deletes: int = 0) -> tuple[np.ndarray, np.ndarray, int]:
        """Return settings and job of a call, and the lanes that are worth it."""
        lanes = max(1, min(self.lanes, (rows + deletes) // ROWS_PER_LANE))
        settings = np.zeros(pipeline.SET_WORDS, np.uint64)
        settings[pipeline.SET_LSN] = lsn
        settings[pipeline.SET_DISTANCE] = self.distance
        settings[pipeline.SET_LANES] = lanes
        settings[pipeline.SET_SHARDS] = self.shards
        settings[pipeline.SET_ROWS] = rows
        settings[pipeline.SET_DELETES] = deletes
        return settings, np.zeros(pipeline.JOB_WORDS, np.uint64), lanes

    def apply(
        self,
        rows: np.ndarray,
        deletes: np.ndarray,
        lsn: int,
        *,
        hashes: np.ndarray = NO_HASHES,
        publish: bool = False,
        redo: bool = False,
    ) -> None:
        """Apply one frame, upserts then deletes; nothing is visible before `publish`.

        Parameters
        ----------
        rows, deletes : uint64[n, 8], uint64[m, 4]
        lsn : int
            Not above committed + 1.
        hashes : uint32[3, n]
            Hash words of `rows`, if they are known and there are no deletes.
        publish : bool
            Publish in the same kernel call.
        redo : bool
            The image may hold cells and entries of the frame's future.
        """
        count = len(rows) + len(deletes)
        if self._pending.shape[1] < count:
            self._pending = np.zeros((2, count), np.uint64)
        settings, job, lanes = self._settings(lsn, len(rows), len(deletes))
        settings[pipeline.SET_REDO] = redo
        settings[pipeline.SET_PUBLISH] = publish
        if len(deletes):
            hashes = NO_HASHES
        if self._hash is not None:
            hashes = np.ascontiguousarray(np.concatenate((self.hashes(rows), self.hashes(deletes)), axis=1))
        scratch = self._scratch
        self._free_at_least -= len(rows)
        view = self.view
        arguments = (
            view.arrays, view.index_dirty, view.state, self._pending, rows, deletes, hashes, view.key, settings,
            job, scratch.counters, scratch.words, scratch.rings,
        )  # fmt: skip
        status = self.pool.run(batch_write.apply_frame, arguments, lanes)
        if status == STATUS_CORRUPT:
            place = int(job[pipeline.JOB_ROW])
            raise CorruptRecordError(
                f"the record in slot {place & 0xFFFFFFFF} of shard {place >> 32} fails its checksum",
                shard=place >> 32, slot=place & 0xFFFFFFFF,
            )  # fmt: skip
        if status == STATUS_FULL:
            raise CorruptionError("a frame has more new keys than a shard has slots", hint="the geometry has changed")

    def read(self, keys: np.ndarray, committed: int, out: np.ndarray, found: np.ndarray) -> tuple[int, int]:
        """Read a batch as of `committed`.

        Returns
        -------
        status, place : int
            0, STATUS_RETRY or STATUS_CORRUPT, and shard << 32 | slot of the record that failed.
        """
        settings, job, lanes = self._settings(committed, len(keys))
        hashes = self.hashes(keys)
        try:
            scratch = self._read_scratch.pop()
        except IndexError:
            scratch = Scratch(self.lanes)
            self._all_scratch.append(scratch)
        view = self.view
        arguments = (
            view.arrays, keys, hashes, view.key, settings, job, out, found, scratch.counters, scratch.words,
            scratch.rings,
        )  # fmt: skip
        status = self.pool.run(batch_read.read_batch, arguments, lanes)
        self._read_scratch.append(scratch)
        return int(status), int(job[pipeline.JOB_ROW])

    def locate(self, rows: np.ndarray) -> np.ndarray:
        """Return where in the view the records of keys (uint64[n, 4 or more]) may be, by the index alone.

        Returns
        -------
        uint64[m]
            Numbers of records; keys that are new have none, and one in four billion another key's.
        """
        out = np.empty(len(rows), np.uint64)
        words = np.zeros((3, 8), np.uint32)
        batch_write.locate_rows(self.view.arrays, rows, self.hashes(rows), self.view.key, self.shards, words, out)
        return out[out != NOWHERE]

    def free_slots(self) -> np.ndarray:
        """Return the slots not given out, by shard."""
        table = self.view.shards.reshape(-1, SHARD_WORDS)
        return (table[:, SHARD_SLOTS] - table[:, SHARD_USED]).astype(np.int64)

    def spread(self, rows: np.ndarray, frames: int) -> Spread:
        """Say how many slots the rows may take, by shard where there may be too few to do without knowing.

        **Complexity**: O(1) while every shard has room for so many such `frames` at once, else one hash a row, which
        the apply then need not make again.
        """
        if frames * len(rows) <= self._free_at_least or frames * len(rows) <= self.free_slots().min():
            return Spread(len(rows))
        hashes = self.hash_words(rows)
        shards = hashes[0] & np.uint32(self.shards - 1)
        return Spread(np.bincount(shards, minlength=self.shards), hashes)

    def fits(self, *spreads: Spread) -> bool:
        """Tell whether all the rows fit even if every key of them is new; not to be asked during an apply."""
        wanted = sum(spread.slots for spread in spreads)
        if isinstance(wanted, int) and wanted <= self._free_at_least:
            return True
        free = self.free_slots()
        self._free_at_least = int(free.min())
        return bool((wanted <= free).all())

    def check_room(self, rows: np.ndarray, spread: Spread) -> None:
        """Raise CapacityError if the new keys of `rows` do not fit their shards; changes nothing.

        **Complexity**: O(shards) while `fits`, else one look-up a row.
        """
        if self.fits(spread):
            return
        free = self.free_slots()
        shard_of_new = np.zeros(len(rows), np.uint32)
        words = np.zeros((3, 8), np.uint32)
        view = self.view
        hashes = spread.hashes if spread.hashes.shape[1] else self.hashes(rows)
        batch_write.plan_rows(view.arrays, rows, hashes, view.key, self.shards, words, shard_of_new)
        new = np.flatnonzero(shard_of_new)
        keys = np.ascontiguousarray(rows[new, :4]).view("V32").ravel()
        _, first = np.unique(keys.view("S32") if not len(keys) else keys, return_index=True)
        needed = np.bincount(shard_of_new[new[first]] - 1, minlength=self.shards)
        short = np.flatnonzero(needed > free)
        if len(short):
            shard = int(short[0])
            raise CapacityError(
                f"shard {shard} has {free[shard]} free slots, the batch needs {needed[shard]}",
                shard=shard, free=int(free[shard]), needed=int(needed[shard]),
            )  # fmt: skip

    def context(self) -> np.ndarray:
        """Return the context of the single-get kernel; it is valid while the view is."""
        context = np.zeros(CONTEXT_WORDS, np.uint64)
        view = self.view
        context_words(context, view.index, view.records, view.shards, view.state, view.key)
        return context
