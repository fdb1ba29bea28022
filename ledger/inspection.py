"""What is in an open ledger: its numbers, its accounts in chunks, checks of all of it, and views for research."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np

from ledger.engine.checkpoint import Checkpointer, totals
from ledger.engine.commit import Committer
from ledger.engine.lookup import Reader
from ledger.engine.passes import Progress, corrupt_record
from ledger.engine.recovery import log_scan
from ledger.errors import OptionsError
from ledger.kernels.records import export_records
from ledger.layout import (
    ACCOUNT,
    INDEX_SLOT_MASK,
    RECORD,
    SHARD_RECORD_BASE,
    SHARD_SEED,
    SHARD_USED,
    SHARD_WORDS,
    STATE_COMMITTED,
)
from ledger.opening import Opener
from ledger.stats import IndexView, LedgerStats, LogFrame, VerifyReport
from ledger.storage.files import LOG_NAME

CHUNK_SLOTS = 1 << 16


class Inspection:
    """Looks at one open ledger and changes nothing; see the methods of `GeometricLedger` with the same names.

    Thread-safety: any thread may call. The ledger sees to it that it is open, and that `verify` meets no frame.

    Parameters
    ----------
    opener : Opener
        The parts of the ledger.
    gate : Lock
        Held by writers during each apply.
    reader : Reader
    committer : Committer or None
    checkpointer : Checkpointer or None
        In the modes that have one.
    """

    def __init__(
        self,
        opener: Opener,
        gate: threading.Lock,
        reader: Reader,
        committer: Committer | None,
        checkpointer: Checkpointer | None,
    ) -> None:
        assert opener.shards.view is not None
        self._parts = opener
        self._view = opener.shards.view
        self._shards = opener.shards
        self._passes = opener.passes
        self._gate = gate
        self._reader = reader
        self._committer = committer
        self._checkpointer = checkpointer

    def stats(self, batches: int, rows: int, snapshots: int) -> LedgerStats:
        """Return the state and the settings; `batches`, `rows` and `snapshots` were counted by the handle."""
        parts, shards, control = self._parts, self._shards, self._parts.control
        committer, checkpointer, log = self._committer, self._checkpointer, parts.log
        used = self._view.shards.reshape(-1, SHARD_WORDS)[:, SHARD_USED].astype(np.int64)
        records, index = shards.coverage()
        lsn, live, supply = totals(self._view.state)
        probes = parts.applier.probes()
        return LedgerStats(
            committed_lsn=lsn,
            durable_lsn=control.checkpoint_lsn if committer is None else committer.durable_lsn,
            checkpoint_lsn=control.checkpoint_lsn,
            live=live,
            capacity=control.capacity,
            supply=supply,
            shards=control.shards,
            slots_used=used.tolist(),
            load_factor=(used / control.table["positions"].astype(np.float64)).tolist(),
            slot_fill=(used / control.table["slots"].astype(np.float64)).tolist(),
            durability=control.durability if committer is None else parts.options.durability,
            storage=shards.way,
            hugepages_asked=parts.options.hugepages,
            hugepages=shards.hugepages,
            huge_record_bytes=records.huge_bytes,
            huge_index_bytes=index.huge_bytes,
            resident_bytes=records.resident_bytes + index.resident_bytes,
            anonymous_bytes=records.anonymous_bytes + index.anonymous_bytes,
            prefetch=parts.options.prefetch,
            threads=parts.pool.lanes,
            notes=list(shards.notes),
            lookups=int(probes.sum()),
            probe_distance=probes.astype(np.int64).tolist(),
            read_retries=self._reader.retries,
            read_gates=self._reader.gates,
            log_bytes=0 if log is None else log.bytes_written,
            log_frames=0 if log is None else log.frames,
            image_bytes=control.image_bytes,
            batches=batches,
            rows=rows,
            checkpoints=snapshots if checkpointer is None else checkpointer.taken,
            checkpoint_running=checkpointer is not None and checkpointer.running,
            log_redo_bytes=0 if checkpointer is None else checkpointer.log_bytes,
            log_redo_bytes_max=None if checkpointer is None else checkpointer.limit_bytes,
            recovery=parts.report,
        )

    def chunks(self, slots: int, check: Callable[[], None]) -> Iterator[np.ndarray]:
        """Yield all live accounts; `check` is called before each chunk."""
        if slots < 1:
            raise OptionsError(f"slots is {slots}, not at least 1", field="slots")
        for shard in range(self._shards.count):
            first = 0
            while True:
                check()
                used = int(self._view.shards[shard * SHARD_WORDS + SHARD_USED])
                if first >= used:
                    break
                stop = min(used, first + slots)
                rows = self._export(shard, first, stop)
                if len(rows):
                    yield rows
                first = stop

    def _export(self, shard: int, first: int, stop: int) -> np.ndarray:
        """Copy the live accounts of some slots, with the next frame held back."""
        view = self._view
        at = shard * SHARD_WORDS
        rows = np.zeros((stop - first, 8), np.uint64)
        with self._gate:
            count = export_records(
                view.records, view.shards[at + SHARD_RECORD_BASE], first, stop, view.shards[at + SHARD_SEED],
                view.state[STATE_COMMITTED], rows,
            )  # fmt: skip
        if count < 0:
            raise corrupt_record(self._shards, shard, -1 - int(count))
        return rows[:count].view(ACCOUNT).ravel()

    def verify(self, progress: Progress | None) -> VerifyReport:
        """Check every record, index entry and total."""
        faults = []
        waiting = self._passes.check_all()
        faults += [f"shard {shard}: the index did not fit its checksum and was rebuilt" for shard in waiting]
        for shard in range(self._shards.count):
            if progress is not None:
                progress("shards", shard, self._shards.count)
            found = self._passes.check_shard(shard)
            slot = found.pop("first_slot")
            named = [f"{count} {name.replace('_', ' ')}" for name, count in found.items() if count]
            if named:
                where = f", the first at slot {slot}" if slot >= 0 else ""
                faults.append(f"shard {shard}: {', '.join(named)}{where}")
        lsn, live, supply = totals(self._view.state)
        if faults:
            return VerifyReport(lsn, 0, 0, faults)
        counted = self._passes.totals()
        if counted.live != live:
            faults.append(f"{counted.live} live accounts counted, {live} kept")
        if counted.supply != supply:
            faults.append("the sum of the balances is not the supply kept")
        return VerifyReport(lsn, counted.live, counted.supply, faults)

    def index_view(self, shard: int) -> IndexView:
        """Return a copy of a shard's index, as `measure_distances` finds it."""
        self._check_shard(shard)
        self._passes.check_all()
        with self._gate:
            distance = self._passes.distances(shard)
            first, stop = self._shards.index_span(shard)
            slot = (self._view.index[first:stop] & np.uint64(INDEX_SLOT_MASK)).astype(np.int64) - 1
        return IndexView(shard, distance >= 0, distance, slot)

    def record_view(self, shard: int) -> np.ndarray:
        """Return a shard's stored records over live memory, not to be written."""
        self._check_shard(shard)
        used = int(self._view.shards[shard * SHARD_WORDS + SHARD_USED])
        records = self._shards.record_words(shard, used).view(RECORD).ravel()
        records.flags.writeable = False
        return records

    def log_frames(self) -> Iterator[LogFrame]:
        """Yield the frames of the log since the last snapshot."""
        parts = self._parts
        if not (parts.path / LOG_NAME).is_dir():
            return
        for frame in log_scan(parts.files, parts.path / LOG_NAME, parts.control, salvage=False):
            header = frame.header
            yield LogFrame(
                frame.lsn, frame.epoch, int(header["batches"]), int(header["wall_time_ns"]), frame.rows.copy(),
                frame.deletes.copy(),
            )  # fmt: skip

    def _check_shard(self, shard: int) -> None:
        if not 0 <= shard < self._shards.count:
            raise OptionsError(f"shard is {shard}, not within 0 to {self._shards.count - 1}", field="shard")
