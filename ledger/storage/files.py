"""Names on disk, the one interface through which the engine changes files, the lock and the clean marker.

Invariants:

- every change of the disk goes through a `Files` object; tests replace it to record, drop or fail calls;
- a write continues after a partial one and after a signal; no error of a write or a sync is tried again
  (after a failed fsync the kernel may have dropped the pages: the second would succeed and lie);
- whole files are replaced by name only after their bytes are durable;
- ownership is a flock, never the existence of a file; one lock decides between writers and readers.

Thread-safety: `Files` has no state. A `LedgerLock` belongs to the thread that opens and closes the ledger.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import re
import weakref
from pathlib import Path
from typing import Any, Final

import numpy as np

from ledger.errors import LockedError
from ledger.layout import CLEAN, MAGIC_CLEAN
from ledger.storage import directio
from ledger.storage.headers import decode, new_header, seal

CONTROL_NAME: Final = "control.bin"
LOCK_NAME: Final = "lock"
CLEAN_NAME: Final = ".clean_shutdown"
JOURNAL_NAME: Final = "journal.bin"
LOG_NAME: Final = "log"
STATE_NAME: Final = "state.bin"
TEMPORARY_SUFFIX: Final = ".tmp"
FILE_MODE: Final = 0o640  # the umask takes bits away from these
FOLDER_MODE: Final = 0o750
_SEGMENT_NAME: Final = re.compile(r"(\d{10,20})\.seg")
_LOCK_TEXT_BYTES: Final = 32
_HINT_OWN: Final = "close that handle first; in a notebook, workbench.open_ledger does so when its cell runs again"
_SYNC_FILE_RANGE: Final = ctypes.CDLL(None, use_errno=True).sync_file_range
_SYNC_FILE_RANGE.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_WRITE_AND_WAIT: Final = 7  # SYNC_FILE_RANGE_WAIT_BEFORE | _WRITE | _WAIT_AFTER


def shard_name(shard: int, generation: int = 0) -> str:
    """Return the name of a shard's record file."""
    return f"shard_{shard:03d}{_suffix(generation)}"


def index_name(shard: int, generation: int = 0) -> str:
    """Return the name of a shard's index file."""
    return f"index_{shard:03d}{_suffix(generation)}"


def segment_name(sequence: int) -> str:
    """Return the name of a log segment."""
    return f"{sequence:010d}.seg"


def segment_sequence(name: str) -> int | None:
    """Return the sequence number in the name of a log segment, or None for another name."""
    match = _SEGMENT_NAME.fullmatch(name)
    return int(match[1]) if match and segment_name(int(match[1])) == name else None


def _suffix(generation: int) -> str:
    """Return the end of a shard's file name: nothing special at first, then .g2, .g3, ..."""
    return ".bin" if generation == 0 else f".g{generation + 1}"


class Files:
    """The calls that reach the disk; stateless, so that one object serves all threads."""

    def open(self, path: Path, flags: int, mode: int = FILE_MODE) -> int:
        """Open a file, never inherited by other programs, and return its descriptor."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read exactly `size` bytes, fewer only at the end of the file."""
        data = np.empty(size, np.uint8)
        return data[: self.pread_into(fd, data, offset)].tobytes()

    def pread_into(self, fd: int, buffer: Any, offset: int) -> int:
        """Fill `buffer` from the file and return the bytes read, fewer only at the end of the file."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            count = os.preadv(fd, [view[done:]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def pwrite(self, fd: int, data: Any, offset: int) -> None:
        """Write all of `data`; goes on after a partial write, and raises the first error."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            count = os.pwrite(fd, view[done:], offset + done)
            if count == 0:
                raise OSError(errno.EIO, "a write of no bytes")
            done += count

    def fdatasync(self, fd: int) -> None:
        """Make the bytes of a file, and its size, durable; never tried twice."""
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        """Make a file durable with its metadata; never tried twice."""
        os.fsync(fd)

    def write_back(self, fd: int, offset: int, size: int) -> None:
        """Let what was written to a part of a file reach the device before more follows it; promises nothing.

        Without it a later sync finds all of it at once, and every other write waits behind that.
        """
        if _SYNC_FILE_RANGE(fd, offset, size, _WRITE_AND_WAIT):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def start_write(self, fd: int, buffer: np.ndarray, offset: int, direct: bool) -> Any:
        """Start one write of a page-aligned buffer and return a handle for `finish_write`.

        Parameters
        ----------
        fd
            Opened with O_DIRECT and O_DSYNC if `direct`; else the write is followed by fdatasync.
        buffer : uint8[n]
            Not to be changed before `finish_write`; address, length and `offset` are multiples of 4096.
        """
        return directio.start(fd, buffer, offset, direct)

    def finish_write(self, handle: Any) -> None:
        """Wait, without the GIL, until the write of `handle` is durable; raise OSError if it failed."""
        handle.finish()

    def preallocate(self, fd: int, size: int) -> None:
        """Give the file `size` bytes of disk space now, so that no later write or page fault lacks it.

        Raises
        ------
        OSError
            ENOSPC: the disk is full; the caller removes what it began.
        """
        os.posix_fallocate(fd, 0, size)
        found = self.size(fd)
        if found < size:
            raise OSError(errno.ENOSPC, f"{found} of {size} bytes allocated")

    def size(self, fd: int) -> int:
        """Return the size of an open file in bytes."""
        return os.fstat(fd).st_size

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file over another; durable after `sync_directory`."""
        os.replace(source, target)

    def unlink(self, path: Path, *, missing_ok: bool = False) -> None:
        """Remove a file; durable after `sync_directory`."""
        path.unlink(missing_ok=missing_ok)

    def mkdir(self, path: Path) -> None:
        """Make a folder, with its parents; one that is there is left."""
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)

    def listdir(self, path: Path) -> list[str]:
        """Return the sorted names in a folder."""
        return sorted(os.listdir(path))

    def sync_directory(self, path: Path) -> None:
        """Make the names in a folder durable: files made, renamed and removed there."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def write_whole(self, path: Path, data: bytes) -> None:
        """Make `path` hold exactly `data`, or leave it as it was.

        **Durability**: bytes, then the name, are durable when this returns.
        """
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        try:
            fd = self.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            try:
                self.pwrite(fd, data, 0)
                self.fsync(fd)
            finally:
                self.close(fd)
            self.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                self.unlink(temporary, missing_ok=True)
            raise
        self.sync_directory(path.parent)


class LedgerLock:
    """Ownership of a ledger's folder: one writer, or any number of readers.

    The lock is a flock on the folder itself and on its control file, so that every path to it (symbolic link,
    relative path, bind mount, hard links to its files) meets the same lock, and so that readers need to write
    nothing. It goes when the descriptor is closed, whatever kills the process; a forked child closes its copy
    and leaves the lock with the parent. The file `lock` only holds the writer's pid, for the message.

    Parameters
    ----------
    path
        Folder of the ledger.
    exclusive
        True for a writer.
    files
        Used for the pid file.

    Raises
    ------
    LockedError
        Another handle, here or in another process, holds the lock; `pid` is the writer's, if known.
    """

    def __init__(self, path: Path, *, exclusive: bool, files: Files) -> None:
        self.path = path
        self.exclusive = exclusive
        self.pid = os.getpid()
        self._fds: list[int] = []
        try:
            self._take(path, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(FileNotFoundError):
                self._take(path / CONTROL_NAME, os.O_RDONLY)
            _locks.add(self)
            if exclusive:
                self._write_pid(files)
        except BaseException:
            self.release()
            raise

    @property
    def held(self) -> bool:
        """Whether this process, not its parent, holds the lock."""
        return bool(self._fds) and self.pid == os.getpid()

    def release(self) -> None:
        """Give the lock up; does nothing in a forked child, and nothing the second time."""
        fds, self._fds = self._fds, []
        for fd in reversed(fds):
            os.close(fd)

    def __del__(self) -> None:
        """Give up a lock that was forgotten."""
        self.release()

    def _take(self, path: Path, flags: int) -> None:
        """Lock one file or folder, or raise."""
        fd = os.open(path, flags | os.O_CLOEXEC)
        self._fds.append(fd)
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if self.exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._locked(fd) from None
        except OSError as error:
            raise LockedError(
                f"{self.path} cannot be locked: {error}",
                hint="keep the ledger on a local file system",
                pid=None,
            ) from error

    def _locked(self, fd: int) -> LockedError:
        """Return the error that says who holds the lock."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # only readers let this through
            return LockedError(f"{self.path} is already open for reading", pid=None)
        pid = None
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.path / LOCK_NAME).read_text(encoding="ascii"))
        who = "another process" if pid is None else f"process {pid}"
        hint = _HINT_OWN if pid == os.getpid() else LockedError.hint
        return LockedError(f"{self.path} is already open by {who}", hint=hint, pid=pid)

    def _write_pid(self, files: Files) -> None:
        """Leave the pid for messages; a disk without room for it is no reason to refuse."""
        with contextlib.suppress(OSError):
            fd = files.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT)
            try:
                files.pwrite(fd, f"{self.pid}".ljust(_LOCK_TEXT_BYTES - 1).encode() + b"\n", 0)
            finally:
                files.close(fd)


_locks: weakref.WeakSet[LedgerLock] = weakref.WeakSet()


def _leave_locks_to_parent() -> None:
    """Close the child's copies of all lock descriptors; closing a copy does not unlock."""
    for lock in list(_locks):
        lock.release()


os.register_at_fork(after_in_child=_leave_locks_to_parent)


# ---------------------------------------------------------------- clean marker
def write_clean(
    files: Files, path: Path, *, ledger_id: bytes, epoch: int, lsn: int, sequence: int, image_bytes: int
) -> None:
    """Say that the image is whole as of `lsn`, under the control block of `sequence`.

    **Durability**: durable when this returns; the control block and the image must be before.
    """
    marker = new_header(CLEAN, MAGIC_CLEAN, ledger_id)
    marker["epoch"] = epoch
    marker["lsn"] = lsn
    marker["sequence"] = sequence
    marker["image_bytes"] = image_bytes
    files.write_whole(path / CLEAN_NAME, seal(marker))


def read_clean(files: Files, path: Path) -> np.void | None:
    """Return the clean marker (a CLEAN record), or None where it is missing or torn."""
    try:
        fd = files.open(path / CLEAN_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        data = files.pread(fd, CLEAN.itemsize + 1, 0)
    finally:
        files.close(fd)
    return decode(data, CLEAN, MAGIC_CLEAN, path / CLEAN_NAME) if len(data) == CLEAN.itemsize else None


def remove_clean(files: Files, path: Path) -> None:
    """Take the clean marker away, durably, before the first write."""
    with contextlib.suppress(FileNotFoundError):
        files.unlink(path / CLEAN_NAME)
        files.sync_directory(path)


@functools.cache
def boot_id() -> bytes:
    """Return the 16 bytes that name this run of the kernel; zeros where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    return bytes(16)
