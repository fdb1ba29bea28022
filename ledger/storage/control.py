"""The control block: the root of a ledger, in two copies of which one is always whole.

Invariants:

- `write` goes to the copy that does not count, and that copy counts only once it is durable; torn half way,
  the other one still stands;
- a copy that was read may be in the page cache alone, where a sync of it has failed: the first `write` makes it durable
  before it touches the other one;
- the copy with the greater sequence counts; both are equal at creation;
- control.bin gets its name only when all that it points to is durable: a folder without it is no ledger;
- a copy of a newer version is an error of its own, and nothing is written over it.

Thread-safety: one thread at a time, the one that makes checkpoints.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from ledger.errors import CorruptControlError, CorruptionError, FailStopError, LedgerNotFoundError
from ledger.layout import (
    BLOCK_BYTES,
    CONTROL,
    CONTROL_COPY_BYTES,
    CONTROL_SHARD,
    HASH_BLAKE3,
    LSN_BUSY,
    MAGIC_CONTROL,
    RECORD_BYTES,
    SHARDS_MAX,
    SLOTS_PER_SHARD_MAX,
    round_up,
)
from ledger.options import DURABILITIES, INDEX_LOADS, STORAGES
from ledger.storage.files import CONTROL_NAME, Files, boot_id
from ledger.storage.headers import check_file_header, crc32c, decode, encode_file_header, new_header, seal, wall_time_ns

COPIES: Final = 2
STAMPS: Final = ("record_stamp", "index_stamp")  # by number of the file of a shard
POSITIONS_PER_SHARD_MAX: Final = 2 * SLOTS_PER_SHARD_MAX  # at the least `index_load`
_WORD: Final = (1 << 64) - 1
_PLAIN: Final = (
    "epoch",
    "checkpoint_lsn",
    "totals_lsn",
    "redo_bytes_per_s",
    "live",
    "capacity",
    "log_segment_bytes",
    "log_segment_first",
    "created_ns",
)  # integers that are the same in the block and in `Control`
_COUNTERS: Final = ("sequence", "epoch", "checkpoint_lsn", "totals_lsn")  # below 2^63, so that the next one is no wrap


@dataclass(eq=False)
class Control:
    """What the control block says; change the fields, then `write`.

    `sequence` counts the writes. `checkpoint_lsn` is the newest frame that the image holds in full, and it may hold
    parts of later ones; `log_digest` is the digest of that frame's header, `log_segment_first` the segment that the
    frame after it is in or will be in. `live` and `supply`, the sum of all live balances, are as of `totals_lsn`.
    `table` has a CONTROL_SHARD row for each shard.
    """

    ledger_id: bytes
    table: np.ndarray
    capacity: int
    index_load: float
    hash_key: bytes
    hash_name: str = HASH_BLAKE3.decode()
    durability: str = DURABILITIES[0]
    storage: str = STORAGES[0]
    log_segment_bytes: int = 0
    log_segment_first: int = 1
    log_digest: bytes = bytes(16)
    sequence: int = 0
    epoch: int = 0
    checkpoint_lsn: int = 0
    totals_lsn: int = 0
    redo_bytes_per_s: int = 0
    supply: int = 0
    live: int = 0
    clean: bool = False
    boot_id: bytes = bytes(16)
    created_ns: int = 0
    written_ns: int = 0
    _copy: int = field(default=0, repr=False)
    _failed: OSError | None = field(default=None, repr=False)
    _unsure: bytes = field(default=b"", repr=False)

    # ------------------------------------------------------------ shards
    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.table)

    @property
    def image_bytes(self) -> int:
        """Bytes of all record and index files."""
        return sum(self.file_bytes(shard, which) for shard in range(self.shards) for which in (0, 1))

    @property
    def was_mapped(self) -> bool:
        """Whether the last writer worked in mapped files: unless it closed cleanly, they hold what it did since."""
        return self.storage == "shared"

    def generation(self, shard: int) -> int:
        """Return the generation of a shard's files."""
        return int(self.table["generation"][shard])

    def slots(self, shard: int) -> int:
        """Return the number of slots in a shard's record file."""
        return int(self.table["slots"][shard])

    def positions(self, shard: int) -> int:
        """Return the number of positions in a shard's index."""
        return int(self.table["positions"][shard])

    def used(self, shard: int) -> int:
        """Return the slots given out in a shard as of the checkpoint."""
        return int(self.table["used"][shard])

    def index_sum(self, shard: int) -> int:
        """Return the sum over a shard's index entries as of the checkpoint."""
        return int(self.table["index_sum"][shard])

    def seed(self, shard: int) -> int:
        """Return the CRC-32C over ledger id, shard and generation: the start of each record's checksum."""
        place = shard.to_bytes(4, "little") + self.generation(shard).to_bytes(4, "little")
        return crc32c(self.ledger_id + place)

    def file_bytes(self, shard: int, which: int) -> int:
        """Return the size of a shard's record file (`which` 0) or index file (1)."""
        items = self.positions(shard) * 8 if which else self.slots(shard) * RECORD_BYTES
        return round_up(BLOCK_BYTES + items, BLOCK_BYTES)

    def file_header(self, shard: int, which: int, stamp: int | None = None) -> bytes:
        """Return the first block of a shard's record file (`which` 0) or index file (1)."""
        items = self.positions(shard) if which else self.slots(shard)
        stamp = self.stamp(shard, which) if stamp is None else stamp
        return encode_file_header(self.ledger_id, shard, self.generation(shard), which, items, stamp)

    def stamp(self, shard: int, which: int) -> int:
        """Return the LSN of the last checkpoint that changed a shard's record file (`which` 0) or index file (1)."""
        return int(self.table[STAMPS[which]][shard])

    def open_checked(
        self, files: Files, path: Path, shard: int, which: int, size: int, writable: bool
    ) -> tuple[int, int]:
        """Open a file of a shard, check its size and header, and return its descriptor and stamp.

        Raises
        ------
        CorruptionError
            The file is missing or short, or its header is damaged.
        UnsupportedVersionError, WrongLedgerError
            See `headers.check_file_header`.
        """
        try:
            fd = files.open(path, os.O_RDWR if writable else os.O_RDONLY)
        except FileNotFoundError as error:
            raise CorruptionError(f"{path} is missing", path=path, offset=0) from error
        try:
            found = files.size(fd)
            stamp = 0
            if found >= BLOCK_BYTES:
                stamp = check_file_header(files.pread(fd, BLOCK_BYTES, 0), self.file_header(shard, which), which, path)
            if found < size:
                raise CorruptionError(f"{path} has {found} bytes, not {size}", path=path, offset=found)
        except BaseException:
            files.close(fd)
            raise
        return fd, stamp

    def has_block(self, shard: int, which: int, block: int) -> bool:
        """Tell whether a block is within a shard's record file (`which` 0) or index file (1)."""
        return shard < self.shards and which < 2 and (block + 1) * BLOCK_BYTES <= self.file_bytes(shard, which)

    def is_laid_out_like(self, other: Control) -> bool:
        """Tell whether another control block is of the same ledger and the same files."""
        names = ["generation", "slots", "positions"]
        same = self.ledger_id == other.ledger_id and self.shards == other.shards
        return same and bool((self.table[names] == other.table[names]).all())

    # ------------------------------------------------------------ bytes
    def encode(self) -> bytes:
        """Return one copy as bytes: CONTROL, then the table, in whole blocks."""
        header = new_header(CONTROL, MAGIC_CONTROL, self.ledger_id)
        for name in _PLAIN:
            header[name] = getattr(self, name)
        header["record_bytes"] = RECORD_BYTES
        header["sequence"] = self.sequence
        header["supply_lo"], header["supply_hi"] = self.supply & _WORD, self.supply >> 64
        header["shards"] = self.shards
        header["durability"] = DURABILITIES.index(self.durability)
        header["storage"] = STORAGES.index(self.storage)
        header["index_load"] = self.index_load
        header["hash_name"] = self.hash_name.encode(errors="surrogateescape")
        header["clean"] = int(self.clean)
        header["written_ns"] = self.written_ns
        for name in ("hash_key", "log_digest", "boot_id"):
            header[name] = np.frombuffer(getattr(self, name), np.uint8)
        table = self.table.tobytes()
        header["table_crc"] = crc32c(table)
        data = seal(header) + table
        return data.ljust(round_up(len(data), BLOCK_BYTES), b"\0")

    @classmethod
    def decode(cls, data: bytes, path: Path, offset: int) -> Control | None:
        """Return the copy that `data` starts with, or None where it is damaged.

        Raises
        ------
        UnsupportedVersionError
            The copy is sound, and newer than this code.
        """
        header = decode(data, CONTROL, MAGIC_CONTROL, path, offset)
        if header is None:
            return None
        shards = int(header["shards"])
        table = bytes(data[CONTROL.itemsize : CONTROL.itemsize + shards * CONTROL_SHARD.itemsize])
        if len(table) < shards * CONTROL_SHARD.itemsize or crc32c(table) != int(header["table_crc"]):
            return None
        if not _is_possible(header, np.frombuffer(table, CONTROL_SHARD)):
            return None
        return cls(
            ledger_id=header["ledger_id"].tobytes(),
            table=np.frombuffer(bytearray(table), CONTROL_SHARD),
            index_load=float(header["index_load"]),
            hash_key=header["hash_key"].tobytes(),
            hash_name=header["hash_name"].decode(errors="surrogateescape"),
            durability=DURABILITIES[int(header["durability"])],
            storage=STORAGES[int(header["storage"])],
            log_digest=header["log_digest"].tobytes(),
            sequence=int(header["sequence"]),
            supply=int(header["supply_hi"]) << 64 | int(header["supply_lo"]),
            clean=bool(header["clean"]),
            boot_id=header["boot_id"].tobytes(),
            written_ns=int(header["written_ns"]),
            **{name: int(header[name]) for name in _PLAIN},
        )

    # ------------------------------------------------------------ file
    @classmethod
    def read(cls, files: Files, path: Path) -> Control:
        """Read the control block of the ledger in folder `path`.

        Raises
        ------
        LedgerNotFoundError
            There is no control file.
        UnsupportedVersionError
            One of the copies is newer than this code.
        CorruptControlError
            Neither copy is whole, or says what a ledger can be.
        OSError
            A copy cannot be read: that is not damage, and says nothing about the other copy.
        """
        name = path / CONTROL_NAME
        try:
            fd = files.open(name, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LedgerNotFoundError(f"there is no ledger at {path}", path=path) from error
        found = []
        try:
            for copy in range(COPIES):
                offset = copy * CONTROL_COPY_BYTES
                data = files.pread(fd, CONTROL_COPY_BYTES, offset)
                control = cls.decode(data, name, offset)
                if control is not None:
                    control._copy = copy
                    control._unsure = data[: round_up(CONTROL.itemsize + control.table.nbytes, BLOCK_BYTES)]
                    found.append(control)
        finally:
            files.close(fd)
        if not found:
            raise CorruptControlError(f"{name}: no copy of the control block is sound", path=name, offset=0)
        if len({control.ledger_id for control in found}) > 1:
            raise CorruptControlError(f"{name}: the two copies are of two ledgers", path=name, offset=0)
        return max(found, key=lambda control: control.sequence)

    def create(self, files: Files, path: Path) -> None:
        """Write both copies to a new file; from here on the folder is a ledger.

        **Durability**: durable when this returns; all that the block points to must be before.
        """
        self._stamp()
        self.created_ns = self.written_ns
        self.sequence += 1
        copy = self.encode()
        files.write_whole(path / CONTROL_NAME, copy.ljust(CONTROL_COPY_BYTES, b"\0") + copy)

    def write(self, files: Files, path: Path) -> None:
        """Write to the copy that does not count, sync, and let it count.

        **Durability**: durable when this returns. What the block points to must be durable before.

        Raises
        ------
        FailStopError
            The write or the sync failed, now or before; which copy counts is decided by the next opening.
        """
        if self._failed is not None:
            raise FailStopError("the control block could not be written before") from self._failed
        self._stamp()
        self.sequence += 1
        copy = 1 - self._copy
        try:
            fd = files.open(path / CONTROL_NAME, os.O_RDWR)
            try:
                if self._unsure:
                    files.pwrite(fd, self._unsure, self._copy * CONTROL_COPY_BYTES)
                    files.fdatasync(fd)  # the copy that counts
                    self._unsure = b""
                files.pwrite(fd, self.encode(), copy * CONTROL_COPY_BYTES)
                files.fdatasync(fd)  # the copy that counts from now on
            finally:
                files.close(fd)
        except OSError as error:
            self._failed = error
            raise FailStopError(f"the control block cannot be written: {error}") from error
        self._copy = copy

    def _stamp(self) -> None:
        """Note when, and under which run of the kernel, the block was written."""
        self.written_ns = wall_time_ns()
        self.boot_id = boot_id()


def _is_possible(header: np.void, table: np.ndarray) -> bool:
    """Tell whether a sealed copy says what can be: kernels take the numbers of its table for granted."""
    shards, slots = int(header["shards"]), table["slots"]
    return (
        1 <= shards <= SHARDS_MAX
        and shards & (shards - 1) == 0
        and int(header["record_bytes"]) == RECORD_BYTES
        and int(header["durability"]) < len(DURABILITIES)
        and int(header["storage"]) < len(STORAGES)
        and int(header["clean"]) <= 1
        and all(int(header[name]) < LSN_BUSY for name in _COUNTERS)
        and 1 <= int(header["capacity"]) <= SLOTS_PER_SHARD_MAX
        and INDEX_LOADS[0] <= float(header["index_load"]) <= INDEX_LOADS[1]
        and bool(((table["used"] <= slots) & (slots < table["positions"])).all())
        and int(slots.max()) <= SLOTS_PER_SHARD_MAX
        and int(table["positions"].max()) <= POSITIONS_PER_SHARD_MAX
    )
