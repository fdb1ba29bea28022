"""One write under way while Python does something else: Linux native AIO, or a thread where there is none.

Ordering: a write is durable when `finish` returns. Writes of several handles end in any order; who needs an
order waits in that order. A handle keeps its buffer alive; the buffer is not to be changed before `finish`.

With AIO no thread has to wake up before the disk starts to work, which on two busy cores costs a plain writer
thread up to a whole scheduler slice. The system calls are made through ctypes, which lets go of the GIL.

Thread-safety: any thread may start and finish; one handle belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import numpy as np

_NUMBERS: Final = {
    "x86_64": {"io_setup": 206, "io_getevents": 208, "io_submit": 209, "sched_setattr": 314},
    "aarch64": {"io_setup": 0, "io_getevents": 4, "io_submit": 2, "sched_setattr": 274},
}.get(platform.machine(), {})
_COMMAND_PWRITE: Final = 1
_WRITER_THREADS: Final = 4
SLICE_NS: Final = 100_000

_syscall: Any = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


class _Control(ctypes.Structure):
    """`struct iocb` of linux/aio_abi.h, little-endian."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_fd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """`struct io_event` of linux/aio_abi.h."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("control", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class _State:
    """What a process keeps: idle AIO contexts, each for one write, and the threads of the other way."""

    def __init__(self) -> None:
        self.idle: list[ctypes.c_ulong] = []
        self.threads: ThreadPoolExecutor | None = None
        self.refused = not _NUMBERS


_state = _State()


def _forget_in_child() -> None:
    """Drop contexts and threads: a forked child has neither."""
    global _state
    _state = _State()


os.register_at_fork(after_in_child=_forget_in_child)


class AioWrite:
    """A write handed to the kernel."""

    def __init__(self, context: ctypes.c_ulong, fd: int, buffer: np.ndarray, offset: int) -> None:
        self._context: ctypes.c_ulong | None = context
        self._fd, self._buffer, self._offset = fd, buffer, offset
        self._event = _Event()
        self._control = _Control(
            opcode=_COMMAND_PWRITE, fd=fd, address=buffer.ctypes.data, size=buffer.nbytes, offset=offset
        )
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(self._control))
        while _call("io_submit", context, ctypes.c_long(1), pointers) != 1:
            code = ctypes.get_errno()
            if code not in (errno.EINTR, errno.EAGAIN):  # EAGAIN: no request to be had, nothing was begun
                raise OSError(code, os.strerror(code))

    def finish(self) -> None:
        """Wait until the write is durable; may be called again after an interruption or an error."""
        event = self._event
        while not event.control:  # filled in by the kernel before the call returns: no completion can be lost
            got = _call("io_getevents", self._context, ctypes.c_long(1), ctypes.c_long(1), ctypes.byref(event), None)
            code = ctypes.get_errno()
            if got < 0 and code != errno.EINTR:
                raise OSError(code, os.strerror(code))
        if self._context is not None:
            _state.idle.append(self._context)
            self._context = None
        if event.result < 0:
            raise OSError(-event.result, os.strerror(-event.result))
        done = event.result
        while done < self._buffer.nbytes:  # the rest of a partial write; its own error, if any, shows here
            count = os.pwrite(self._fd, memoryview(self._buffer)[done:], self._offset + done)
            if count == 0:
                raise OSError(errno.EIO, "a write of no bytes")
            done += count


class ThreadWrite:
    """A write made by one of the process's writer threads."""

    def __init__(self, future: Future) -> None:
        self._future = future

    def finish(self) -> None:
        """Wait until the write is durable."""
        self._future.result()


def start(fd: int, buffer: np.ndarray, offset: int, direct: bool) -> AioWrite | ThreadWrite:
    """Start one write; see `Files.start_write`."""
    if direct and (context := _take_context()) is not None:
        try:
            return AioWrite(context, fd, buffer, offset)
        except OSError as error:
            _state.idle.append(context)
            if error.errno != errno.ENOSYS:
                raise
            _state.refused = True
    if _state.threads is None:
        _state.threads = ThreadPoolExecutor(_WRITER_THREADS, "log-writer", initializer=shorten_slice)
    return ThreadWrite(_state.threads.submit(_write, fd, buffer, offset, not direct))


def shorten_slice() -> bool:
    """Ask for a short scheduler slice, so that this thread, once awake, runs soon on a busy CPU.

    Returns
    -------
    bool
        Whether the kernel agreed (since Linux 6.12; no right is needed).
    """
    if not _NUMBERS:
        return False
    attributes = np.zeros(6, np.uint64)  # struct sched_attr, version 0: 48 bytes
    attributes.view(np.uint32)[0] = attributes.nbytes
    attributes[3] = SLICE_NS  # sched_runtime: the slice of SCHED_OTHER
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes.view(np.int32)[4] = nice
    return _call("sched_setattr", ctypes.c_int(0), ctypes.c_void_p(attributes.ctypes.data), ctypes.c_uint(0)) == 0


def _write(fd: int, buffer: np.ndarray, offset: int, sync: bool) -> None:
    """Write all of a buffer and make it durable: the body of a writer thread."""
    view, done = memoryview(buffer), 0
    while done < len(view):
        count = os.pwrite(fd, view[done:], offset + done)
        if count == 0:
            raise OSError(errno.EIO, "a write of no bytes")
        done += count
    if sync:
        os.fdatasync(fd)


def _take_context() -> ctypes.c_ulong | None:
    """Return an idle AIO context, a new one if there is none, or None where the kernel gives none."""
    if _state.refused:
        return None
    with contextlib.suppress(IndexError):
        return _state.idle.pop()
    context = ctypes.c_ulong(0)
    if _call("io_setup", ctypes.c_uint(1), ctypes.byref(context)) != 0:
        return None
    return context


def _call(name: str, *arguments: Any) -> int:
    """Make a system call; -1 leaves the reason in ctypes.get_errno()."""
    return _syscall(ctypes.c_long(_NUMBERS[name]), *arguments)
