"""Passes over whole shards, each shard by one thread: sums, checks, and rebuilding an index."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ledger.engine.apply import NO_HASHES, Applier
from ledger.errors import CorruptIndexError, CorruptRecordError
from ledger.kernels.index import measure_distances, rebuild_index, trim_index
from ledger.kernels.records import check_records, roll_back, sum_records
from ledger.layout import (
    CELL_A,
    CELL_B,
    CELL_LSN,
    LSN_BUSY,
    RECORD_BYTES,
    RECORD_WORDS,
    SHARD_CHECKED,
    SHARD_RECORD_BASE,
    SHARD_SEED,
    SHARD_SLOTS,
    SHARD_SUM,
    SHARD_USED,
    SHARD_WORDS,
    STATE_APPLIED,
    STATE_APPLIED_LIVE,
    STATE_APPLIED_SUPPLY_HI,
    STATE_COMMITTED,
    STATE_LIVE,
    STATE_SUPPLY_HI,
    STATE_SUPPLY_LO,
    STATE_TAINTED,
)
from ledger.storage.image import INDEX, RECORDS
from ledger.storage.shard import Shards

Progress = Callable[[str, int, int], None]  # what, done, of
REBUILD_PIECE = 1 << 18
U1 = np.uint64(1)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all live accounts as of one LSN."""

    lsn: int
    live: int
    supply: int
    digest: str


class Passes:
    """Passes over the shards of one open ledger.

    Parameters
    ----------
    shards : Shards
    applier : Applier
        For its pool and its hash.
    """

    def __init__(self, shards: Shards, applier: Applier) -> None:
        assert shards.view is not None
        self.shards = shards
        self.view = shards.view
        self.applier = applier
        self.all_checked = False
        self._check_lock = threading.Lock()

    def _word(self, shard: int, word: int) -> np.uint64:
        return self.view.shards[shard * SHARD_WORDS + word]

    def _given(self, shard: int, first: int, stop: int) -> np.ndarray:
        """Return the hash words of some slots' keys, when the hash is not the kernels' own."""
        rows = self.shards.record_words(shard, stop)[first:stop]
        hashes = self.applier.hashes(rows)
        return hashes if hashes.shape[1] or stop > first else NO_HASHES

    def totals(self) -> Totals:
        """Sum and hash all live accounts, in no order.

        Raises
        ------
        CorruptRecordError
            A record fails its checksum.

        Notes
        -----
        **Complexity**: O(slots given out). Meant for while no batch is being applied.
        """
        view = self.view
        committed = view.state[STATE_COMMITTED]

        def one(shard: int) -> np.ndarray:
            out = np.zeros(8, np.uint64)
            used, seed = self._word(shard, SHARD_USED), self._word(shard, SHARD_SEED)
            sum_records(view.records, self._word(shard, SHARD_RECORD_BASE), used, seed, committed, out)
            return out

        live = supply = digest = 0
        for shard, out in enumerate(self.applier.pool.map(one, self.shards.count)):
            values = [int(v) for v in out]
            if values[5]:
                raise corrupt_record(self.shards, shard, values[6] - 1)
            live += values[0]
            supply += values[1] | values[2] << 64
            digest += values[3] | values[4] << 64
        return Totals(int(committed), live, supply, f"{digest % (1 << 128):032x}")

    def recount(self) -> None:
        """Set the live count and the supply from the records."""
        self.set_totals(self.totals())

    def set_totals(self, totals: Totals) -> None:
        """Set the live count and the supply."""
        state = self.view.state
        state[STATE_LIVE] = totals.live
        state[STATE_SUPPLY_LO] = totals.supply & 0xFFFFFFFFFFFFFFFF
        state[STATE_SUPPLY_HI] = totals.supply >> 64
        state[STATE_APPLIED_LIVE : STATE_APPLIED_SUPPLY_HI + 1] = state[STATE_LIVE : STATE_SUPPLY_HI + 1]
        state[STATE_TAINTED] = 0

    def index_is_whole(self, shard: int) -> bool:
        """Take entries of later frames out of a shard's index, and compare its sum with the control block's."""
        view = self.view
        first, stop = self.shards.index_span(shard)
        total = trim_index(
            view.index, np.uint64(first), np.uint64(stop - first), self._word(shard, SHARD_USED), view.index_dirty
        )
        view.shards[shard * SHARD_WORDS + SHARD_SUM] = total
        return int(total) & 0xFFFFFFFF == self.shards.control.index_sum(shard)

    def check_index(self, shard: int, progress: Progress | None = None) -> bool:
        """Check a shard's index once, and rebuild it from the records if it does not fit; tell whether it fitted."""
        with self._check_lock:
            return self._check_index(shard, progress)

    def _check_index(self, shard: int, progress: Progress | None) -> bool:
        if self._word(shard, SHARD_CHECKED):
            return True
        whole = shard not in self.shards.image.broken_indexes and self.index_is_whole(shard)
        if not whole:
            self.rebuild(shard, progress)
        self.view.shards[shard * SHARD_WORDS + SHARD_CHECKED] = 1
        return whole

    def check_all(self, progress: Progress | None = None) -> list[int]:
        """Check the index of every shard that was not checked yet; return the shards that were rebuilt.

        Writers call this before their first batch, so that no index is checked while it changes.
        """
        if self.all_checked:
            return []
        with self._check_lock:
            waiting = [s for s in range(self.shards.count) if not self._word(s, SHARD_CHECKED)]
            fits = self.applier.pool.map(lambda number: self._check_index(waiting[number], progress), len(waiting))
            self.all_checked = True
        return [shard for shard, fitted in zip(waiting, fits, strict=True) if not fitted]

    def rebuild(self, shard: int, progress: Progress | None = None) -> None:
        """Make a shard's index anew from its records.

        Raises
        ------
        CorruptIndexError
            The records do not fit the shard: a key belongs elsewhere.
        """
        view, shards = self.view, self.shards
        first, stop = shards.index_span(shard)
        view.index[first:stop] = 0
        view.shards[shard * SHARD_WORDS + SHARD_SUM] = 0
        used = int(self._word(shard, SHARD_USED))
        words = np.zeros((3, 8), np.uint32)
        for start in range(0, used, REBUILD_PIECE):
            end = min(used, start + REBUILD_PIECE)
            status = rebuild_index(
                view.index, view.records, view.shards, np.uint64(shard), np.uint64(start), np.uint64(end),
                np.uint64(shards.count), self._given(shard, start, end), view.key, words,
            )  # fmt: skip
            if status < 0:
                raise CorruptIndexError(
                    f"shard {shard} holds a key that belongs to another shard",
                    path=shards.image.file_path(shard, RECORDS), shard=shard,
                )  # fmt: skip
            if progress is not None:
                progress(f"rebuild index of shard {shard}", end, used)
        shards.mark_all_dirty(INDEX, shard, stop - first, 8)

    def distances(self, shard: int) -> np.ndarray:
        """Return the probe distance of each position of a shard's index, -1 where it is empty (int32)."""
        first, stop = self.shards.index_span(shard)
        distances = np.zeros(stop - first, np.int32)
        used = int(self._word(shard, SHARD_USED))
        words = np.zeros((3, 8), np.uint32)
        given = self._given(shard, 0, used)
        view = self.view
        status = measure_distances(
            view.index, view.records, view.shards, np.uint64(shard), given, view.key, words, distances
        )
        if status < 0:
            raise CorruptIndexError(
                f"the index of shard {shard} names a slot that is not given out",
                path=self.shards.image.file_path(shard, INDEX), shard=shard,
            )  # fmt: skip
        return distances

    def check_killed(self, committed: int) -> None:
        """Refuse what no kill leaves: cells in flight are of the next LSN, or marked as being written.

        Raises
        ------
        CorruptRecordError
            A cell up to `committed` fails its seal, one is further ahead than a batch can be, or a slot that the last
            checkpoint had given out has none.
        """
        for shard in range(self.shards.count):
            slots, out = int(self._word(shard, SHARD_SLOTS)), np.zeros(5, np.int64)
            check_records(
                self.view.records, self._word(shard, SHARD_RECORD_BASE), np.int64(slots),
                np.uint64(self.shards.control.used(shard)), self._word(shard, SHARD_SEED), np.uint64(committed), out,
            )  # fmt: skip
            lsns = self.shards.record_words(shard, slots)[:, (CELL_A + CELL_LSN, CELL_B + CELL_LSN)]
            ahead = np.count_nonzero((lsns > np.uint64(committed + 1)) & (lsns != np.uint64(LSN_BUSY)))
            if out[0] or out[2] or ahead:
                path = self.shards.image.file_path(shard, RECORDS)
                raise CorruptRecordError(
                    f"{path}: {out[0]} cells fail their checksum, {ahead} are of no batch, {out[2]} slots lost theirs",
                    path=path, offset=0, shard=shard,
                )  # fmt: skip

    def roll_back(self, committed: int) -> tuple[int, int, int]:
        """Undo what lies above `committed` in mapped files; returns cells undone, cells broken, greatest LSN."""
        view = self.view

        def one(shard: int) -> np.ndarray:
            out = np.zeros(4, np.uint64)
            roll_back(
                view.records, self._word(shard, SHARD_RECORD_BASE), np.int64(self._word(shard, SHARD_SLOTS)),
                self._word(shard, SHARD_SEED), np.uint64(committed), out,
            )  # fmt: skip
            view.shards[shard * SHARD_WORDS + SHARD_USED] = out[0]
            self.shards.mark_all_dirty(RECORDS, shard, int(self._word(shard, SHARD_SLOTS)), RECORD_BYTES)
            return out

        outs = self.applier.pool.map(one, self.shards.count)
        return (
            sum(int(out[1]) for out in outs),
            sum(int(out[2]) for out in outs),
            max(int(out[3]) for out in outs),
        )

    def check_shard(self, shard: int) -> dict[str, int]:
        """Check every cell and the index of a shard; returns the number of faults by kind."""
        view = self.view
        out = np.zeros(5, np.int64)
        used = self._word(shard, SHARD_USED)
        check_records(
            view.records, self._word(shard, SHARD_RECORD_BASE), np.int64(self._word(shard, SHARD_SLOTS)), used,
            self._word(shard, SHARD_SEED), view.state[STATE_APPLIED], out,
        )  # fmt: skip
        names = ("broken_cells", "cells_beyond_end", "slots_without_cell", "cells_of_the_future")
        faults = {name: int(count) for name, count in zip(names, out[:4], strict=True)}
        faults["first_slot"] = int(out[4]) - 1
        first, stop = self.shards.index_span(shard)
        before = view.index[first:stop].copy()
        entries = before[before != 0]
        slots = (entries & np.uint64(0xFFFFFFFF)).astype(np.int64) - 1
        missing = int(used) - len(np.unique(slots[(slots >= 0) & (slots < int(used))]))
        faults["slots_not_indexed"] = missing
        faults["stray_entries"] = len(slots) - (int(used) - missing)
        faults["misplaced_entries"] = 0 if missing or faults["stray_entries"] else self._misplaced(shard, before)
        return faults

    def _misplaced(self, shard: int, index: np.ndarray) -> int:
        """Count entries that a rebuild from the records would put elsewhere."""
        view, used = self.view, int(self._word(shard, SHARD_USED))
        rebuilt = np.zeros(len(index), np.uint64)
        descriptor = np.zeros(SHARD_WORDS * self.shards.count, np.uint64)
        descriptor[:] = view.shards
        descriptor[shard * SHARD_WORDS] = 0
        words = np.zeros((3, 8), np.uint32)
        status = rebuild_index(
            rebuilt, view.records, descriptor, np.uint64(shard), np.uint64(0), np.uint64(used),
            np.uint64(self.shards.count), self._given(shard, 0, used), view.key, words,
        )  # fmt: skip
        return len(index) if status < 0 else int((rebuilt != index).sum())


def corrupt_record(shards: Shards, shard: int, slot: int) -> CorruptRecordError:
    """Return the error that names a record whose checksum does not fit."""
    offset = 4096 + slot * RECORD_BYTES
    return CorruptRecordError(
        f"the record in slot {slot} of shard {shard} fails its checksum",
        path=shards.image.file_path(shard, RECORDS), offset=offset, shard=shard, slot=slot,
    )  # fmt: skip


assert RECORD_WORDS * 8 == RECORD_BYTES
