"""How a batch becomes visible: checked -> planned -> logged | applied -> published.

Invariants:

1. what can refuse a batch is decided before its frame leaves for the disk;
2. frame n is applied only when committed >= n - 1;
3. committed moves to n only when frame n is applied and, with a log, acknowledged as the mode says;
4. any failure between the log write and publishing stops the writer for good; committed then stays.

Without a log ("none", "msync") the caller's own thread applies and publishes in one kernel call, which no
interrupt can split. With a log ("async", "sync") one committer thread keeps the order above; the log write of
frame n + 1 overlaps the apply of frame n, and small batches that wait together share a frame.
"""

from __future__ import annotations

import collections
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ledger.engine.apply import NO_DELETES, NO_HASHES, Applier, Spread
from ledger.engine.pool import run_apart
from ledger.errors import BatchTooLargeError, CapacityError, ClosedError, FailStopError, LedgerError
from ledger.kernels.batch import publish
from ledger.layout import STATE_COMMITTED, STATE_LIVE, STATE_SUPPLY_HI, STATE_SUPPLY_LO, STATE_TAINTED
from ledger.storage.frames import frame_bytes
from ledger.storage.log import Log

SHARED_FRAME_ROWS = 8192  # batches of up to so many rows may share a frame
INTERRUPT_WAIT_S = 10.0


class Committer(Protocol):
    """What the ledger asks of either way to commit."""

    durable_lsn: int
    writable: bool

    def check_writable(self) -> None:
        """Raise if a write or a sync has failed before."""

    def commit(self, rows: np.ndarray, deletes: np.ndarray) -> int:
        """Commit one batch and return its LSN once it is acknowledged."""

    def pause(self, function: Callable[[], Any]) -> Any:
        """Call `function` while no frame is under way, and return its result."""

    def close(self) -> None:
        """Finish what was begun; take nothing more."""


class DirectCommitter:
    """Commit in the caller's thread, without a log.

    Safe to use from several threads; batches take turns.

    Parameters
    ----------
    applier : Applier
    gate : Lock
        Held during each apply; a reader takes it to hold back the next one.
    sync : tuple of float and callable, optional
        Seconds between syncs of mapped files, and what syncs them.
    """

    def __init__(
        self, applier: Applier, gate: threading.Lock, sync: tuple[float, Callable[[], Any]] | None = None
    ) -> None:
        self._applier = applier
        self._gate = gate
        self._lock = threading.Lock()
        self._closed = False
        self._failed: FailStopError | None = None
        self.durable_lsn = 0
        self._stop_syncing = threading.Event()
        self._syncer: threading.Thread | None = None
        if sync is not None:
            self._syncer = threading.Thread(target=self._sync_loop, args=sync, name="ledger-syncer", daemon=True)
            self._syncer.start()

    def _sync_loop(self, interval_s: float, sync: Callable[[], Any]) -> None:
        """Sync the mapped files at each interval, until close."""
        while not self._stop_syncing.wait(interval_s):
            try:
                sync()
            except BaseException as error:
                self.fail(error)
                return

    @property
    def writable(self) -> bool:
        """Whether batches are taken."""
        return self._failed is None and not self._closed

    def check_writable(self) -> None:
        """Raise if a write or a sync has failed before."""
        if self._failed is not None:
            raise _stopped(self._failed)

    def commit(self, rows: np.ndarray, deletes: np.ndarray) -> int:
        """Apply and publish one batch."""
        applier = self._applier
        state = applier.view.state
        spread = applier.spread(rows, 1)
        with self._lock:
            self._check()
            applier.check_room(rows, spread)
            lsn = int(state[STATE_COMMITTED]) + 1
            with self._gate:
                try:
                    applier.apply(rows, deletes, lsn, hashes=spread.hashes, publish=True)
                except LedgerError as error:  # a damaged record: the frame stays unpublished
                    self.fail(error)
            if state[STATE_TAINTED]:
                self.fail(RuntimeError("a record holds a cell of the future"))
            self._check()
        return lsn

    def pause(self, function: Callable[[], Any]) -> Any:
        """Call `function` between two batches; its OSError or FailStopError stops the writer."""
        with self._lock:
            self._check()
            try:
                return run_apart(function)
            except (OSError, FailStopError) as error:
                self.fail(error)
                raise _stopped(self._failed) from error.__cause__ or error

    def fail(self, error: BaseException) -> None:
        """Take no more writes."""
        if self._failed is None:
            self._failed = _stopped(error)

    def close(self) -> None:
        """Take nothing more."""
        self._stop_syncing.set()
        if self._syncer is not None:
            self._syncer.join()
        with self._lock:
            self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise ClosedError("the ledger is closed")
        if self._failed is not None:
            raise _stopped(self._failed)


class Request:
    """One batch, or a call to make while nothing is under way, on its way through the committer."""

    __slots__ = ("buffer", "call", "deletes", "done", "error", "known", "queued", "result", "rows", "spread")

    def __init__(self, rows: np.ndarray, deletes: np.ndarray, call: Callable[[], Any] | None = None) -> None:
        self.rows = rows
        self.deletes = deletes
        self.call = call
        self.buffer: Any = None
        self.spread = Spread(0)
        self.result: Any = None
        self.error: BaseException | None = None
        self.queued = self.known = False
        self.done = threading.Lock()
        self.done.acquire()

    @property
    def size(self) -> int:
        """Rows, deletes among them."""
        return len(self.rows) + len(self.deletes)

    def settle(self) -> None:
        """Say that the outcome is known."""
        self.known = True
        self.done.release()

    def wait(self) -> Any:
        """Wait for the outcome."""
        self.done.acquire()
        error, self.error, self.call = self.error, None, None  # the committer may keep this request for long
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: together they would keep the handle alive
        return self.result

    def wait_interrupted(self) -> None:
        """Wait for the outcome once more after an interrupt, unless the request never got as far as the queue."""
        if self.queued and not self.known and not self.done.acquire(timeout=INTERRUPT_WAIT_S):
            raise KeyboardInterrupt("the batch goes on; whether it was committed is not known yet")


class Frame:
    """Requests that share an LSN, between their log write and their publishing."""

    __slots__ = ("buffer", "deletes", "hashes", "lsn", "requests", "rows", "spreads", "ticket")

    def __init__(self, requests: list[Request], buffer: Any, lsn: int) -> None:
        self.requests = requests
        self.buffer = buffer
        self.lsn = lsn
        n_rows = sum(len(r.rows) for r in requests)
        n_deletes = sum(len(r.deletes) for r in requests)
        self.rows = buffer.rows_view(n_rows)
        self.deletes = buffer.keys_view(n_deletes, n_rows).view(np.uint64) if n_deletes else NO_DELETES
        self.spreads = [r.spread for r in requests]
        self.hashes = requests[0].spread.hashes if len(requests) == 1 else NO_HASHES
        self.ticket: Any = None


class LoggedCommitter:
    """Commit through the log, in a thread of its own.

    Parameters
    ----------
    applier : Applier
    gate : Lock
        Held during each apply; a reader takes it to hold back the next one.
    log : Log
    rows_max : int
        Most rows of a frame.
    sync_interval_s : float or None
        Seconds between syncs of the log; None where each write is durable by itself.
    make_room : callable
        Takes a snapshot, so that the log is empty.
    """

    def __init__(
        self,
        applier: Applier,
        gate: threading.Lock,
        log: Log,
        *,
        rows_max: int,
        sync_interval_s: float | None,
        make_room: Callable[[], Any],
    ) -> None:
        self._applier = applier
        self._gate = gate
        self._log = log
        self._rows_max = rows_max
        self._make_room = make_room
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._waiting: collections.deque[Request | None] = collections.deque()
        self._failed: FailStopError | None = None
        self._closed = False
        self._close_lock = threading.Lock()
        self._state = applier.view.state
        self._next_lsn = int(self._state[STATE_COMMITTED]) + 1
        self.durable_lsn = self._next_lsn - 1
        self._each_durable = sync_interval_s is None
        self._stop_syncing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-committer", daemon=True)
        self._thread.start()
        self._syncer: threading.Thread | None = None
        if sync_interval_s is not None:
            self._syncer = threading.Thread(
                target=self._sync_loop, args=(sync_interval_s,), name="ledger-syncer", daemon=True
            )
            self._syncer.start()

    # ------------------------------------------------------------ callers' side
    @property
    def writable(self) -> bool:
        """Whether batches are taken."""
        return self._failed is None and not self._closed

    def check_writable(self) -> None:
        """Raise if a write or a sync has failed before."""
        if self._failed is not None:
            raise _stopped(self._failed)

    def commit(self, rows: np.ndarray, deletes: np.ndarray) -> int:
        """Stage a batch in this thread, hand it to the committer and wait for it."""
        request = Request(rows, deletes)
        request.spread = self._applier.spread(rows, 2)
        if request.size > SHARED_FRAME_ROWS:
            request.buffer = self._stage([request])
        else:
            request.rows, request.deletes = rows.copy(), deletes.copy()
        return self._put(request)

    def pause(self, function: Callable[[], Any]) -> Any:
        """Call `function` in the committer's thread while no frame is under way."""
        return self._put(Request(NO_DELETES, NO_DELETES, function))

    def close(self) -> None:
        """Commit what waits, then end the threads."""
        with self._close_lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        if threading.get_ident() == self._thread.ident:
            return  # the last handle was forgotten while this thread took a snapshot for it
        self._thread.join()
        self._stop_syncing.set()
        if self._syncer is not None:
            self._syncer.join()

    def _put(self, request: Request) -> Any:
        """Queue a request and wait for its outcome; an interrupt is raised when that is known, or at a second one."""
        try:
            with self._close_lock:
                if self._closed:
                    raise ClosedError("the ledger is closed")
                if self._failed is not None:
                    raise _stopped(self._failed)
                request.queued = True
                self._queue.put(request)  # no interrupt strikes between these two lines
            return request.wait()
        except KeyboardInterrupt:
            request.wait_interrupted()
            raise

    def _stage(self, requests: list[Request]) -> Any:
        """Copy requests into one log buffer: all rows, then all deletes."""
        n_rows = sum(len(r.rows) for r in requests)
        n_deletes = sum(len(r.deletes) for r in requests)
        buffer = self._log.buffer(n_rows, n_deletes)
        rows = buffer.rows_view(n_rows)
        at = 0
        for request in requests:
            rows[at : at + len(request.rows)] = request.rows
            at += len(request.rows)
        if n_deletes:
            keys = buffer.keys_view(n_deletes, n_rows).view(np.uint64)
            at = 0
            for request in requests:
                keys[at : at + len(request.deletes)] = request.deletes
                at += len(request.deletes)
        return buffer

    # ------------------------------------------------------------ committer's side
    def _run(self) -> None:
        """Take requests until close; `ahead` is a frame whose log write is under way, not yet applied."""
        current: Frame | None = None
        ahead: Frame | None = None
        while True:
            try:
                if ahead is None:
                    request = self._take()
                    if request is None:
                        return
                    if request.call is not None:
                        self._call(request)
                        request = None  # it may hold the last reference to the handle
                        continue
                    ahead = self._start_alone(request)
                    if ahead is None:
                        continue
                current, ahead = ahead, None
                ahead = self._start_beside(current)
                with self._gate:
                    self._applier.apply(current.rows, current.deletes, current.lsn, hashes=current.hashes)
                if ahead is None:
                    ahead = self._start_beside(current)
                self._log.wait(current.ticket)
                self._finish(current)
                current = None
            except BaseException as error:
                self.fail(error)
                for frame in (current, ahead):
                    self._refuse(frame.requests if frame else [])
                current = ahead = None

    def _look(self) -> None:
        """Move what callers have queued to where the committer can look at it in order."""
        while True:
            try:
                self._waiting.append(self._queue.get_nowait())
            except queue.Empty:
                return

    def _take(self) -> Request | None:
        """Wait for the next request; None says that the ledger is being closed."""
        while True:
            if not self._waiting:
                self._waiting.append(self._queue.get())
            self._look()
            request = self._waiting.popleft()
            if request is None or self._failed is None:
                return request
            self._refuse([request])

    def _start_alone(self, request: Request) -> Frame | None:
        """Start a frame while none is under way: plan, make room in the log, write."""
        requests = [request]
        try:
            self._applier.check_room(request.rows, request.spread)
            requests = self._gather(request)
            return self._start(requests, room=True)
        except (CapacityError, BatchTooLargeError) as error:
            self._answer(requests, error)
            return None
        except BaseException as error:
            self.fail(error)
            self._refuse(requests)
            raise

    def _start_beside(self, current: Frame) -> Frame | None:
        """Start a frame while `current` is under way, if one waits and nothing speaks against it."""
        self._look()
        request = self._waiting[0] if self._waiting else None
        if (
            request is None
            or request.call is not None
            or not self._applier.fits(request.spread, *current.spreads)
            or not self._has_room(request.size)
        ):
            return None
        self._waiting.popleft()
        requests = self._gather(request, *current.spreads)
        try:
            return self._start(requests, room=False)
        except BaseException as error:
            self.fail(error)
            self._refuse(requests)
            raise

    def _gather(self, request: Request, *before: Spread) -> list[Request]:
        """Return the requests that share a frame with `request`; one with deletes ends its frame.

        `before` are rows under way, whose new keys have no slots yet.
        """
        requests = [request]
        total, spreads = request.size, [*before, request.spread]
        while request.buffer is None and not len(requests[-1].deletes) and self._waiting:
            other = self._waiting[0]
            if other is None or other.call is not None or other.buffer is not None:
                break
            total += other.size
            spreads.append(other.spread)
            limit = min(self._rows_max, SHARED_FRAME_ROWS)
            if total > limit or not self._applier.fits(*spreads) or not self._has_room(total):
                break
            requests.append(other)
            self._waiting.popleft()
        return requests

    def _has_room(self, rows: int) -> bool:
        return self._log.room_for(frame_bytes(rows, 0))

    def _start(self, requests: list[Request], *, room: bool) -> Frame:
        """Give the frame its LSN and start its log write."""
        total = sum(r.size for r in requests)
        if room and not self._has_room(total):
            self._make_room()
        buffer = requests[0].buffer if len(requests) == 1 and requests[0].buffer is not None else None
        if buffer is None:
            buffer = self._stage(requests)
        frame = Frame(requests, buffer, self._next_lsn)
        state = self._state
        frame.ticket = self._log.submit(
            buffer,
            lsn=frame.lsn,
            rows=len(frame.rows),
            deletes=len(frame.deletes),
            batches=len(requests),
            durable_lsn=self.durable_lsn,
            known_lsn=int(state[STATE_COMMITTED]),
            live=int(state[STATE_LIVE]),
            supply=int(state[STATE_SUPPLY_LO]) | int(state[STATE_SUPPLY_HI]) << 64,
            wall_time_ns=time.time_ns(),
        )
        self._next_lsn += 1
        return frame

    def _finish(self, frame: Frame) -> None:
        """Publish an applied and acknowledged frame, then tell its callers."""
        if self._state[STATE_TAINTED]:
            raise RuntimeError("a record holds a cell of the future")
        if self._each_durable:
            self.durable_lsn = frame.lsn
        publish(self._state, frame.lsn)
        frame.rows = frame.deletes = NO_DELETES
        self._log.release(frame.buffer)
        for request in frame.requests:
            request.result = frame.lsn
            request.settle()

    def _call(self, request: Request) -> None:
        """Make a call while no frame is under way; its disk errors stop the writer."""
        assert request.call is not None
        try:
            request.result = request.call()
        except (OSError, FailStopError) as error:
            self.fail(error)
            request.error = _stopped(error)
        except BaseException as error:
            request.error = error
        request.settle()

    def fail(self, error: BaseException) -> None:
        """Take no more writes."""
        with self._close_lock:
            if self._failed is None:
                self._failed = _stopped(error)

    def _refuse(self, requests: list[Request]) -> None:
        """Give every request the reason why the writer stopped."""
        for request in requests:
            self._answer([request], _stopped(self._failed))

    def _answer(self, requests: list[Request], error: BaseException) -> None:
        """Tell the callers that their batches were not committed."""
        for request in requests:
            request.error = error
            request.settle()

    def _sync_loop(self, interval_s: float) -> None:
        """Make the log durable at each interval, until close."""
        while not self._stop_syncing.wait(interval_s):
            self.sync_log()

    def sync_log(self) -> None:
        """Make all frames handed to the system so far durable."""
        committed = int(self._state[STATE_COMMITTED])
        if committed == self.durable_lsn or self._failed is not None:
            return
        try:
            self.durable_lsn = max(self.durable_lsn, self._log.sync())
        except BaseException as error:
            self.fail(error)


def _stopped(error: BaseException | None) -> FailStopError:
    """Return a fresh error with the first cause, so that each caller gets a traceback of its own."""
    cause = error.__cause__ if isinstance(error, FailStopError) and error.__cause__ is not None else error
    fresh = FailStopError(f"the writer has stopped: {cause}")
    fresh.__cause__ = cause
    return fresh
