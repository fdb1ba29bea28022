"""Other stores, and ours, behind one adapter: the only place where they are imported, one module each.

A store maps 32-byte keys to four unsigned 64-bit fields. Each is set up as its own documentation advises for this use,
and each call is written as its users write it. There are three durability classes:

========= ========================================================================================
``none``  nothing is promised
``async`` what was acknowledged is durable a little later; a loss of power leaves an earlier state
``sync``  what was acknowledged is durable
========= ========================================================================================

A class that a store does not have is not measured under another one's name.
"""

from __future__ import annotations

import importlib
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from experiments.errors import NotApplicableError, ParameterError, nearest
from ledger import ACCOUNT

FIELD_NAMES: Final = ("balance", "nonce", "staked", "last_modified")
FIELDS: Final = struct.Struct("<4Q")
"""The value of a store that keeps bytes."""
PAIR: Final = struct.Struct("32s32s")
"""Key and value: an account's bytes."""
BLANK: Final = bytes(FIELDS.size)
CLASSES: Final = ("none", "async", "sync")
SYNC_INTERVAL_S: Final = 0.1
"""Time between two syncs of class ``async``, where the store leaves it to its user; it is our own default."""
CACHE_BYTES: Final = 256 << 20
"""Memory for a cache of the store's own, where it has one: more than the data of all profiles but `full`."""


class Store(Protocol):
    """What an adapter offers. One thread at a time.

    Attributes
    ----------
    name
        As figures and factors call it.
    durabilities
        The classes that it has, and how each is set.
    ordered
        Whether keys are kept in order, so that `scan` means something.
    """

    name: str
    durabilities: Mapping[str, str]
    ordered: bool

    @classmethod
    def version(cls) -> str:
        """Return name and version of library and package."""

    @classmethod
    def open(cls, path: Path, accounts: int, durability: str) -> Store:
        """Open the store in a folder, or make an empty one there, for so many accounts."""

    def load(self, batches: Iterable[np.ndarray]) -> None:
        """Insert accounts (arrays of ACCOUNT, no key twice) into an empty store, the fastest way there is."""

    def get(self, key: bytes) -> Sequence[int] | None:
        """Return one account, whose last four values are its fields."""

    def get_batch(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return records (ACCOUNT[n]) and found (bool[n]) of keys (uint8[n, 32])."""

    def put(self, key: bytes, fields: Sequence[int]) -> None:
        """Write one account."""

    def update_batch(self, records: np.ndarray) -> Any:
        """Write accounts (ACCOUNT[n]), all of them or none; of a key that comes twice the last one stays."""

    def delete_batch(self, keys: np.ndarray) -> Any:
        """Delete keys (uint8[n, 32]); one that is not there is no error."""

    def scan(self, key: bytes, count: int) -> list[Sequence[int]]:
        """Return the fields of up to `count` accounts from a key on, in the order of keys."""

    def close(self) -> None:
        """Close the store; its files hold everything then."""


STORES: Final = {
    "ledger": "ledger_store:LedgerStore",
    "lmdb": "lmdb_store:LmdbStore",
    "rocksdb": "rocksdb_store:RocksdbStore",
    "sqlite": "sqlite_store:SqliteStore",
    "duckdb": "duckdb_store:DuckdbStore",
    "dict": "memory_stores:DictStore",
    "numpy": "memory_stores:NumpyStore",
}


def find(name: str, durability: str = "") -> type[Store]:
    """Return a store's adapter.

    Raises
    ------
    ParameterError
        There is no such store or durability class.
    NotApplicableError
        Its package is not installed, or it does not have the durability class.
    """
    if name not in STORES:
        raise ParameterError(f"there is no store {name}", hint=nearest(name, STORES), name="store")
    if durability and durability not in CLASSES:
        hint = nearest(durability, CLASSES)
        raise ParameterError(f"there is no durability class {durability}", hint=hint, name="durability")
    module, _, adapter = STORES[name].partition(":")
    try:
        found: type[Store] = getattr(importlib.import_module(f"{__name__}.{module}"), adapter)
    except ModuleNotFoundError as error:
        raise NotApplicableError(
            f"{name} needs the package {error.name}", hint="pip install '.[baselines]' brings it"
        ) from None
    if durability and durability not in found.durabilities:
        raise NotApplicableError(f"{name} has no class {durability}, only {', '.join(found.durabilities)}")
    return found


# ---------------------------------------------------------------- between arrays and the values of others
def key_list(keys: np.ndarray) -> list[bytes]:
    """Return keys (uint8[n, 32]) as bytes."""
    found: list[bytes] = np.ascontiguousarray(keys).view("V32").ravel().tolist()
    return found


def sorted_pairs(batches: Iterable[np.ndarray]) -> list[bytes]:
    """Return key and value together of all accounts, in the order of their keys."""
    found: list[bytes] = np.concatenate(list(batches)).view("V64").tolist()
    found.sort()
    return found


def field_words(records: np.ndarray) -> np.ndarray:
    """Return the fields of records (ACCOUNT[n]) as a view, uint64[n, 4]."""
    return records.view(np.uint64).reshape(len(records), 8)[:, 4:]


def blank_records(keys: np.ndarray) -> np.ndarray:
    """Return records of keys whose fields are zero."""
    records = np.zeros(len(keys), ACCOUNT)
    records["pubkey"] = keys
    return records


def records_of(keys: np.ndarray, values: Sequence[bytes | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return records and found of keys from the bytes that a store had for them."""
    records = blank_records(keys)
    joined = b"".join([value or BLANK for value in values])
    field_words(records)[:] = np.frombuffer(joined, np.uint64).reshape(-1, 4)
    return records, np.fromiter((value is not None for value in values), bool, len(values))


class Periodic:
    """Calls something every `SYNC_INTERVAL_S` seconds in a thread of its own until stopped; keeps the first error."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(SYNC_INTERVAL_S):
                self._call()
        except Exception as error:
            self._error = error

    def stop(self) -> None:
        """End the thread, and raise what its call raised."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
