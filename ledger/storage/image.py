"""The image files of a ledger: for each shard one with its records and one with its index.

Invariant: shard i has `slots` records in shard_iii.bin and `positions` index words in index_iii.bin, both behind one
header block; the files are allocated in full before they are mapped and are never truncated while in use.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from ledger.errors import CorruptionError
from ledger.layout import BLOCK_BYTES
from ledger.storage.control import Control
from ledger.storage.files import Files, index_name, shard_name

RECORDS: Final = 0  # number of the record file of a shard; see JOURNAL_ENTRY
INDEX: Final = 1
Run = tuple[int, int, int, int]  # shard, file, first block, blocks
Group = list[tuple[int, int, int, int, int]]  # runs of one file, and where each lies in a buffer


class Image:
    """The files of all shards.

    Parameters
    ----------
    files : Files
        Through which all disk changes go.
    path : Path
        Folder of the ledger.
    control : Control
        Geometry, generations and stamps.
    writable : bool

    Attributes
    ----------
    fds : list of (int, int)
        Descriptors of open files; -1 for an index that is not there, read-only.
    broken_indexes : set of int
        Shards whose index file was missing, short or damaged.
    newest_stamp : int
        The newest checkpoint that a file names, as it was opened.
    """

    def __init__(self, files: Files, path: Path, control: Control, *, writable: bool) -> None:
        self.files = files
        self.path = path
        self.control = control
        self.writable = writable
        self.fds: list[tuple[int, int]] = []
        self.broken_indexes: set[int] = set()
        self.newest_stamp = 0

    def file_path(self, shard: int, which: int) -> Path:
        """Return the path of a shard's record file (0) or index file (1)."""
        name = shard_name if which == RECORDS else index_name
        return self.path / name(shard, self.control.generation(shard))

    def create(self) -> None:
        """Make every record and index file, allocated in full; one that is there is emptied first.

        **Durability**: contents and directory entries are durable when this returns.
        """
        for shard in range(self.control.shards):
            for which in (RECORDS, INDEX):
                self._create_file(shard, which)
        self.files.sync_directory(self.path)

    def open(self) -> None:
        """Open and check every file; an index that cannot be used is replaced by an empty one.

        Raises
        ------
        CorruptionError, WrongLedgerError, UnsupportedVersionError
            A file is missing or short, belongs elsewhere, or is newer.
        """
        for shard in range(self.control.shards):
            self.fds.append((self._open_file(shard, RECORDS), -1))
            self.fds[shard] = (self.fds[shard][RECORDS], self._open_file(shard, INDEX))

    def _open_file(self, shard: int, which: int) -> int:
        size = self.control.file_bytes(shard, which)
        try:
            fd, stamp = self.control.open_checked(
                self.files, self.file_path(shard, which), shard, which, size, self.writable
            )
        except CorruptionError:
            if which == RECORDS:
                raise
            return self._replace_index(shard)
        self.newest_stamp = max(self.newest_stamp, stamp)
        return fd

    def _replace_index(self, shard: int) -> int:
        """Make an empty index file in the place of one that is missing, short or damaged; -1 where read-only."""
        self.broken_indexes.add(shard)
        if not self.writable:
            return -1
        self._create_file(shard, INDEX)
        self.files.sync_directory(self.path)
        return self.files.open(self.file_path(shard, INDEX), os.O_RDWR)

    def _create_file(self, shard: int, which: int) -> None:
        """Make one file, zeroed and allocated in full, with its header; its contents are durable then."""
        fd = self.files.open(self.file_path(shard, which), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            self.files.preallocate(fd, self.control.file_bytes(shard, which))
            self.files.pwrite(fd, self.control.file_header(shard, which), 0)
            self.files.fdatasync(fd)
        finally:
            self.files.close(fd)

    def write(self, shard: int, which: int, block: int, data: Any) -> None:
        """Write blocks in place; durable after `sync`."""
        self.files.pwrite(self.fds[shard][which], data, block * BLOCK_BYTES)

    def write_group(self, group: Group, data: np.ndarray) -> None:
        """Write some runs of one file and let them reach the device; durable after `sync`.

        The log was made durable through the newest frame in them before.
        """
        view = memoryview(data)
        for shard, which, first, blocks, at in group:
            self.write(shard, which, first, view[at : at + blocks * BLOCK_BYTES])
        first, stop = group[0][2], group[-1][2] + group[-1][3]
        self.files.write_back(self.fds[group[0][0]][group[0][1]], first * BLOCK_BYTES, (stop - first) * BLOCK_BYTES)

    def write_stamps(self, touched: tuple[np.ndarray, np.ndarray], lsn: int) -> None:
        """Name the checkpoint in the header of each file that it changes; a sync of their blocks comes later.

        The log was made durable through `lsn` before: a stamp says that the file may hold what came up to it.
        """
        for which in (RECORDS, INDEX):
            for shard in np.flatnonzero(touched[which]).tolist():
                header = self.control.file_header(shard, which, lsn)
                self.files.pwrite(self.fds[shard][which], header, 0)

    def sync(self, which: Iterable[tuple[int, int]] | None = None) -> None:
        """Make what was written to some files (shard, file), or to all, durable."""
        for shard, kind in sorted(which) if which is not None else np.ndindex(self.control.shards, 2):
            self.files.fdatasync(self.fds[shard][kind])

    def drop_cache(self) -> None:
        """Ask the kernel to forget clean cached pages of the files (for measuring cold starts)."""
        for pair in self.fds:
            for fd in pair:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the files."""
        for fd in itertools.chain.from_iterable(self.fds):
            if fd >= 0:
                self.files.close(fd)
        self.fds = []


def groups(runs: Iterable[Run], runs_max: int, blocks_max: int) -> Iterator[Group]:
    """Yield runs that lie in a buffer one behind the other in groups of one file each, cut where they are too long."""
    group: Group = []
    room, at = blocks_max, 0
    for shard, which, first, blocks in runs:
        while blocks:
            if group and (group[0][:2] != (shard, which) or len(group) == runs_max or not room):
                yield group
                group, room = [], blocks_max
            count = min(blocks, room)
            group.append((shard, which, first, count, at))
            first, blocks, room, at = first + count, blocks - count, room - count, at + count * BLOCK_BYTES
    if group:
        yield group


def run_starts(runs: list[Run]) -> list[int]:
    """Return where each run begins when they lie one behind the other, in bytes."""
    return list(itertools.accumulate((run[3] * BLOCK_BYTES for run in runs[:-1]), initial=0)) if runs else []
