"""What is on its way through the committer: batches and calls, alone or put together, and the frames made of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from ledger.engine.apply import NO_DELETES, NO_HASHES, Applier, Spread
from ledger.engine.commit import stopped
from ledger.errors import FailStopError
from ledger.storage.log import Log

INTERRUPT_WAIT_S = 10.0


class Submitted(Future[int]):
    """What `submit` returns: a batch that was handed over cannot be called back."""

    def cancel(self) -> bool:
        """Do nothing and say so."""
        return False

    def tell(self, lsn: int, error: BaseException | None) -> None:
        """Settle it; each future of a stopped writer gets an error of its own, with its own traceback."""
        if error is None:
            self.set_result(lsn)
        else:
            self.set_exception(stopped(error) if isinstance(error, FailStopError) else error)


class Request:
    """One batch, or a call to make while nothing is under way, on its way through the committer."""

    __slots__ = (
        "batches", "buffer", "call", "deletes", "done", "early", "error", "future", "known", "queued", "result", "rows",
        "size", "spread",
    )  # fmt: skip

    def __init__(
        self,
        rows: np.ndarray,
        deletes: np.ndarray,
        call: Callable[[], Any] | None = None,
        *,
        early: bool = False,
        future: Submitted | None = None,
    ) -> None:
        self.batches = 1
        self.rows = rows
        self.deletes = deletes
        self.size = len(rows) + len(deletes)
        self.call = call
        self.early = early  # a call that may be made before batches that wait longer
        self.future = future
        self.buffer: Any = None
        self.spread = Spread(0)
        self.result: Any = None
        self.error: BaseException | None = None
        self.queued = self.known = False
        self.done = threading.Lock()
        self.done.acquire()

    def settle(self) -> None:
        """Say that the outcome is known."""
        self.known = True
        self._tell()
        self.rows = self.deletes = NO_DELETES  # whoever keeps the request does not keep its batch
        self.done.release()

    def _tell(self) -> None:
        """Give the outcome to whoever holds a future."""
        future, self.future = self.future, None
        if future is not None:
            future.tell(self.result, self.error)
            self.error = None

    def wait_known(self) -> None:
        """Wait until the outcome is known, and leave it to others."""
        self.done.acquire()
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
        try:
            known = not self.queued or self.known or self.done.acquire(timeout=INTERRUPT_WAIT_S)
        except KeyboardInterrupt:  # a second one: the caller will not wait
            known = self.known
        if not known:
            raise KeyboardInterrupt("the batch goes on; whether it was committed is not known yet")


class Bundle(Request):
    """Submitted batches that were put one behind the other into a log buffer; more are added until it is taken.

    Each costs its caller a copy and a future, and the committer nothing but telling the future.
    """

    __slots__ = ("all_rows", "parts")

    def __init__(self, buffer: Any, limit: int) -> None:
        super().__init__(NO_DELETES, NO_DELETES)
        self.batches = 0
        self.buffer = buffer
        self.all_rows = buffer.rows_view(limit)
        self.parts: list[tuple[Submitted, int, int]] = []

    def add(self, rows: np.ndarray, future: Submitted) -> bool:
        """Add a batch if there is room; an interrupt on the way leaves the others what they were."""
        start, stop = self.size, self.size + len(rows)
        if stop > len(self.all_rows):
            return False
        self.all_rows[start:stop] = rows
        self.size = stop
        self.parts.append((future, start, stop))
        return True

    def close(self, applier: Applier) -> None:
        """Take it as it is; nothing is added any more."""
        self.rows = self.all_rows[: self.size]
        self.batches = len(self.parts)
        self.spread = applier.spread(self.rows, 2)

    def singles(self, applier: Applier) -> list[Request]:
        """Give its batches up to requests of their own."""
        parts, self.parts = self.parts, []
        requests = [Request(self.all_rows[start:stop].copy(), NO_DELETES, future=f) for f, start, stop in parts]
        for request in requests:
            request.spread = applier.spread(request.rows, 2)
        return requests

    def _tell(self) -> None:
        parts, self.parts = self.parts, []
        for future, _, _ in parts:
            future.tell(self.result, self.error)
        self.error = None


def stage(log: Log, requests: list[Request]) -> Any:
    """Copy requests into one log buffer: all rows, then all deletes."""
    n_rows = sum(len(r.rows) for r in requests)
    n_deletes = sum(len(r.deletes) for r in requests)
    buffer = log.buffer(n_rows, n_deletes)
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
