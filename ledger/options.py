"""Every setting of a ledger: its default, bounds and unit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np

from ledger.errors import OptionsError
from ledger.layout import BLOCK_BYTES, FRAME_ROWS_MAX, HASH_BLAKE3, SHARDS_MAX, SLOTS_PER_SHARD_MAX

DURABILITIES: Final = ("none", "msync", "async", "sync")
STORAGES: Final = ("private", "memory", "shared")
HUGEPAGES: Final = ("off", "thp", "hugetlb")
PREFETCH_MAX: Final = 64
THREADS_MAX: Final = 64
CAPACITY_DEFAULT: Final = 1_000_000
SHARDS_DEFAULT: Final = 16
INDEX_LOAD_DEFAULT: Final = 0.5
INDEX_LOADS: Final = (0.5, 0.95)

HashFunction = Callable[[np.ndarray, bytes], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of a ledger; frozen, checked when made.

    Parameters
    ----------
    durability : {"sync", "async", "msync", "none"}
        When a batch counts as acknowledged; see the table in ARCHITECTURE.md.
    storage : {"private", "memory", "shared"}
        How shards are held. Default "private", or "shared" where `durability` is "msync", which needs it.
    hugepages : {"off", "thp", "hugetlb"}
        Huge pages asked for; `stats()` says what was given.
    prefetch : int
        Rows that a batch kernel looks ahead, 0 (no prefetch) to 64.
    shards, capacity, index_load : int, int, float
        Geometry, fixed when the ledger is created; None takes what the ledger has, or the default.
        `shards` is a power of two up to 4096; `capacity` counts accounts in all shards together;
        `index_load` (0.5 to 0.95) is the share of index positions taken when the ledger is full.
    threads : int
        Threads that work on one batch, the caller's among them; None takes the CPUs of this process, 8 at most.
    sync_interval_s : float
        Longest time between two syncs of "async" and "msync", in seconds.
    hash_key : bytes
        32 bytes that key the hash of public keys; None takes the ledger's, or random ones.
    hash_function : callable
        Replaces keyed BLAKE3 (research only): ``f(keys uint8[n, 32], hash_key) -> uint32[n, 3]``,
        the words that choose shard, home and fingerprint. `hash_name` names it in the ledger's files.
    hash_name : str
        Name kept with the ledger; a ledger opens only with the hash that it was made with.
    log_segment_bytes : int
        Size of one log segment, a multiple of 4096, at least 64 KiB.
    log_bytes_max : int
        Log that may stand on disk, at least two segments; a writer that fills it waits for a checkpoint.
    checkpoint_log_bytes : int
        Log after which a checkpoint begins, while writers go on; None takes half of `log_bytes_max`.
    checkpoint_interval_s : float
        Time after which one begins if something was committed, in seconds; None leaves it to the log's length.
    recovery_target_s : float
        Seconds that the redo of the log may take at the next opening after a kill. It bounds the log by the rate
        that the last recovery was measured to have, 64 MiB/s where there was none, and writers that are faster
        than the checkpoints wait for them; None sets no bound.
    batch_rows_max : int
        Most rows, upserts and deletes together, of one batch.
    require : bool
        Make it an error when the machine cannot give the huge pages asked for.

    Raises
    ------
    OptionsError
        A value is out of bounds; the error names the field.
    """

    durability: str = "sync"
    storage: str = ""
    hugepages: str = "off"
    prefetch: int = 16
    shards: int | None = None
    capacity: int | None = None
    index_load: float | None = None
    threads: int | None = None
    sync_interval_s: float = 0.1
    hash_key: bytes | None = field(default=None, repr=False)
    hash_function: HashFunction | None = field(default=None, repr=False)
    hash_name: str = HASH_BLAKE3.decode()
    log_segment_bytes: int = 64 * 1024 * 1024
    log_bytes_max: int = 1024 * 1024 * 1024
    checkpoint_log_bytes: int | None = None
    checkpoint_interval_s: float | None = None
    recovery_target_s: float | None = None
    batch_rows_max: int = 262_144
    require: bool = False

    def __post_init__(self) -> None:
        """Fill in what depends on other fields, then check every field."""
        if self.storage == "":
            object.__setattr__(self, "storage", "shared" if self.durability == "msync" else "private")
        if self.threads is None:
            object.__setattr__(self, "threads", min(8, len(os.sched_getaffinity(0))))
        _choice(self, "durability", DURABILITIES)
        _choice(self, "storage", STORAGES)
        _choice(self, "hugepages", HUGEPAGES)
        _integer(self, "prefetch", 0, PREFETCH_MAX)
        _integer(self, "threads", 1, THREADS_MAX)
        _integer(self, "log_segment_bytes", 64 * 1024, 1 << 40, multiple=BLOCK_BYTES)
        _integer(self, "log_bytes_max", 2 * 64 * 1024, 1 << 50)
        _integer(self, "batch_rows_max", 1, FRAME_ROWS_MAX - 1)
        _number(self, "sync_interval_s", 0.001, 3600.0)
        if self.checkpoint_log_bytes is not None:
            _integer(self, "checkpoint_log_bytes", 64 * 1024, 1 << 50)
        if self.checkpoint_interval_s is not None:
            _number(self, "checkpoint_interval_s", 0.001, 1e6)
        if self.recovery_target_s is not None:
            _number(self, "recovery_target_s", 0.001, 3600.0)
        if self.shards is not None:
            _integer(self, "shards", 1, SHARDS_MAX)
            if self.shards & (self.shards - 1):
                raise OptionsError(
                    f"shards is {self.shards}, not a power of two", field="shards", hint="take 1, 2, 4, 8 ..."
                )
        if self.capacity is not None:
            _integer(self, "capacity", 1, SLOTS_PER_SHARD_MAX)
        if self.index_load is not None:
            _number(self, "index_load", *INDEX_LOADS)
        if self.hash_key is not None and (not isinstance(self.hash_key, bytes) or len(self.hash_key) != 32):
            raise OptionsError("hash_key must be 32 bytes", field="hash_key")
        if (self.hash_function is None) != (self.hash_name == HASH_BLAKE3.decode()):
            raise OptionsError(
                "hash_function and hash_name go together", field="hash_name", hint="give your hash a name of its own"
            )
        if not 1 <= len(self.hash_name.encode()) <= 24:
            raise OptionsError("hash_name must be 1 to 24 bytes long", field="hash_name")
        if self.durability == "msync" and self.storage != "shared":
            raise OptionsError('durability "msync" needs storage "shared"', field="storage")
        if self.durability in ("async", "sync") and self.storage == "shared":
            raise OptionsError(
                f'durability "{self.durability}" cannot keep its promise with storage "shared"',
                field="storage",
                hint="the kernel may write a page of a shared mapping before its log frame",
            )
        if self.log_bytes_max < 2 * self.log_segment_bytes:
            raise OptionsError("log_bytes_max is less than two segments", field="log_bytes_max")

    def with_values(self, **changes: Any) -> Options:
        """Return a copy with some fields changed, checked again."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, without the hash key and function."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.repr}


def _choice(options: Options, name: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not one of `allowed`."""
    value = getattr(options, name)
    if value not in allowed:
        raise OptionsError(f"{name} is {value!r}, not one of {', '.join(allowed)}", field=name, value=value)


def _integer(options: Options, name: str, low: int, high: int, *, multiple: int = 1) -> None:
    """Refuse what is not an integer from `low` to `high`, a multiple of `multiple`."""
    value = getattr(options, name)
    if isinstance(value, np.integer):
        value = int(value)
        object.__setattr__(options, name, value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionsError(f"{name} is {value!r}, not an integer", field=name, value=value)
    if not low <= value <= high:
        raise OptionsError(f"{name} is {value}, not within {low} to {high}", field=name, value=value)
    if value % multiple:
        raise OptionsError(f"{name} is {value}, not a multiple of {multiple}", field=name, value=value)


def _number(options: Options, name: str, low: float, high: float) -> None:
    """Refuse what is not a number from `low` to `high`."""
    value = getattr(options, name)
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise OptionsError(f"{name} is {value!r}, not a number", field=name, value=value)
    value = float(value)
    object.__setattr__(options, name, value)
    if not low <= value <= high:
        raise OptionsError(f"{name} is {value}, not within {low} to {high}", field=name, value=value)
