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
from ledger.engine.commit import Committer, stopped
from ledger.engine.pool import run_apart
from ledger.errors import FailStopError, LedgerError
from ledger.layout import STATE_COMMITTED, STATE_TAINTED


class DirectCommitter(Committer):
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
        super().__init__()
        self._applier = applier
        self._gate = gate
        self._lock = threading.Lock()
        if sync is not None:
            self._sync_every(*sync)

    def commit(self, rows: np.ndarray, deletes: np.ndarray) -> int:
        """Apply and publish one batch."""
        applier = self._applier
        state = applier.view.state
        spread = applier.spread(rows, 1)
        with self._lock:
            self.check_open()
            applier.check_room(rows, spread)
            lsn = int(state[STATE_COMMITTED]) + 1
            with self._gate:
                try:
                    applier.apply(rows, deletes, lsn, hashes=spread.hashes, publish=True)
                except LedgerError as error:  # a damaged record: the frame stays unpublished
                    self.fail(error)
            if state[STATE_TAINTED]:
                self.fail(RuntimeError("a record holds a cell of the future"))
            self.check_open()
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
            self.check_open()
            try:
                return run_apart(function)
            except (OSError, FailStopError) as error:
                self.fail(error)
                raise stopped(self._failed) from error.__cause__ or error

    def close(self) -> None:
        """Take nothing more."""
        self._end_syncing()
        with self._lock:
            self._closed = True
