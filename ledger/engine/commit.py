"""How a batch becomes visible: checked -> planned -> logged | applied -> published.

Invariants:

1. what can refuse a batch is decided before its frame leaves for the disk;
2. frame n is applied only when committed >= n - 1;
3. committed moves to n only when frame n is applied and, with a log, acknowledged as the mode says;
4. any failure between the log write and publishing stops the writer for good; committed then stays.

There are two ways, and both keep these: `commit_direct` without a log, `commit_logged` with one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np

from ledger.errors import FailStopError


class Committer(Protocol):
    """What the ledger asks of either way to commit."""

    durable_lsn: int
    writable: bool

    def check_writable(self) -> None:
        """Raise if a write or a sync has failed before."""

    def commit(self, rows: np.ndarray, deletes: np.ndarray) -> int:
        """Commit one batch and return its LSN once it is acknowledged."""

    def submit(self, rows: np.ndarray, deletes: np.ndarray) -> Future[int]:
        """Take one batch and return at once; the future gives its LSN, or the error that `commit` would raise."""

    def fail(self, error: BaseException) -> None:
        """Take no more writes."""

    def pause(self, function: Callable[[], Any]) -> Any:
        """Call `function` while no frame is under way, and return its result."""

    def close(self) -> None:
        """Finish what was begun; take nothing more."""


def stopped(error: BaseException | None) -> FailStopError:
    """Return a fresh error with the first cause, so that each caller gets a traceback of its own."""
    cause = error.__cause__ if isinstance(error, FailStopError) and error.__cause__ is not None else error
    fresh = FailStopError(f"the writer has stopped: {cause}")
    fresh.__cause__ = cause
    return fresh
