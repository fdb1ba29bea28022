"""The shards of a ledger as the kernels see them: memory over the image files, and the blocks that differ from them.

Invariants:

- a block of the image differs from memory only if its dirty byte is set, or a checkpoint that has taken the byte
  is still to write it (storage "private" and "memory");
- with storage "shared" the kernel writes blocks back when it likes, and the dirty bytes mean nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ledger.errors import UnavailableError
from ledger.kernels.records import copy_words
from ledger.layout import (
    BLOCK_BYTES,
    HUGE_BYTES,
    RECORD_BYTES,
    RECORD_WORDS,
    SHARD_CHECKED,
    SHARD_INDEX_BASE,
    SHARD_POSITIONS,
    SHARD_RECORD_BASE,
    SHARD_SEED,
    SHARD_SLOTS,
    SHARD_USED,
    SHARD_WORDS,
    SLOTS_PER_SHARD_MAX,
    STATE_COMMITTED,
    STATE_EPOCH,
    STATE_WORDS,
    round_up,
)
from ledger.options import Options
from ledger.storage.control import Control
from ledger.storage.files import STATE_NAME, Files
from ledger.storage.image import INDEX, RECORDS, Image, Run, run_starts
from ledger.storage.mapping import (
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    MADV_WILLNEED,
    Coverage,
    Reservation,
    hugetlb_pages_free,
    read_coverage,
    thp_setting,
)

MERGE_GAP_BLOCKS: Final = 4
SPARE_SLOTS_MAX: Final = 8192
SPARE_SHARE: Final = 1 / 16
PIECE_BYTES: Final = 8 * 1024 * 1024


def slots_for(capacity: int, shards: int) -> int:
    """Return the slots of a shard such that `capacity` hashed keys fit all shards.

    The accounts of a shard are binomial; six standard deviations above the mean leave a chance below 1e-9 a
    shard that a ledger is full before it holds `capacity` accounts. A few more keep room for a batch of new keys,
    so that a ledger filled to its capacity still takes updates without looking every key up beforehand.
    """
    mean = capacity / shards
    spare = 6.0 * math.sqrt(mean) + 8 if shards > 1 else 0
    return min(SLOTS_PER_SHARD_MAX, math.ceil(mean + spare + min(SPARE_SLOTS_MAX, mean * SPARE_SHARE)))


def positions_for(capacity: int, shards: int, index_load: float) -> int:
    """Return the index positions of a shard: at the load factor when the ledger holds `capacity` accounts."""
    slots = slots_for(capacity, shards)
    return max(slots + slots // 64 + 1, math.ceil(capacity / shards / index_load))


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a kernel call works on; immutable, owns its memory, safe to share between threads.

    Attributes
    ----------
    index, records : uint64[words]
        Whole reservations; only the parts that `shards` names are mapped.
    shards : uint64[shards * 8]
        Descriptors, see layout.
    dirty, index_dirty : uint8[blocks]
    state : uint64[64]
    key : uint32[8]
        Key of the hash.
    """

    index: np.ndarray
    records: np.ndarray
    shards: np.ndarray
    dirty: np.ndarray
    index_dirty: np.ndarray
    state: np.ndarray
    key: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The four arrays that the batch kernels take as one argument."""
        return self.index, self.records, self.shards, self.dirty


@dataclass(frozen=True, slots=True, eq=False)
class Dirty:
    """Blocks that differ from the image: uint8[blocks] over the records, and over the index."""

    records: np.ndarray
    index: np.ndarray

    def any(self) -> bool:
        """Tell whether there are any."""
        return bool(self.records.any() or self.index.any())


class Shards:
    """All shards of an open ledger: files, memory, and the way between them.

    One thread at a time opens, flushes and closes; kernels may run meanwhile where the caller allows it.

    Parameters
    ----------
    files, path, control
        As for `Image`.
    options : Options
        Storage way and huge pages.
    writable : bool
        False maps privately where the storage way is "shared", and writes nothing.
    way : str, optional
        Storage way in the place of the one in `options`.
    """

    def __init__(
        self, files: Files, path: Path, control: Control, options: Options, *, writable: bool, way: str | None = None
    ) -> None:
        self.files = files
        self.path = path
        self.control = control
        self.options = options
        self.writable = writable
        self.way = way or options.storage
        if not writable and self.way == "shared":
            self.way = "private"
        self.notes: list[str] = []
        self.count = control.shards
        self.hugepages = self._grant_hugepages()
        self.image = Image(files, path, control, writable=writable)
        self._sizes = [
            (control.file_bytes(shard, RECORDS), control.file_bytes(shard, INDEX)) for shard in range(self.count)
        ]
        self._offsets = (_offsets([s[0] for s in self._sizes]), _offsets([s[1] for s in self._sizes]))
        self.view: View | None = None

    def open(self) -> View:
        """Open and check every file, map or read it, and return the view for kernels.

        Raises
        ------
        CorruptionError, WrongLedgerError, UnsupportedVersionError
            A file is missing or short, belongs elsewhere, or is newer.
        """
        self._reservations = tuple(Reservation(self._offsets[which][-1]) for which in (RECORDS, INDEX))
        self.image.open()
        if self.way == "memory":
            self._read_in()
        else:
            self._map_files()
        self.view = self._make_view()
        return self.view

    def _map_files(self) -> None:
        """Map each file in its place, with the huge page advice that was asked for."""
        for which in (RECORDS, INDEX):
            for shard in range(self.count):
                offset, size = self._offsets[which][shard], self._sizes[shard][which]
                reservation = self._reservations[which]
                fd = self.image.fds[shard][which]
                if fd < 0:
                    reservation.map_memory(offset, size)
                    continue
                reservation.map_file(offset, size, fd, shared=self.way == "shared" and self.writable)
                reservation.advise(offset, size, MADV_HUGEPAGE if self.hugepages == "thp" else MADV_NOHUGEPAGE)

    def _read_in(self) -> None:
        """Take anonymous memory for everything and read the images into it."""
        for which in (RECORDS, INDEX):
            reservation = self._reservations[which]
            size = self._offsets[which][-1]
            try:
                reservation.map_memory(0, size, hugetlb=self.hugepages == "hugetlb")
            except OSError as error:
                if self.options.require:
                    raise UnavailableError(f"hugetlb pages: {error}", field="hugepages") from error
                self.notes.append(f"hugetlb pages were asked for, the kernel gave none: {error}")
                self.hugepages = "off"
                reservation.map_memory(0, size)
            if self.hugepages != "hugetlb":
                reservation.advise(0, size, MADV_HUGEPAGE if self.hugepages == "thp" else MADV_NOHUGEPAGE)
            memory = memoryview(reservation.words()).cast("B")
            for shard in range(self.count):
                used = self.control.used(shard)
                if self.control.was_mapped:
                    wanted = self._sizes[shard][which]
                elif which == RECORDS:
                    wanted = BLOCK_BYTES + used * RECORD_BYTES
                else:
                    wanted = self._sizes[shard][which] if used else 0
                start = self._offsets[which][shard]
                fd = self.image.fds[shard][which]
                if fd >= 0:
                    self.files.pread_into(fd, memory[start : start + wanted], 0)

    def _make_view(self) -> View:
        """Fill in the descriptors and wrap everything for the kernels."""
        records, index = (r.words() for r in self._reservations)
        shards = np.zeros(self.count * SHARD_WORDS, np.uint64)
        for shard in range(self.count):
            at = shard * SHARD_WORDS
            shards[at + SHARD_INDEX_BASE] = (self._offsets[INDEX][shard] + BLOCK_BYTES) // 8
            shards[at + SHARD_POSITIONS] = self.control.positions(shard)
            shards[at + SHARD_RECORD_BASE] = (self._offsets[RECORDS][shard] + BLOCK_BYTES) // RECORD_BYTES
            shards[at + SHARD_SLOTS] = self.control.slots(shard)
            shards[at + SHARD_USED] = self.control.used(shard)
            shards[at + SHARD_SEED] = self.control.seed(shard)
            shards[at + SHARD_CHECKED] = 0
        return View(
            index=index,
            records=records,
            shards=shards,
            dirty=np.zeros(self._offsets[RECORDS][-1] // BLOCK_BYTES, np.uint8),
            index_dirty=np.zeros(self._offsets[INDEX][-1] // BLOCK_BYTES, np.uint8),
            state=self._make_state(),
            key=np.frombuffer(self.control.hash_key, np.uint32).copy(),
        )

    def _make_state(self) -> np.ndarray:
        """Return the shared state; with storage "shared" it is a mapped file, so that a kill leaves the newest LSN."""
        if self.way != "shared":
            return self._read_state()
        fd = self.files.open(self.path / STATE_NAME, os.O_RDWR | os.O_CREAT)
        try:
            self.files.preallocate(fd, BLOCK_BYTES)
            reservation = Reservation(BLOCK_BYTES)
            reservation.map_file(0, BLOCK_BYTES, fd, shared=True)
        finally:
            self.files.close(fd)
        return reservation.words()[:STATE_WORDS]

    def _read_state(self) -> np.ndarray:
        """Return a copy of the state that a writer of mapped files left, or zeros."""
        state = np.zeros(STATE_WORDS, np.uint64)
        try:
            fd = self.files.open(self.path / STATE_NAME, os.O_RDONLY)
        except FileNotFoundError:
            return state
        try:
            data = self.files.pread(fd, state.nbytes, 0)
        finally:
            self.files.close(fd)
        if len(data) == state.nbytes:
            state[:] = np.frombuffer(data, np.uint64)
        return state

    # ------------------------------------------------------------ read ahead
    def fetch_index(self) -> None:
        """Ask the kernel to read the index files whose first page is not in memory; does not wait for the disk."""
        for shard in range(self.count):
            offset, size = self._offsets[INDEX][shard], self._sizes[shard][INDEX]
            if not self._reservations[INDEX].resident(offset + size // 2):
                self._reservations[INDEX].advise(offset, size, MADV_WILLNEED)

    def records_resident(self, numbers: np.ndarray) -> bool:
        """Tell whether the records (by number in the view) are in memory, as far as the kernel says."""
        resident = self._reservations[RECORDS].resident
        return all(resident(number * RECORD_BYTES) for number in numbers.tolist())

    def fetch_records(self, numbers: np.ndarray) -> int:
        """Ask the kernel to read the blocks of some records; returns how many blocks."""
        blocks = np.unique(numbers // np.uint64(BLOCK_BYTES // RECORD_BYTES)).astype(np.int64)
        if len(blocks):
            breaks = np.flatnonzero(np.diff(blocks) > 1)
            firsts = blocks[np.concatenate(([0], breaks + 1))]
            counts = blocks[np.concatenate((breaks, [len(blocks) - 1]))] - firsts + 1
            advise = self._reservations[RECORDS].advise
            for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
                advise(first * BLOCK_BYTES, count * BLOCK_BYTES, MADV_WILLNEED)
        return len(blocks)

    # ------------------------------------------------------------ dirty blocks
    def take_dirty(self) -> Dirty:
        """Return which blocks are dirty, and count them as clean from now on; no frame is under way."""
        view = self.view
        assert view is not None
        dirty = Dirty(view.dirty.copy(), view.index_dirty.copy())
        view.dirty[:] = 0
        view.index_dirty[:] = 0
        return dirty

    def dirty_runs(self, dirty: Dirty) -> Iterator[Run]:
        """Yield (shard, file, first block, blocks) of dirty blocks, neighbours and near ones merged."""
        for which, blocks_of in ((RECORDS, dirty.records), (INDEX, dirty.index)):
            for shard in range(self.count):
                start = self._offsets[which][shard] // BLOCK_BYTES
                blocks = np.flatnonzero(blocks_of[start : start + self._sizes[shard][which] // BLOCK_BYTES])
                if not len(blocks):
                    continue
                breaks = np.flatnonzero(np.diff(blocks) > MERGE_GAP_BLOCKS)
                firsts = blocks[np.concatenate(([0], breaks + 1))]
                lasts = blocks[np.concatenate((breaks, [len(blocks) - 1]))]
                for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
                    yield shard, which, first, last - first + 1

    def block_bytes(self, shard: int, which: int, first: int, blocks: int) -> memoryview:
        """Return the memory of some blocks of a file, without a copy."""
        start = self._offsets[which][shard] + first * BLOCK_BYTES
        return memoryview(self._reservations[which].words()).cast("B")[start : start + blocks * BLOCK_BYTES]

    def sync_mapped(self) -> None:
        """Bring mapped files to the disk (storage "shared"). **Durability**: durable when this returns."""
        for which in (RECORDS, INDEX):
            for shard in range(self.count):
                self._reservations[which].msync(self._offsets[which][shard], self._sizes[shard][which])

    def pieces(self, dirty: Dirty, piece_bytes: int) -> Iterator[list[Run]]:
        """Yield the runs of `dirty_runs`, cut and put together into pieces of at most `piece_bytes`."""
        blocks_max = piece_bytes // BLOCK_BYTES
        piece: list[Run] = []
        room = blocks_max
        for shard, which, first, blocks in self.dirty_runs(dirty):
            while blocks:
                count = min(blocks, room)
                piece.append((shard, which, first, count))
                first, blocks, room = first + count, blocks - count, room - count
                if not room:
                    yield piece
                    piece, room = [], blocks_max
        if piece:
            yield piece

    def copy_runs(self, runs: list[Run], out: np.ndarray) -> None:
        """Copy blocks to `out` (uint8), one run behind the other, while kernels may write them.

        A cell that is being written arrives torn, which its seal tells; an index word is copied whole.
        """
        words = out.view(np.uint64)
        for which in (RECORDS, INDEX):
            table = (
                np.array(
                    [
                        (self._offsets[which][shard] + first * BLOCK_BYTES, blocks * BLOCK_BYTES, at)
                        for (shard, kind, first, blocks), at in zip(runs, run_starts(runs), strict=True)
                        if kind == which
                    ],
                    np.int64,
                ).reshape(-1, 3)
                // 8
            )
            copy_words(self._reservations[which].words(), table, words)

    def touched(self, dirty: Dirty) -> tuple[np.ndarray, np.ndarray]:
        """Return bool[shards] for the record files, and for the index files: which have dirty blocks."""
        if self.way == "shared":
            return np.ones(self.count, bool), np.ones(self.count, bool)
        found = np.zeros((2, self.count), bool)
        for which, blocks in ((RECORDS, dirty.records), (INDEX, dirty.index)):
            for shard in range(self.count):
                start = self._offsets[which][shard] // BLOCK_BYTES
                found[which, shard] = blocks[start : start + self._sizes[shard][which] // BLOCK_BYTES].any()
        return found[RECORDS], found[INDEX]

    def write_dirty(self, dirty: Dirty) -> int:
        """Write dirty blocks in place from where they lie and sync the files; returns the bytes written.

        **Durability**: durable when this returns. No frame is under way, and the log was made durable before.
        """
        written = 0
        touched = set()
        for shard, which, first, blocks in self.dirty_runs(dirty):
            data = self.block_bytes(shard, which, first, blocks)
            for at in range(0, len(data), PIECE_BYTES):
                self.image.write(shard, which, first + at // BLOCK_BYTES, data[at : at + PIECE_BYTES])
            written += len(data)
            touched.add((shard, which))
        self.image.sync(touched)
        return written

    def refresh_used(self) -> None:
        """Take the slots given out from the control block again, after a journal changed it."""
        assert self.view is not None
        self.view.shards.reshape(-1, SHARD_WORDS)[:, SHARD_USED] = self.control.table["used"]

    def start_epoch(self, epoch: int) -> None:
        """Say in the shared state whose it is; it counts from now on."""
        assert self.view is not None
        self.view.state[STATE_EPOCH] = epoch

    def prepare_state(self, lsn: int, epoch: int) -> None:
        """Leave a mapped state of `epoch` before the control block says that there is one."""
        state = np.zeros(BLOCK_BYTES // 8, np.uint64)
        state[STATE_COMMITTED], state[STATE_EPOCH] = lsn, epoch
        self.files.write_whole(self.path / STATE_NAME, state.tobytes())

    def mark_all_dirty(self, which: int, shard: int, items: int, item_bytes: int) -> None:
        """Mark the blocks of the first `items` items of a file dirty."""
        assert self.view is not None
        start = self._offsets[which][shard] // BLOCK_BYTES
        stop = start + round_up(BLOCK_BYTES + items * item_bytes, BLOCK_BYTES) // BLOCK_BYTES
        (self.view.dirty if which == RECORDS else self.view.index_dirty)[start + 1 : stop] = 1

    # ------------------------------------------------------------ parts of a shard
    def index_span(self, shard: int) -> tuple[int, int]:
        """Return the first and the last + 1 position of a shard in the view's index array."""
        first = (self._offsets[INDEX][shard] + BLOCK_BYTES) // 8
        return first, first + self.control.positions(shard)

    def record_words(self, shard: int, slots: int) -> np.ndarray:
        """Return the first `slots` records of a shard as uint64[slots, 16], without a copy."""
        assert self.view is not None
        first = (self._offsets[RECORDS][shard] + BLOCK_BYTES) // 8
        return self.view.records[first : first + slots * RECORD_WORDS].reshape(slots, RECORD_WORDS)

    def coverage(self) -> tuple[Coverage, Coverage]:
        """Return what is resident and huge, of the records and of the index."""
        records, index = read_coverage(*(reservation.span for reservation in self._reservations))
        return records, index

    def will_need(self) -> None:
        """Ask the kernel to read the files ahead into the page cache."""
        for which in (RECORDS, INDEX):
            for shard in range(self.count):
                self._reservations[which].advise(self._offsets[which][shard], self._sizes[shard][which], MADV_WILLNEED)

    def close(self) -> None:
        """Close the files; the memory goes when the last array over it goes."""
        self.image.close()
        self.view = None
        self._reservations = ()

    def _grant_hugepages(self) -> str:
        """Return the kind of huge pages to use: what was asked for, or "off" with a note why not."""
        asked = self.options.hugepages
        reason = ""
        if asked == "hugetlb":
            need = round_up(self.control.image_bytes, HUGE_BYTES) // HUGE_BYTES
            if self.way != "memory":
                reason = f'hugetlb pages cannot map a file; storage is "{self.way}"'
            elif hugetlb_pages_free() < need:
                reason = f"hugetlb pages: {need} needed, {hugetlb_pages_free()} free"
        elif asked == "thp" and thp_setting() in ("never", "absent"):
            reason = f"the kernel's transparent huge pages are set to {thp_setting()}"
        if not reason:
            return asked
        if self.options.require:
            raise UnavailableError(reason, field="hugepages")
        self.notes.append(reason)
        return "off"


def _offsets(sizes: list[int]) -> list[int]:
    """Return where each part begins, on 2 MiB boundaries, and behind them the end of all."""
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + round_up(size, HUGE_BYTES))
    return offsets
