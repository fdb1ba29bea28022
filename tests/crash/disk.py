"""A disk that forgets: what it was told, in order, and what a power cut at any point may leave of it.

A write, a truncation or a change of a name is pending until a sync that began after it has ended. A cut keeps or
drops each pending one by itself, and tears writes into sectors; the contents of files and the entries of folders
are apart. A sync that fails forgets the writes that it covered: programs still read them, and they never reach the
disk. What is assumed of a disk: a sector of 512 bytes is written whole or not at all, and what was synced stays.
`Disk.survive` with `sector_bytes` below 512 takes the first away, `recorder.Lying` the second.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SECTOR_BYTES = 512
BLOCK_BYTES = 4096


class Op(NamedTuple):
    """One thing that the disk was told, or a mark of the workload.

    `kind` is one of: "write" (inode, offset, data), "truncate" (inode, size), "allocate" (inode, size),
    "begin" and "end" of a sync (inode, its number), "durable" (inode, place of the write in the list, from 1 on:
    one that was a sync in itself), "forget" and "lost" (the same of one that failed), "name" (path, inode),
    "rename" (path, target), "unlink" (path), "folder" (path: a sync of it, operations before it), "mark" (word, value).
    A "begin" may name the places of writes under way, as its last part: its sync does not cover them.
    """

    kind: str
    a: object
    b: object = 0
    c: object = b""


@dataclass(eq=False, slots=True)
class Inode:
    """A file: bytes that are durable, and changes that are not."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, str, int, bytes]] = field(default_factory=list)

    def apply(self, data: bytearray, change: tuple[int, str, int, bytes]) -> None:
        _, kind, at, piece = change
        if kind == "write":
            put(data, at, piece)
        elif kind == "truncate":
            del data[at:]
            data.extend(bytes(at - len(data)))
        elif len(data) < at:
            data.extend(bytes(at - len(data)))

    def settle(self, numbers: set[int]) -> None:
        """Make some pending changes durable."""
        for change in self.pending:
            if change[0] in numbers:
                self.apply(self.durable, change)
        self.pending = [change for change in self.pending if change[0] not in numbers]

    def forget(self, numbers: set[int]) -> None:
        """Drop pending writes; a size is metadata, which file systems keep in a journal."""
        self.pending = [change for change in self.pending if change[0] not in numbers or change[1] != "write"]


def put(data: bytearray, offset: int, piece: bytes) -> None:
    """Write `piece` into `data`, which grows by zeros if need be."""
    if len(data) < offset + len(piece):
        data.extend(bytes(offset + len(piece) - len(data)))
    data[offset : offset + len(piece)] = piece


class Disk:
    """Takes operations one after the other, and makes images of what a cut would leave now.

    Parameters
    ----------
    files : dict of str to bytes
        Path, relative to the watched folder, and contents of what is durable from the start.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.inodes: dict[int, Inode] = {}
        self.names: dict[str, int] = {}  # as of the durable entries
        self.changes: list[tuple[int, str, str, int, str]] = []  # number, folder, name set, its inode, name gone
        self.syncs: dict[int, set[int]] = {}
        self.count = 0
        self._live: dict[str, int] = {}
        for number, (path, data) in enumerate((files or {}).items()):
            self.inodes[-1 - number] = Inode(bytearray(data))
            self.names[path] = self._live[path] = -1 - number

    def do(self, op: Op) -> None:
        """Take one operation."""
        self.count += 1
        kind, a, b, c = op
        if kind in ("write", "truncate", "allocate"):
            inode = self.inodes.setdefault(a, Inode())
            inode.pending.append((self.count, kind, b, c))
        elif kind == "begin":
            self.syncs[b] = {change[0] for change in self.inodes.setdefault(a, Inode()).pending} - set(c)
        elif kind == "end":
            self.inodes[a].settle(self.syncs.pop(b))
        elif kind == "durable":
            self.inodes[a].settle({b})
        elif kind == "forget":
            self.inodes[a].forget(self.syncs.pop(b))
        elif kind == "lost":
            self.inodes[a].forget({b})
        elif kind == "name":
            self.inodes.setdefault(b, Inode())
            self._live[a] = b
            self.changes.append((self.count, folder_of(a), a, b, ""))
        elif kind == "rename":
            number = self._live.pop(a)
            self._live[b] = number
            self.changes.append((self.count, folder_of(b), b, number, a))
        elif kind == "unlink":
            self._live.pop(a, None)
            self.changes.append((self.count, folder_of(a), "", -1, a))
        elif kind == "folder":
            for change in self.changes:
                if change[1] == a and change[0] <= b:
                    _rename(self.names, change)
            self.changes = [change for change in self.changes if change[1] != a or change[0] > b]

    def inode_of(self, path: str) -> int:
        """Return the inode that a path has for the running program."""
        return self._live[path]

    def survive(self, choose: random.Random, *, sector_bytes: int = SECTOR_BYTES) -> dict[str, bytes]:
        """Return files and contents that a cut now may leave.

        Each image is drawn from one temper: nothing pending survives, everything does, or each change by itself.
        """
        keep = choose.choice((0.0, 1.0, 0.5, 0.5, 0.15, 0.85))
        tear = choose.choice((0.0, 0.0, 0.4, 1.0))
        names = dict(self.names)
        in_order = choose.random() < 0.5
        for change in self.changes:
            if choose.random() < keep:
                _rename(names, change)
            elif in_order:
                break
        seen: dict[int, bytes] = {}
        for number in names.values():
            if number not in seen:
                seen[number] = self._contents(self.inodes[number], choose, keep, tear, sector_bytes)
        return {path: seen[number] for path, number in names.items()}

    def _contents(self, inode: Inode, choose: random.Random, keep: float, tear: float, sector_bytes: int) -> bytes:
        data = bytearray(inode.durable)
        for change in inode.pending:
            if choose.random() >= keep:
                continue
            _, kind, at, piece = change
            if kind != "write" or choose.random() >= tear:
                inode.apply(data, change)
                continue
            unit = choose.choice((sector_bytes, sector_bytes, BLOCK_BYTES))
            whole = choose.random() < 0.3  # a prefix, as of a write cut short; else any of the parts
            stop = choose.randrange(0, len(piece) + unit, unit)
            for part in range(0, len(piece), unit):
                if (part < stop) if whole else choose.random() < 0.5:
                    put(data, at + part, piece[part : part + unit])
        return bytes(data)


def _rename(names: dict[str, int], change: tuple[int, str, str, int, str]) -> None:
    """Carry out one change of a folder's entries."""
    _, _, path, number, gone = change
    if gone:
        names.pop(gone, None)
    if path:
        names[path] = number


def folder_of(path: str) -> str:
    """Return the folder of a relative path, "" for the watched one."""
    return path.rpartition("/")[0]


def memory_folder() -> Path | None:
    """Return a folder in memory, where images are quick, or None where there is none."""
    folder = Path("/dev/shm")
    return folder if os.access(folder, os.W_OK) else None


def lay(image: dict[str, bytes], folder: Path) -> None:
    """Write an image to an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, data in image.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
