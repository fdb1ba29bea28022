"""What a ledger tells of itself: statistics, and the views for researchers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ledger.pictures import Bars, size, table


@dataclass(slots=True)
class RecoveryReport:
    """What opening a ledger found and did.

    Attributes
    ----------
    clean : bool
        The ledger was closed cleanly; nothing was replayed.
    checkpoint_lsn, lsn : int
        What the image held, and what the ledger holds now.
    frames, rows, bytes_read : int
        Replayed from the log.
    torn_frames : int
        Frames behind the last whole one that were being written, and were never acknowledged; those whose header is
        torn too cannot be counted.
    blocks_fetched : int
        4 KiB blocks of records that were asked for ahead of redo, as a sample was not in memory: 0 where the page
        cache was warm.
    redo_bytes_per_s : int
        Log redone a second, over its first 4 MiB; 0 where there was less.
    journal_replayed : bool
        An unfinished snapshot of a ledger without a log was completed.
    indexes_rebuilt : list of int
        Shards whose index was made anew from the records.
    cells_undone, cells_broken : int
        Cells of mapped files above the last batch that was whole, and cells that failed their checksum.
    salvaged : bool
        Power was lost under a mode that promises nothing, and what was whole was kept.
    recounted : bool
        Live accounts and supply were counted again from the records.
    seconds : dict of str to float
        By phase.
    """

    clean: bool = False
    checkpoint_lsn: int = 0
    lsn: int = 0
    frames: int = 0
    rows: int = 0
    bytes_read: int = 0
    torn_frames: int = 0
    blocks_fetched: int = 0
    redo_bytes_per_s: int = 0
    journal_replayed: bool = False
    indexes_rebuilt: list[int] = field(default_factory=list)
    cells_undone: int = 0
    cells_broken: int = 0
    salvaged: bool = False
    recounted: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def _repr_html_(self) -> str:
        rows: list[tuple[str, object]] = [
            ("closed cleanly", self.clean),
            ("LSN", f"{self.lsn}, {self.checkpoint_lsn} of the image"),
            ("replayed", f"{self.frames} frames, {self.rows} rows, {size(self.bytes_read)} read"),
            ("cut off half written", f"{self.torn_frames} frames"),
            ("indexes made anew", self.indexes_rebuilt),
            ("cells", f"{self.cells_undone} undone, {self.cells_broken} broken"),
        ]
        marks = ("journal_replayed", "salvaged", "recounted")
        rows += [(name.replace("_", " "), True) for name in marks if getattr(self, name)]
        if self.seconds:
            rows.append(("time", f"{sum(self.seconds.values()) * 1e3:.3g} ms"))
            rows.append(("by phase", Bars(list(self.seconds.values()), "milliseconds by phase")))
            rows += [(f"· {name}", f"{seconds * 1e3:.3g} ms") for name, seconds in self.seconds.items()]
        return table("Recovery", rows)


@dataclass(frozen=True, slots=True)
class LedgerStats:
    """State and settings of an open ledger at one moment.

    Attributes
    ----------
    committed_lsn, durable_lsn, checkpoint_lsn : int
        Newest LSN that readers see, that a loss of power cannot take, and that the image holds.
    live, capacity, supply : int
        Live accounts, accounts that fit, sum of all live balances.
    shards : int
    slots_used : list of int
        Slots given out, by shard (live and deleted accounts).
    load_factor : list of float
        Share of index positions taken, by shard.
    slot_fill : list of float
        Share of slots given out, by shard.
    durability, storage : str
        In force.
    hugepages_asked, hugepages : str
        What the options asked for and what is in force.
    huge_record_bytes, huge_index_bytes : int
        Bytes that the kernel really maps by huge pages now.
    resident_bytes, anonymous_bytes : int
        Of records and index together.
    prefetch, threads : int
        In force.
    notes : list of str
        Where the machine could not give what was asked for.
    lookups : int
        Rows probed since open, by reads and writes of batches.
    probe_distance : list of int
        Their histogram: entry d counts look-ups that passed d positions; the last one counts d and more.
    read_retries, read_gates : int
        Batch reads tried again because writers overtook them, and those that held the next frame back.
    log_bytes, log_frames : int
        Written since open.
    image_bytes : int
        Size of all record and index files.
    batches, rows : int
        Taken from callers of this handle, and their rows.
    checkpoints : int
        Completed by this handle, snapshots among them.
    checkpoint_running : bool
    log_redo_bytes : int
        Log that an opening would have to redo if the process were killed now.
    log_redo_bytes_max : int or None
        Its bound, by `recovery_target_s`.
    XX
        Committed and taken through this handle.
    recovery : RecoveryReport
        What opening found and did.
    """

    committed_lsn: int
    durable_lsn: int
    checkpoint_lsn: int
    live: int
    capacity: int
    supply: int
    shards: int
    slots_used: list[int]
    load_factor: list[float]
    slot_fill: list[float]
    durability: str
    storage: str
    hugepages_asked: str
    hugepages: str
    huge_record_bytes: int
    huge_index_bytes: int
    resident_bytes: int
    anonymous_bytes: int
    prefetch: int
    threads: int
    notes: list[str]
    lookups: int
    probe_distance: list[int] = field(repr=False)
    read_retries: int
    read_gates: int
    log_bytes: int
    log_frames: int
    image_bytes: int
    batches: int
    rows: int
    checkpoints: int
    checkpoint_running: bool
    log_redo_bytes: int
    log_redo_bytes_max: int | None
    recovery: RecoveryReport

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)

    def _repr_html_(self) -> str:
        far = max((d for d, count in enumerate(self.probe_distance) if count), default=0)
        passed = sum(d * count for d, count in enumerate(self.probe_distance))
        said = f"{passed / max(self.lookups, 1):.3g} on average, {far} at most, {self.lookups} look-ups"
        bound = "" if self.log_redo_bytes_max is None else f" of at most {size(self.log_redo_bytes_max)}"
        huge = f"records {size(self.huge_record_bytes)}, index {size(self.huge_index_bytes)}"
        rows: list[tuple[str, object]] = [
            ("accounts", f"{self.live} live, room for {self.capacity}"),
            ("supply", self.supply),
            ("LSN", f"{self.committed_lsn} committed, {self.durable_lsn} durable, {self.checkpoint_lsn} in the image"),
            ("mode", f"durability {self.durability}, storage {self.storage}, {self.threads} threads"),
            ("huge pages", f"asked {self.hugepages_asked}, got {self.hugepages}: {huge}"),
            ("memory", f"{size(self.resident_bytes)} resident, {size(self.anonymous_bytes)} of it anonymous"),
            ("fill of shards", f"{max(self.slot_fill):.1%} the fullest of {self.shards}"),
            ("", Bars(self.slot_fill, f"share of slots given out, {self.shards} shards", 1.0)),
            ("load of indexes", f"{max(self.load_factor):.1%} the fullest"),
            ("", Bars(self.load_factor, f"share of index positions taken, {self.shards} shards", 1.0)),
            ("probe distance", said),
            ("", Bars(self.probe_distance[: far + 1], f"look-ups by probe distance, 0 to {far}")),
            (
                "taken",
                f"{self.batches} batches, {self.rows} rows, {self.log_frames} frames, {size(self.log_bytes)} of log",
            ),
            ("redo if killed now", f"{size(self.log_redo_bytes)}{bound}"),
            ("checkpoints", f"{self.checkpoints}{', one is running' if self.checkpoint_running else ''}"),
            ("batch reads", f"{self.read_retries} tried again, {self.read_gates} held a frame back"),
            ("image", size(self.image_bytes)),
        ]
        return table("Ledger", rows + [("note", note) for note in self.notes])


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found.

    Attributes
    ----------
    lsn : int
        The state that was checked.
    live, supply : int
        Counted from the records.
    faults : list of str
        One sentence each; empty when everything holds.
    """

    lsn: int
    live: int
    supply: int
    faults: list[str]

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.faults


@dataclass(frozen=True, slots=True, eq=False)
class IndexView:
    """A copy of one shard's index, for study.

    Attributes
    ----------
    shard : int
    occupied : bool[positions]
    distance : int32[positions]
        Probe distance of the entry, -1 where the position is empty.
    slot : int64[positions]
        Slot of the entry, -1 where the position is empty.
    """

    shard: int
    occupied: np.ndarray
    distance: np.ndarray
    slot: np.ndarray


@dataclass(frozen=True, slots=True)
class LogFrame:
    """One frame of the log, for study.

    Attributes
    ----------
    lsn, epoch, batches, wall_time_ns : int
    rows : ACCOUNT[n]
    deletes : uint8[m, 32]
    """

    lsn: int
    epoch: int
    batches: int
    wall_time_ns: int
    rows: np.ndarray = field(repr=False)
    deletes: np.ndarray = field(repr=False)
