"""From a folder to the parts of an open ledger: lock, control block, image, recovery, ready."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from ledger.engine.apply import Applier
from ledger.engine.checkpoint import name_totals, take_checkpoint
from ledger.engine.passes import Passes, Progress
from ledger.engine.pool import Pool
from ledger.engine.recovery import log_scan, recover, start_state, was_closed_cleanly
from ledger.errors import CorruptControlError, LedgerNotFoundError, OptionsError
from ledger.layout import BLOCK_BYTES, CONTROL_SHARD, STATE_COMMITTED
from ledger.options import CAPACITY_DEFAULT, INDEX_LOAD_DEFAULT, SHARDS_DEFAULT, Options
from ledger.stats import RecoveryReport
from ledger.storage.control import STAMPS, Control
from ledger.storage.files import CONTROL_NAME, LOG_NAME, Files, LedgerLock, remove_clean
from ledger.storage.image import Image
from ledger.storage.journal import replay_journal
from ledger.storage.log import Log
from ledger.storage.shard import Shards, positions_for, slots_for


class Opener:
    """The steps of opening, and what they made so far, so that a failure gives everything back."""

    def __init__(
        self,
        path: Path,
        options: Options,
        read_only: bool,
        salvage: bool,
        progress: Progress | None,
        files: Files,
    ) -> None:
        self.path = path.absolute()
        self.options = options
        self.read_only = read_only
        self.salvage = salvage
        self.progress = progress
        self.files = files
        self.report = RecoveryReport()
        self.lock: LedgerLock
        self.control: Control
        self.shards: Shards
        self.pool: Pool
        self.applier: Applier
        self.passes: Passes
        self.log: Log | None = None

    def run(self, create: bool) -> Opener:
        """Open or create; on any error, files and lock are given back."""
        exists = (self.path / CONTROL_NAME).exists()
        if not exists and not create:
            self._refuse_data()
            raise LedgerNotFoundError(f"there is no ledger at {self.path}")
        if not exists:
            self.files.mkdir(self.path)
        self.lock = LedgerLock(self.path, exclusive=not self.read_only, files=self.files)
        try:
            if not (self.path / CONTROL_NAME).exists():
                self._refuse_data()
                try:
                    self._create()
                except OSError as error:
                    self._remove_unfinished()
                    raise OSError(error.errno, error.strerror, str(self.path)) from error
            self._open()
            self.progress = None  # nobody else keeps what the caller gave
            return self
        except BaseException:
            if self.log is not None:
                self.log.close()
            if hasattr(self, "shards"):
                self.shards.close()
            if hasattr(self, "pool"):
                self.pool.close()
            self.lock.release()
            raise

    def _refuse_data(self) -> None:
        """Refuse a folder with records or frames and no control block; what an unfinished creation left has neither."""
        for path in (*self.path.glob("shard_*"), *self.path.glob(f"{LOG_NAME}/*.seg")):
            fd = self.files.open(path, os.O_RDONLY)
            try:
                first = self.files.pread(fd, BLOCK_BYTES, BLOCK_BYTES)
            finally:
                self.files.close(fd)
            if any(first):
                raise CorruptControlError(
                    f"{self.path / CONTROL_NAME} is missing, and {path.name} holds data",
                    path=self.path / CONTROL_NAME, offset=0,
                )  # fmt: skip

    def _create(self) -> None:
        """Make all files of a new ledger; the control block comes last and makes them one."""
        options = self.options
        shards = options.shards or SHARDS_DEFAULT
        capacity = options.capacity or CAPACITY_DEFAULT
        index_load = options.index_load or INDEX_LOAD_DEFAULT
        table = np.zeros(shards, CONTROL_SHARD)
        table["slots"] = slots_for(capacity, shards)
        table["positions"] = positions_for(capacity, shards, index_load)
        control = Control(
            ledger_id=uuid.uuid4().bytes,
            table=table,
            capacity=capacity,
            index_load=index_load,
            hash_key=options.hash_key or os.urandom(32),
            hash_name=options.hash_name,
            durability=options.durability,
            storage=options.storage,
            log_segment_bytes=options.log_segment_bytes,
            clean=False,
        )
        Image(self.files, self.path, control, writable=True).create()
        Log.create(
            self.files, self.path / LOG_NAME, ledger_id=control.ledger_id, epoch=0, mode="sync",
            segment_bytes=options.log_segment_bytes, bytes_max=options.log_bytes_max,
        ).close()  # fmt: skip
        control.create(self.files, self.path)

    def _remove_unfinished(self) -> None:
        """Give back the room that the files of a ledger that could not be made take; its root goes first."""
        with contextlib.suppress(OSError):
            self.files.unlink(self.path / CONTROL_NAME, missing_ok=True)
            for folder in (self.path / LOG_NAME, self.path):
                for name in self.files.listdir(folder) if folder.is_dir() else ():
                    if name.startswith(("shard_", "index_")) or ".seg" in name:
                        self.files.unlink(folder / name)

    def _open(self) -> None:
        """Go from the control block to a ledger that is ready."""
        self.control = Control.read(self.files, self.path)
        self._fit_options()
        control, report = self.control, self.report
        report.clean = was_closed_cleanly(self.files, self.path, control)
        mapped = control.was_mapped
        way = self._way_to_recover()
        if not report.clean and control.checkpoint_lsn == 0 and not mapped:
            way = self._start_empty(way)
        self.shards = Shards(self.files, self.path, control, self.options, writable=not self.read_only, way=way)
        with report.phase("map"):
            self.shards.open()
        if not report.clean and not mapped:
            self._take_journal()
        self._fill_view()
        scan = None
        if (self.path / LOG_NAME).is_dir():
            scan = log_scan(self.files, self.path / LOG_NAME, control, salvage=self.salvage)
        recover(
            control, self.shards, self.applier, self.passes, None if report.clean else scan, report,
            salvage=self.salvage, progress=self.progress,
        )  # fmt: skip
        self._check_stamps(mapped)
        if not self.read_only:
            with report.phase("ready"):
                self._make_ready(scan)

    def _check_stamps(self, mapped: bool) -> None:
        """Refuse files that hold more than what the control block and the log lead to: those are older copies."""
        lsn = self.report.lsn
        counts = self.report.clean or self.control.checkpoint_lsn > 0  # else the image was made anew, or not looked at
        if counts and self.shards.image.newest_stamp > lsn and not (mapped or self.report.salvaged):
            path = self.path / CONTROL_NAME
            raise CorruptControlError(
                f"{path} is an older copy, or the log is cut: they lead to LSN {lsn}, and the image has been to "
                f"{self.shards.image.newest_stamp}",
                path=path, offset=0,
            )  # fmt: skip

    def _way_to_recover(self) -> str:
        """Return the storage way to open with: mapped files are mended in place, everything else is not."""
        asked = self.options.storage
        if self.report.clean or self.read_only:
            return asked
        if self.control.was_mapped:
            return "shared"
        return "private" if asked == "shared" else asked

    def _start_empty(self, way: str) -> str:
        """Drop an image that never counted; read-only, look at nothing of it."""
        if self.read_only:
            return "memory"
        Image(self.files, self.path, self.control, writable=True).create()
        return way

    def _change_way(self) -> None:
        """Open the recovered image again, the way that the options ask for."""
        self.shards.close()
        self.pool.close()
        self.shards = Shards(self.files, self.path, self.control, self.options, writable=True)
        self.shards.open()
        self._fill_view()
        start_state(self.control, self.shards, self.control.checkpoint_lsn)

    def _fill_view(self) -> None:
        """Make what works on the view."""
        self.pool = Pool(self.options.threads or 1)
        assert self.shards.view is not None
        self.applier = Applier(self.shards.view, self.pool, self.options, self.control.hash_key)
        self.passes = Passes(self.shards, self.applier)

    def _take_journal(self) -> None:
        """Complete an unfinished snapshot of a ledger without a log; read-only in memory alone."""
        shards, control = self.shards, self.control

        def write(shard: int, which: int, block: int, data: bytes) -> None:
            if self.read_only or shards.way == "memory":
                shards.block_bytes(shard, which, block, 1)[:] = data
            if not self.read_only:
                shards.image.write(shard, which, block, data)

        after = replay_journal(self.files, self.path, control, write)
        if after is None:
            return
        self.report.journal_replayed = True
        for name in ("checkpoint_lsn", "totals_lsn", "supply", "live"):
            setattr(control, name, getattr(after, name))
        control.table[:] = after.table
        shards.refresh_used()
        if not self.read_only:
            stamped = tuple(control.table[name] == control.checkpoint_lsn for name in STAMPS)
            shards.image.write_stamps(stamped, control.checkpoint_lsn)
            shards.image.sync()
            control.write(self.files, self.path)

    def _make_ready(self, scan: Any) -> None:
        """Open for writing: log resumed, image whole, control block durably open, marker gone."""
        control, options, report = self.control, self.options, self.report
        control.epoch += 1
        if report.redo_bytes_per_s and not report.blocks_fetched:
            control.redo_bytes_per_s = report.redo_bytes_per_s
        assert self.shards.view is not None
        if scan is not None:
            mode = options.durability if options.durability in ("async", "sync") else "sync"
            self.log = Log.resume(
                scan, epoch=control.epoch, mode=mode, segment_bytes=options.log_segment_bytes,
                bytes_max=options.log_bytes_max,
            )  # fmt: skip
            committed = int(self.shards.view.state[STATE_COMMITTED])
            if self.log.lsn < committed:
                self.log.lsn = self.log.durable_lsn = committed  # mapped files were ahead of their last checkpoint
            if committed > control.totals_lsn and not control.was_mapped and self._must_be_whole():
                name_totals(self.files, self.path, control, self.shards.view.state)
        control.clean = False
        control.durability, control.storage = options.durability, options.storage
        control.log_segment_bytes = options.log_segment_bytes
        if self.shards.way == "shared":
            self.shards.start_epoch(control.epoch)
        elif options.storage == "shared":
            self.shards.prepare_state(int(self.shards.view.state[STATE_COMMITTED]), control.epoch)
        if self._must_be_whole():
            take_checkpoint(self.files, self.path, control, self.shards, self.log)
        else:
            control.write(self.files, self.path)
        if self.shards.way != options.storage:
            self._change_way()
        self.shards.start_epoch(control.epoch)
        remove_clean(self.files, self.path)
        if options.durability in ("none", "msync") and self.log is not None:
            self.log.close()
            self.log = None

    def _must_be_whole(self) -> bool:
        """Tell whether the image has to hold everything before the first batch.

        Where the log goes on, it holds what the image lacks, and the next checkpoint brings that in.
        """
        report, options = self.report, self.options
        if report.clean:
            return bool(report.indexes_rebuilt)
        goes_on = options.durability in ("async", "sync") and self.shards.way == options.storage
        return not goes_on or report.salvaged or report.recounted

    def _fit_options(self) -> None:
        """Refuse options that contradict the ledger, and fill in what it has."""
        control, options = self.control, self.options
        for name, have in (
            ("shards", control.shards),
            ("capacity", control.capacity),
            ("index_load", control.index_load),
            ("hash_key", control.hash_key),
        ):
            want = getattr(options, name)
            if want is not None and want != have:
                shown = "another one" if name == "hash_key" else have
                raise OptionsError(
                    f"{name} of the ledger is {shown}, and is fixed when it is created",
                    field=name, hint=f"leave {name} out",
                )  # fmt: skip
        if options.hash_name != control.hash_name:
            raise OptionsError(
                f"the ledger was made with the hash {control.hash_name!r}, not {options.hash_name!r}",
                field="hash_name",
            )
        self.options = options.with_values(
            shards=control.shards, capacity=control.capacity, index_load=control.index_load, hash_key=control.hash_key
        )
