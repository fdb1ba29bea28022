"""Files that do everything for real and write down what they told the disk."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from pathlib import Path

from ledger.storage.files import Files
from tests.crash.disk import Op


class Recorder(Files):
    """Record every change below a folder as operations of `disk.Op`.

    Parameters
    ----------
    root
        Folder that is watched; what is in it already counts as durable.
    delay_s
        Time that a log write and a sync take longer, so that more goes on meanwhile.

    Attributes
    ----------
    ops : list of Op
        In the order in which the disk was told.
    times : list of float
        `time.monotonic` of each.
    syncs : int
        Syncs, and writes that are one in themselves, so far.
    fail_at : int or None
        The one of them that fails, once, and forgets what it covered.
    failed : str
        The file whose sync has failed.
    """

    def __init__(self, root: Path, delay_s: float = 0.0005) -> None:
        self.root = root
        self.delay_s = delay_s
        self.ops: list[Op] = []
        self.times: list[float] = []
        self.start = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
        self._inodes = {str(name): -1 - number for number, name in enumerate(self.start)}
        self._fds: dict[int, int] = {}
        self._lock = threading.Lock()
        self.syncs = 0
        self.fail_at: int | None = None
        self.failed = ""
        self.dead = False  # the process that writes has been killed: nothing it still tries reaches the disk

    def note(self, kind: str, a: object, b: object = 0, c: object = b"") -> int:
        """Add an operation and return its place, from 1 on."""
        if self.dead:
            raise OSError(errno.EIO, "the writer is dead")
        with self._lock:
            self.ops.append(Op(kind, a, b, c))
            self.times.append(time.monotonic())
            return len(self.ops)

    def mark(self, word: str, value: object) -> None:
        """Note how far the workload is."""
        self.note("mark", word, value)

    def _name(self, path: os.PathLike[str] | str) -> str:
        return str(Path(path).relative_to(self.root)) if Path(path) != self.root else ""

    def open(self, path, flags, mode=0o640):
        fd = super().open(path, flags, mode)
        name = self._name(path)
        number = self._inodes.get(name)
        if number is None:
            if not flags & os.O_CREAT:
                return fd  # a folder
            number = self.note("mark", "new", name)
            self._inodes[name] = number
            self.note("name", name, number)
        elif flags & os.O_TRUNC:
            self.note("truncate", number, 0)
        self._fds[fd] = number
        return fd

    def pwrite(self, fd, data, offset):
        self.note("write", self._fds[fd], offset, bytes(memoryview(data).cast("B")))
        super().pwrite(fd, data, offset)

    def name_of(self, number: int) -> str:
        """Return the path of an inode now, "" when it has none."""
        return next((name for name, inode in list(self._inodes.items()) if inode == number), "")

    def _count(self) -> int:
        with self._lock:
            self.syncs += 1
            return self.syncs - 1

    def _fail(self, kind: str, inode: int, number: int) -> None:
        self.failed = self.name_of(inode)
        self.note(kind, inode, number)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _sync(self, fd, sync):
        number = self._count()
        self.note("begin", self._fds[fd], number)
        if number == self.fail_at:
            self._fail("forget", self._fds[fd], number)
        sync(fd)
        time.sleep(self.delay_s)
        self.note("end", self._fds[fd], number)

    def fdatasync(self, fd):
        self._sync(fd, super().fdatasync)

    def fsync(self, fd):
        self._sync(fd, super().fsync)

    def start_write(self, fd, buffer, offset, direct):
        place = self.note("write", self._fds[fd], offset, buffer.tobytes())
        return self._fds[fd], place, super().start_write(fd, buffer, offset, direct)

    def finish_write(self, handle):
        super().finish_write(handle[2])
        time.sleep(self.delay_s)
        if self._count() == self.fail_at:
            self._fail("lost", handle[0], handle[1])
        self.note("durable", handle[0], handle[1])

    def preallocate(self, fd, size):
        self.note("allocate", self._fds[fd], size)
        super().preallocate(fd, size)

    def replace(self, source, target):
        source_name, target_name = self._name(source), self._name(target)
        self.note("rename", source_name, target_name)
        self._inodes[target_name] = self._inodes.pop(source_name)
        super().replace(source, target)

    def unlink(self, path, *, missing_ok=False):
        if self._inodes.pop(self._name(path), None) is not None:
            self.note("unlink", self._name(path))
        super().unlink(path, missing_ok=missing_ok)

    def sync_directory(self, path):
        before = len(self.ops)
        super().sync_directory(path)
        self.note("folder", self._name(path), before)


class Lying(Recorder):
    """A disk that says of some syncs that they are done, and has not begun.

    Parameters
    ----------
    root
        See `Recorder`.
    about
        Pattern of the paths that it lies about; that of a folder ends in "/".
    """

    def __init__(self, root: Path, about: str) -> None:
        super().__init__(root)
        self._about = re.compile(about)

    def _sync(self, fd, sync):
        if not self._about.search(self.name_of(self._fds[fd])):
            super()._sync(fd, sync)

    def finish_write(self, handle):
        if self._about.search(self.name_of(handle[0])):
            Files.finish_write(self, handle[2])
        else:
            super().finish_write(handle)

    def sync_directory(self, path):
        if not self._about.search(f"{self._name(path)}/"):
            super().sync_directory(path)


class Retrying(Recorder):
    """Files that try a failed sync once more, and believe it."""

    def _sync(self, fd, sync):
        try:
            super()._sync(fd, sync)
        except OSError:
            super()._sync(fd, sync)

    def finish_write(self, handle):
        try:
            super().finish_write(handle)
        except OSError:
            super().finish_write(handle)
