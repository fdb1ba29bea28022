"""Files that fail, and ways to damage files. For power cuts see `tests/crash`."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ledger.layout import CONTROL, CONTROL_COPY_BYTES, FORMAT_VERSION
from ledger.storage.files import CONTROL_NAME, Files


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


def make_newer(path: Path, offset: int, dtype: np.dtype) -> None:
    """Let a sealed header on disk be of the version after this one."""

    def change(header: np.ndarray) -> None:
        header["version"] = FORMAT_VERSION + 1

    reseal(path, offset, dtype, change)


def lose_power(path: Path) -> None:
    """Let the control block of a ledger be of another run of the kernel, as after a loss of power."""

    def change(header: np.ndarray) -> None:
        header["boot_id"] = 7

    for copy in (0, 1):
        reseal(path / CONTROL_NAME, copy * CONTROL_COPY_BYTES, CONTROL, change)


def tree(path: Path) -> dict[str, bytes]:
    """Return the name and bytes of every file below a folder."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
