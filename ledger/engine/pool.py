"""A small pool of threads that join in kernel calls.

The caller's thread always does the work; a pool thread that is free takes part of it. Kernels claim their work
by fetch-and-add, so that nothing waits for a thread that comes late, and a call never fails for want of one.
"""

from __future__ import annotations

import _thread
import queue
import threading
from collections.abc import Callable
from typing import Any


def run_apart(function: Callable[[], Any]) -> Any:
    """Call `function` in a thread of its own, where no interrupt strikes, and return its result.

    An interrupt of the waiting caller is raised when the call has ended; one that strikes before this has begun leaves
    everything as it was. The locks of `threading` that are written in Python (Condition, Event, Thread.start and join)
    can stay locked when an interrupt strikes within them, so what must not be left half done is called in this way.
    """
    outcome: list[tuple[Any, BaseException | None]] = []
    begun, done = _thread.allocate_lock(), _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        if not begun.acquire(blocking=False):
            return  # an interrupt struck just after the first start, and the call was started twice
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))
        finally:
            done.release()

    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            if not begun.locked():
                _thread.start_new_thread(run, ())
            while not outcome:
                done.acquire()
            break
        except KeyboardInterrupt as error:
            interrupt = error
    result, failure = outcome.pop()
    if failure is not None:
        raise failure
    if interrupt is not None:
        raise interrupt
    return result


class Pool:
    """Threads that run kernels beside the caller; safe to use from several threads at once.

    Parameters
    ----------
    lanes
        Threads that may work on one call, the caller's among them.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self._tasks: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def run(self, kernel: Callable[..., int], arguments: tuple[Any, ...], lanes: int) -> int:
        """Call `kernel(*arguments, lane)` with lane 0 here and others on free threads; return lane 0's result."""
        while len(self._threads) < lanes - 1:
            run_apart(self._start_thread)
        for lane in range(1, lanes):
            self._tasks.put((kernel, (*arguments, lane)))
        return kernel(*arguments, 0)

    def map(self, function: Callable[[int], Any], count: int) -> list[Any]:
        """Call `function(0..count-1)` on the lanes; raise the first error when all have ended."""
        results: list[Any] = [None] * count
        errors: list[BaseException] = []
        numbers = iter(range(count))
        lock = threading.Lock()

        def work() -> None:
            while not errors:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                try:
                    results[number] = function(number)
                except BaseException as error:
                    errors.append(error)

        helpers = [threading.Thread(target=work, daemon=True) for _ in range(min(self.lanes, count) - 1)]
        for helper in helpers:
            helper.start()
        work()
        for helper in helpers:
            helper.join()
        if errors:
            raise errors[0]
        return results

    def close(self) -> None:
        """End the threads, once each has finished what it is at."""
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _start_thread(self) -> None:
        thread = threading.Thread(target=_serve, args=(self._tasks,), name="ledger-lane", daemon=True)
        self._threads.append(thread)
        thread.start()


def _serve(tasks: queue.SimpleQueue[Any]) -> None:
    """Run tasks until None comes; a task's arguments are let go before the next wait."""
    while True:
        task = tasks.get()
        if task is None:
            return
        kernel, arguments = task
        kernel(*arguments)
        del task, kernel, arguments
