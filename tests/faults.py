"""Files that fail, and files that remember what a power cut would leave."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ledger.storage.files import Files

SECTOR_BYTES = 512


@dataclass
class Rule:
    """Fail calls of one name; `skip` of them go through first, and `times` fail (None: all later ones)."""

    call: str
    error: int
    path: str
    skip: int
    times: int | None
    met: int = 0


class FaultyFiles(Files):
    """Count every call, and fail those that a rule names.

    `calls` holds ``(name, file name)``; `attempts(name)` counts them.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.rules: list[Rule] = []
        self._names: dict[int, str] = {}

    def fail(self, call: str, error: int = errno.EIO, *, path: str = "", skip: int = 0, times: int | None = 1) -> Rule:
        """Let a later call fail; `path` is a part of the file's name."""
        rule = Rule(call, error, path, skip, times)
        self.rules.append(rule)
        return rule

    def attempts(self, call: str, path: str = "") -> int:
        return sum(1 for name, where in self.calls if name == call and path in where)

    def note(self, call: str, where: Any) -> None:
        """Record a call and raise if a rule says so."""
        where = self._names.get(where, "?") if isinstance(where, int) else str(where)
        self.calls.append((call, where))
        for rule in self.rules:
            if rule.call != call or rule.path not in where:
                continue
            rule.met += 1
            if rule.met > rule.skip and (rule.times is None or rule.met <= rule.skip + rule.times):
                raise OSError(rule.error, os.strerror(rule.error), where)

    def open(self, path, flags, mode=0o640):
        self.note("open", path)
        fd = super().open(path, flags, mode)
        self._names[fd] = str(path)
        return fd

    def pread_into(self, fd, buffer, offset):
        self.note("pread", fd)
        return super().pread_into(fd, buffer, offset)

    def pwrite(self, fd, data, offset):
        self.note("pwrite", fd)
        super().pwrite(fd, data, offset)

    def fdatasync(self, fd):
        self.note("fdatasync", fd)
        super().fdatasync(fd)

    def fsync(self, fd):
        self.note("fsync", fd)
        super().fsync(fd)

    def start_write(self, fd, buffer, offset, direct):
        self.note("start_write", fd)
        return fd, super().start_write(fd, buffer, offset, direct)

    def finish_write(self, handle):
        super().finish_write(handle[1])
        self.note("finish_write", handle[0])

    def preallocate(self, fd, size):
        self.note("preallocate", fd)
        super().preallocate(fd, size)

    def replace(self, source, target):
        self.note("replace", target)
        super().replace(source, target)

    def unlink(self, path, *, missing_ok=False):
        self.note("unlink", path)
        super().unlink(path, missing_ok=missing_ok)

    def mkdir(self, path):
        self.note("mkdir", path)
        super().mkdir(path)

    def sync_directory(self, path):
        self.note("sync_directory", path)
        super().sync_directory(path)


class PowerCutError(BaseException):
    """The power is gone: raised at the chosen call and at every later one."""


@dataclass(eq=False)
class Inode:
    """A file as the disk has it, and the writes that are not durable yet."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    live: bytearray = field(default_factory=bytearray)

    def write(self, offset: int, data: bytes) -> tuple[int, bytes]:
        piece = (offset, bytes(data))
        self.pending.append(piece)
        _put(self.live, *piece)
        return piece

    def make_durable(self, piece: tuple[int, bytes] | None = None) -> None:
        for item in self.pending if piece is None else [piece]:
            _put(self.durable, *item)
        self.pending = [item for item in self.pending if piece is not None and item is not piece]

    def survive(self, choose: random.Random) -> bytes:
        """Return what a power cut leaves: of each write not synced nothing, all, or some sectors."""
        data = bytearray(self.durable)
        for offset, piece in self.pending:
            fate = choose.random()
            if fate < 0.3:
                continue
            for at in range(0, len(piece), SECTOR_BYTES):
                if fate > 0.6 or choose.random() < 0.5:
                    _put(data, offset + at, piece[at : at + SECTOR_BYTES])
        return bytes(data)


def _put(data: bytearray, offset: int, piece: bytes) -> None:
    if len(data) < offset + len(piece):
        data.extend(bytes(offset + len(piece) - len(data)))
    data[offset : offset + len(piece)] = piece


class PowerCutFiles(Files):
    """Do everything for real, and keep beside it what is durable.

    Parameters
    ----------
    root
        Folder that is watched; what is in it already counts as durable.
    cut_at
        Number of the changing call at which the power goes, counted from 0; None for never.
    """

    def __init__(self, root: Path, cut_at: int | None = None) -> None:
        self.root = root
        self.cut_at = cut_at
        self.changes = 0
        self._fds: dict[int, Inode] = {}
        self._names: dict[Path, Inode] = {}
        for path in root.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                self._names[path] = Inode(bytearray(data), [], bytearray(data))
        self._durable_names = dict(self._names)

    def _change(self) -> None:
        if self.cut_at is not None and self.changes >= self.cut_at:
            raise PowerCutError
        self.changes += 1

    def write_image(self, target: Path, choose: random.Random) -> None:
        """Write what the cut leaves to `target`, which takes the place of `root`."""
        folders = {path.parent for path in (*self._names, *self._durable_names)}
        target.mkdir(parents=True, exist_ok=True)
        for folder in sorted(folders):
            (target / folder.relative_to(self.root)).mkdir(parents=True, exist_ok=True)
            names = self._names if choose.random() < 0.5 else self._durable_names
            for path, inode in names.items():
                if path.parent == folder:
                    (target / path.relative_to(self.root)).write_bytes(inode.survive(choose))

    def open(self, path, flags, mode=0o640):
        if flags & (os.O_CREAT | os.O_TRUNC):
            self._change()
        fd = super().open(path, flags, mode)
        path = Path(path)
        if path not in self._names:
            self._names[path] = Inode()
        elif flags & os.O_TRUNC:
            self._names[path] = Inode(bytearray(self._names[path].durable))
        self._fds[fd] = self._names[path]
        return fd

    def pwrite(self, fd, data, offset):
        self._change()
        super().pwrite(fd, data, offset)
        self._fds[fd].write(offset, memoryview(data).cast("B"))

    def fdatasync(self, fd):
        self._change()
        super().fdatasync(fd)
        self._fds[fd].make_durable()

    def fsync(self, fd):
        self._change()
        super().fsync(fd)
        self._fds[fd].make_durable()

    def start_write(self, fd, buffer, offset, direct):
        self._change()
        inode = self._fds[fd]
        piece = inode.write(offset, buffer.tobytes())
        return inode, piece, super().start_write(fd, buffer, offset, direct)

    def finish_write(self, handle):
        inode, piece, inner = handle
        super().finish_write(inner)
        self._change()
        inode.make_durable(piece)

    def preallocate(self, fd, size):
        self._change()
        super().preallocate(fd, size)
        inode = self._fds[fd]
        if len(inode.live) < size:
            inode.write(size - 1, b"\0")

    def replace(self, source, target):
        self._change()
        super().replace(source, target)
        self._names[Path(target)] = self._names.pop(Path(source))

    def unlink(self, path, *, missing_ok=False):
        self._change()
        super().unlink(path, missing_ok=missing_ok)
        self._names.pop(Path(path), None)

    def sync_directory(self, path):
        self._change()
        super().sync_directory(path)
        kept = {name: inode for name, inode in self._durable_names.items() if name.parent != Path(path)}
        self._durable_names = kept | {n: i for n, i in self._names.items() if n.parent == Path(path)}


def flip_bit(path: Path, offset: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def patch(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def reseal(path: Path, offset: int, dtype: np.dtype, change: Callable[[np.ndarray], None]) -> None:
    """Change a sealed header on disk and seal it again."""
    from ledger.storage.headers import seal

    raw = path.read_bytes()[offset : offset + dtype.itemsize]
    header = np.frombuffer(bytearray(raw), dtype)
    change(header)
    patch(path, offset, seal(header))


def tree(path: Path) -> dict[str, bytes]:
    """Return the name and bytes of every file below a folder."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
