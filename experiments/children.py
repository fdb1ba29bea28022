"""Forked children that write and are killed: the kernels are loaded already, so a child costs milliseconds."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Final

_SET_DEATH_SIGNAL: Final = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends, so that no orphan goes on writing."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


class Child:
    """A forked process that runs `body(say)`; `say` sends a line to the parent.

    It never returns into the test runner: 0 is its exit status when `body` returns, 70 when that raises.
    """

    def __init__(self, body: Callable[[Callable[[object], None]], object]) -> None:
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: none of them is needed
            self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                os.close(reading)
                body(lambda word: os.write(writing, f"{word}\n".encode()))
                status = 0
            except SystemExit as exit_:
                status = exit_.code if isinstance(exit_.code, int) else 1
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        os.close(writing)
        self._lines = os.fdopen(reading, "r")
        self.status: int | None = None

    def lines(self) -> Iterator[str]:
        """Yield the lines that the child says, until it ends."""
        for line in self._lines:
            yield line.rstrip("\n")

    def line(self) -> str:
        """Return the next line, empty when the child has ended."""
        return self._lines.readline().rstrip("\n")

    def kill(self) -> list[str]:
        """Kill it and return the lines that were not read yet."""
        os.kill(self.pid, signal.SIGKILL)
        rest = list(self.lines())
        self.wait()
        return rest

    def wait(self) -> int:
        """Wait for its end; returns the exit status, or minus the signal."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self._lines.close()
        return self.status


def run(body: Callable[[Callable[[object], None]], object]) -> list[str]:
    """Run `body` in a child to its end and return what it said."""
    child = Child(body)
    lines = list(child.lines())
    assert 0 == child.wait(), lines
    return lines
