"""Our own ledger, with its default options: keyed hashes, checksums, a log in every class that promises something."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

import ledger
from experiments.baselines import FIELDS
from ledger import ACCOUNT, GeometricLedger, Options


class LedgerStore:
    """One ledger; see `experiments.baselines.Store`."""

    name = "ledger"
    durabilities: Final = {mode: f'Options(durability="{mode}")' for mode in ("none", "async", "sync")}
    ordered = False

    def __init__(self, book: GeometricLedger) -> None:
        self._book = book
        self.get, self.get_batch, self.update_batch = book.get, book.get_batch, book.update_batch
        self.delete_batch, self.close = book.delete_batch, book.close

    @classmethod
    def version(cls) -> str:
        """Return the version of the ledger."""
        return f"GeometricLedger {ledger.__version__}"

    @classmethod
    def open(cls, path: Path, accounts: int, durability: str) -> LedgerStore:
        """Open or make a ledger in the folder `path`."""
        return cls(GeometricLedger.open(path, Options(capacity=accounts, durability=durability)))

    def load(self, batches: Iterable[np.ndarray]) -> None:
        """Insert accounts batch by batch: there is no other way."""
        for batch in batches:
            self._book.update_batch(batch)

    def put(self, key: bytes, fields: Sequence[int]) -> None:
        """Write one account, as a batch of one: an array, which is quicker than an Account."""
        self._book.update_batch(np.frombuffer(key + FIELDS.pack(*fields), ACCOUNT))
