"""Commit through the log (modes "async" and "sync"), in a thread of its own.

That thread keeps the order of the invariants in `commit`. The log write of frame n + 1 overlaps the apply of frame n,
and small batches that wait together share a frame.
"""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ledger.engine.apply import NO_DELETES, Applier, Spread
from ledger.engine.commit import Committer, stopped
from ledger.engine.requests import Bundle, Frame, Request, Submitted, stage
from ledger.errors import BatchTooLargeError, CapacityError, FailStopError
from ledger.kernels.batch_write import publish
from ledger.layout import STATE_COMMITTED, STATE_LIVE, STATE_SUPPLY_HI, STATE_SUPPLY_LO, STATE_TAINTED
from ledger.storage.frames import ROW_BYTES, frame_bytes
from ledger.storage.headers import wall_time_ns
from ledger.storage.log import Log

SHARED_FRAME_ROWS = 8192  # batches of up to so many rows may share a frame
BUNDLE_ROWS = 32_768  # of submitted batches that share a frame
LOG_SHARE = 8  # a bundle takes no more than this part of the log
SUBMITTED_ROWS_MAX = 131_072  # rows of submitted batches under way before `submit` waits


class Checkpoints(Protocol):
    """What the committer asks of that which keeps the log short."""

    @property
    def is_behind(self) -> bool:
        """Whether writers have to wait."""

    def notice(self) -> None:
        """See how long the log has become."""

    def make_room(self, has_room: Callable[[], bool], serve: Callable[[], None]) -> None:
        """See to it that the next frame fits; calls `serve` while it waits."""


class LoggedCommitter(Committer):
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
    checkpoints : Checkpoints
        What keeps the log short.
    """

    def __init__(
        self,
        applier: Applier,
        gate: threading.Lock,
        log: Log,
        *,
        rows_max: int,
        sync_interval_s: float | None,
        checkpoints: Checkpoints,
    ) -> None:
        super().__init__()
        self._applier = applier
        self._gate = gate
        self._log = log
        self._rows_max = rows_max
        self._checkpoints = checkpoints
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._waiting: collections.deque[Request | None] = collections.deque()
        self._close_lock = threading.Lock()
        self._bundle: Bundle | None = None  # the newest one, while batches may be added to it
        self._bundle_rows = min(rows_max, BUNDLE_ROWS, log.store.bytes_max // LOG_SHARE // ROW_BYTES)
        self._submitted: collections.deque[Request] = collections.deque()
        self._submitted_rows = 0
        self._submit_lock = threading.Lock()
        self._state = applier.view.state
        self._next_lsn = int(self._state[STATE_COMMITTED]) + 1
        self.durable_lsn = self._next_lsn - 1
        self._each_durable = sync_interval_s is None
        self._thread = threading.Thread(target=self._run, name="ledger-committer", daemon=True)
        self._thread.start()
        if sync_interval_s is not None:
            self._sync_every(sync_interval_s, self._sync_log)

    # ------------------------------------------------------------ callers' side
    def commit(self, rows: np.ndarray, deletes: np.ndarray) -> int:
        """Stage a batch in this thread, hand it to the committer and wait for it."""
        return self._put(self._ready(Request(rows, deletes)))

    def _ready(self, request: Request) -> Request:
        """Copy a batch to where the caller cannot change it, and see how many slots it may take."""
        request.spread = self._applier.spread(request.rows, 2)
        if request.size > SHARED_FRAME_ROWS:
            request.buffer = stage(self._log, [request])
        else:
            request.rows, request.deletes = request.rows.copy(), request.deletes.copy()
        return request

    def submit(self, rows: np.ndarray, deletes: np.ndarray) -> Submitted:
        """Hand a batch over and return; small ones are put together.

        Waits for the oldest batch while more rows are under way than a few frames hold.
        """
        future = Submitted()
        alone = None
        if len(deletes) or len(rows) > min(self._bundle_rows, SHARED_FRAME_ROWS):
            alone = self._ready(Request(rows, deletes, future=future))
        with self._submit_lock:
            self._hold_back()
            with self._close_lock:
                self.check_open()
                if alone is not None:
                    self._bundle = None  # what comes later stays behind it
                    self._queue.put(alone)
                    self._submitted.append(alone)
                elif self._bundle is None or not self._bundle.add(rows, future):
                    bundle = Bundle(self._log.buffer(self._bundle_rows, 0), self._bundle_rows)
                    bundle.add(rows, future)
                    self._queue.put(bundle)
                    self._bundle = bundle
                    self._submitted.append(bundle)
            self._submitted_rows += len(rows) + len(deletes)
        return future

    def _hold_back(self) -> None:
        """Forget submitted batches whose outcome is known, and wait for that of the oldest if there are many."""
        submitted = self._submitted
        while submitted and (submitted[0].known or self._submitted_rows > SUBMITTED_ROWS_MAX):
            oldest = submitted.popleft()
            oldest.wait_known()
            self._submitted_rows -= oldest.size

    def pause(self, function: Callable[[], Any], *, early: bool = False) -> Any:
        """Call `function` in the committer's thread while no frame is under way.

        With `early` it is also called while the committer waits for room in the log.
        """
        return self._put(Request(NO_DELETES, NO_DELETES, function, early=early))

    def pause_early(self, function: Callable[[], Any]) -> Any:
        """Call `function` as `pause` does, before batches that wait if need be: for what gives room in the log."""
        return self.pause(function, early=True)

    def close(self) -> None:
        """Commit what waits, then end the threads."""
        with self._close_lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        if threading.get_ident() == self._thread.ident:
            return  # the last handle was forgotten while this thread took a snapshot for it
        self._thread.join()
        self._end_syncing()
        self.__dict__.pop("_checkpoints", None)  # it knows this committer: each would keep the other, and the memory

    def _put(self, request: Request) -> Any:
        """Queue a request and wait for its outcome; an interrupt is raised when that is known, or at a second one."""
        try:
            with self._close_lock:
                self.check_open()
                request.queued = True
                self._queue.put(request)  # no interrupt strikes between these two lines
            return request.wait()
        except KeyboardInterrupt:
            request.wait_interrupted()
            raise

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
            self._close_bundle(request)
            if request is None or self._failed is None:
                return request
            self._refuse([request])

    def _close_bundle(self, request: Request | None) -> None:
        """See to it that nothing is added any more to what is about to be a frame."""
        if isinstance(request, Bundle) and not request.batches:
            with self._close_lock:
                if self._bundle is request:
                    self._bundle = None
            request.close(self._applier)

    def _start_alone(self, request: Request) -> Frame | None:
        """Start a frame while none is under way: plan, make room in the log, write."""
        requests = [request]
        try:
            self._applier.check_room(request.rows, request.spread)
            requests = self._gather(request)
            return self._start(requests, room=True)
        except (CapacityError, BatchTooLargeError) as error:
            if isinstance(request, Bundle):  # each of its batches is refused, or not, by itself
                self._waiting.extendleft(reversed(request.singles(self._applier)))
                self._log.release(request.buffer)
                request.settle()
            else:
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
        self._close_bundle(request)
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
        if request.buffer is not None:
            return requests
        waiting, fits = self._waiting, self._applier.fits
        limit = min(self._rows_max, SHARED_FRAME_ROWS)
        total, slots = request.size, sum(spread.slots for spread in (*before, request.spread))
        ample = self._has_room(limit)
        while waiting and not len(requests[-1].deletes):
            other = waiting[0]
            if other is None or other.call is not None or other.buffer is not None:
                break
            total += other.size
            slots = slots + other.spread.slots
            if total > limit or not fits(Spread(slots)) or not (ample or self._has_room(total)):
                break
            requests.append(other)
            waiting.popleft()
        return requests

    def _has_room(self, rows: int) -> bool:
        return self._log.room_for(frame_bytes(rows, 0)) and not self._checkpoints.is_behind

    def _serve_early(self) -> None:
        """Make the calls that may be made before batches that wait."""
        self._look()
        early = [request for request in self._waiting if request is not None and request.early]
        for request in early:
            self._waiting.remove(request)
            self._call(request)

    def _start(self, requests: list[Request], *, room: bool) -> Frame:
        """Give the frame its LSN and start its log write."""
        total = sum(r.size for r in requests)
        if room and not self._has_room(total):
            self._checkpoints.make_room(lambda: self._has_room(total), self._serve_early)
        buffer = requests[0].buffer if len(requests) == 1 and requests[0].buffer is not None else None
        if buffer is None:
            buffer = stage(self._log, requests)
        frame = Frame(requests, buffer, self._next_lsn)
        state = self._state
        frame.ticket = self._log.submit(
            buffer,
            lsn=frame.lsn,
            rows=len(frame.rows),
            deletes=len(frame.deletes),
            batches=sum(r.batches for r in requests),
            durable_lsn=self.durable_lsn,
            known_lsn=int(state[STATE_COMMITTED]),
            live=int(state[STATE_LIVE]),
            supply=int(state[STATE_SUPPLY_LO]) | int(state[STATE_SUPPLY_HI]) << 64,
            wall_time_ns=wall_time_ns(),
        )
        self._next_lsn += 1
        self._checkpoints.notice()
        return frame

    def _finish(self, frame: Frame) -> None:
        """Publish an applied and acknowledged frame, then tell its callers."""
        if self._state[STATE_TAINTED]:
            raise RuntimeError("a record holds a cell of the future")
        if self._each_durable:
            self.durable_lsn = frame.lsn
        with self._gate:  # a checkpoint reads the totals under it
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
            request.error = stopped(error)
        except BaseException as error:
            request.error = error
        request.settle()

    def fail(self, error: BaseException) -> None:
        """Take no more writes."""
        with self._close_lock:
            super().fail(error)

    def _refuse(self, requests: list[Request]) -> None:
        """Give every request the reason why the writer stopped."""
        for request in requests:
            self._answer([request], stopped(self._failed))

    def _answer(self, requests: list[Request], error: BaseException) -> None:
        """Tell the callers that their batches were not committed."""
        for request in requests:
            request.error = error
            request.settle()

    def _sync_log(self) -> None:
        """Make all frames handed to the system so far durable."""
        committed = int(self._state[STATE_COMMITTED])
        if committed != self.durable_lsn and self._failed is None:
            self.durable_lsn = max(self.durable_lsn, self._log.sync())
