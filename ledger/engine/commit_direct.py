"""Commit without a log (modes "none" and "msync"): applied and published in one kernel call of the caller's thread.

No interrupt can split that call. See `commit` for the invariants.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from ledger.engine.apply import Applier
from ledger.engine.commit import stopped
from ledger.engine.pool import run_apart
from ledger.errors import ClosedError, FailStopError, LedgerError
from ledger.layout import STATE_COMMITTED, STATE_TAINTED


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
            raise stopped(self._failed)

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

    def submit(self, rows: np.ndarray, deletes: np.ndarray) -> Future[int]:
        """Apply and publish one batch; the future is done when this returns."""
        future: Future[int] = Future()
        try:
            future.set_result(self.commit(rows, deletes))
        except (LedgerError, TypeError) as error:
            future.set_exception(error)
        return future

    def pause(self, function: Callable[[], Any]) -> Any:
        """Call `function` between two batches; its OSError or FailStopError stops the writer."""
        with self._lock:
            self._check()
            try:
                return run_apart(function)
            except (OSError, FailStopError) as error:
                self.fail(error)
                raise stopped(self._failed) from error.__cause__ or error

    def fail(self, error: BaseException) -> None:
        """Take no more writes."""
        if self._failed is None:
            self._failed = stopped(error)

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
            raise stopped(self._failed)
