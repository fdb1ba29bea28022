"""How a batch becomes visible: checked -> planned -> logged | applied -> published.

Invariants:

1. what can refuse a batch is decided before its frame leaves for the disk;
2. frame n is applied only when committed >= n - 1;
3. committed moves to n only when frame n is applied and, with a log, acknowledged as the mode says;
4. any failure between the log write and publishing stops the writer for good; committed then stays.

There are two ways, and both keep these: `commit_direct` without a log, `commit_logged` with one.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from ledger.errors import ClosedError, FailStopError


class Committer(ABC):
    """Either way to commit, as the ledger sees it; safe to use from several threads.

    Attributes
    ----------
    durable_lsn : int
        The greatest LSN that a loss of power cannot take.
    """

    def __init__(self) -> None:
        self.durable_lsn = 0
        self._closed = False
        self._failed: FailStopError | None = None
        self._stop_syncing = threading.Event()
        self._syncer: threading.Thread | None = None

    @property
    def writable(self) -> bool:
        """Whether batches are taken."""
        return self._failed is None and not self._closed

    def check_writable(self) -> None:
        """Raise if a write or a sync has failed before."""
        if self._failed is not None:
            raise stopped(self._failed)

    def check_open(self) -> None:
        """Raise unless batches are taken."""
        if self._closed:
            raise ClosedError("the ledger is closed")
        self.check_writable()

    def fail(self, error: BaseException) -> None:
        """Take no more writes; the first error is the one that counts."""
        if self._failed is None:
            self._failed = stopped(error)

    def _sync_every(self, interval_s: float, sync: Callable[[], Any]) -> None:
        """Call `sync` at each interval in a thread of its own, until `_end_syncing`; its error stops the writer."""

        def run() -> None:
            try:
                while not self._stop_syncing.wait(interval_s):
                    sync()
            except BaseException as error:
                self.fail(error)

        self._syncer = threading.Thread(target=run, name="ledger-syncer", daemon=True)
        self._syncer.start()

    def _end_syncing(self) -> None:
        """End the thread of `_sync_every`, once it has finished what it is at."""
        self._stop_syncing.set()
        if self._syncer is not None:
            self._syncer.join()

    @abstractmethod
    def commit(self, rows: np.ndarray, deletes: np.ndarray) -> int:
        """Commit one batch and return its LSN once it is acknowledged."""

    @abstractmethod
    def submit(self, rows: np.ndarray, deletes: np.ndarray) -> Future[int]:
        """Take one batch and return at once; the future gives its LSN, or the error that `commit` would raise."""

    @abstractmethod
    def pause(self, function: Callable[[], Any]) -> Any:
        """Call `function` while no frame is under way, and return its result."""

    @abstractmethod
    def close(self) -> None:
        """Finish what was begun; take nothing more."""


def stopped(error: BaseException | None) -> FailStopError:
    """Return a fresh error with the first cause, so that each caller gets a traceback of its own."""
    cause = error.__cause__ if isinstance(error, FailStopError) and error.__cause__ is not None else error
    fresh = FailStopError(f"the writer has stopped: {cause}")
    fresh.__cause__ = cause
    return fresh
