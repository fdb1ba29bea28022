"""Other stores behind one adapter: the only place where they are imported, one module each.

A store maps 32-byte keys to four unsigned 64-bit fields, as ours does. Each is set up as its own documentation
advises for this use, and each call is written as its users write it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

FIELDS: Final = struct.Struct("<4Q")
"""Balance, nonce, staked, last_modified: the value of a store that keeps bytes."""


class Store(Protocol):
    """What an adapter offers. One thread at a time."""

    name: str

    @classmethod
    def open(cls, path: Path, accounts: int) -> Store:
        """Make an empty store in a folder, for so many accounts."""

    def load(self, batches: Iterable[np.ndarray]) -> None:
        """Insert accounts (arrays of ACCOUNT, no key twice) the fastest way there is."""

    def get(self, key: bytes) -> tuple[int, int, int, int] | None:
        """Return the fields of one account."""

    def get_each(self, keys: Sequence[bytes]) -> int:
        """Get and unpack key after key in a loop of its own, and return how many were found."""

    def get_batch(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return records (ACCOUNT[n]) and found (bool[n]) of keys (uint8[n, 32])."""

    def update_batch(self, records: np.ndarray) -> Any:
        """Write accounts (ACCOUNT[n]), all of them or none."""

    def close(self) -> None:
        """Close the store."""
