"""Compiling all kernels, or loading them from the cache, before they are needed."""

from __future__ import annotations

import contextlib
import gc
import tempfile
import time
from collections.abc import Callable

import numpy as np

from ledger.errors import CapacityError
from ledger.layout import ACCOUNT
from ledger.ledger import GeometricLedger
from ledger.options import Options


def warm_up(progress: Callable[[str, int, int], None] | None = None) -> float:
    """Compile every kernel by using a small ledger of every kind once.

    Parameters
    ----------
    progress : callable, optional
        Called as ``progress(what, done, of)``.

    Returns
    -------
    float
        Seconds taken.
    """
    start = time.perf_counter()
    steps = ("writing and reading", "recovery", "mapped files")
    tell = progress or (lambda what, done, of: None)
    records = np.zeros(16, ACCOUNT)
    records["pubkey"][:, 0] = np.arange(16)
    with tempfile.TemporaryDirectory(prefix="geoledger-") as folder:
        for number, step in enumerate(steps):
            tell(step, number, len(steps))
            mapped = step == "mapped files"
            options = Options(
                capacity=64, shards=2, threads=2, durability="none" if mapped else "sync",
                storage="shared" if mapped else "private",
                log_segment_bytes=1 << 16, log_bytes_max=1 << 20,
            )  # fmt: skip
            ledger = GeometricLedger.open(f"{folder}/{'mapped' if mapped else 'logged'}", options)
            ledger.update_batch(records, records["pubkey"][:1])
            ledger.get(bytes(32))
            ledger.get_batch(records["pubkey"])
            ledger.verify()
            list(ledger)
            ledger.index_view(0)
            ledger.state_hash()
            _nearly_full(ledger)
            if mapped or step == "recovery":
                ledger.close()
            else:
                del ledger  # as after a kill, so that the next step recovers
                gc.collect()
        tell("done", len(steps), len(steps))
    return time.perf_counter() - start


def _nearly_full(ledger: GeometricLedger) -> None:
    """Try more accounts than fit, which is planned first and refused."""
    records = np.zeros(8 * ledger.stats().capacity, ACCOUNT)
    records["pubkey"].view("<u8")[:, 1] = np.arange(1, len(records) + 1)
    with contextlib.suppress(CapacityError):
        ledger.update_batch(records)
