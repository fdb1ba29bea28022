"""GeometricLedger: the one class that puts the parts together."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from ledger.engine.apply import NO_DELETES
from ledger.engine.checkpoint import Checkpointer, take_checkpoint
from ledger.engine.commit import Committer
from ledger.engine.commit_direct import DirectCommitter
from ledger.engine.commit_logged import LoggedCommitter
from ledger.engine.lookup import Reader, get_account
from ledger.engine.passes import Progress
from ledger.engine.pool import run_apart
from ledger.errors import ClosedError, FailStopError, ForkedError, OptionsError, ReadOnlyError
from ledger.inputs import Account, check_rows, key_words, record_words
from ledger.inspection import CHUNK_SLOTS, Inspection
from ledger.layout import ACCOUNT, STATE_COMMITTED, STATE_LIVE, STATUS_ABSENT
from ledger.opening import Opener
from ledger.options import Options
from ledger.stats import IndexView, LedgerStats, LogFrame, RecoveryReport, VerifyReport
from ledger.storage.files import Files, write_clean

_new = tuple.__new__  # past the checks of a named tuple: a get is short
_open_ledgers: weakref.WeakSet[GeometricLedger] = weakref.WeakSet()


class GeometricLedger:
    """An account store: a 32-byte public key maps to a fixed-size account record.

    Made by `open`. Safe to use from several threads: readers take no lock and wait for nobody; writers take
    turns. One process at a time may write.

    Attributes
    ----------
    path : Path
    options : Options
        In force, the ledger's geometry filled in.
    recovery : RecoveryReport
        What opening found and did.
    """

    path: Path
    options: Options
    recovery: RecoveryReport

    # ------------------------------------------------------------ opening and closing
    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        options: Options | None = None,
        *,
        create: bool = True,
        read_only: bool = False,
        salvage: bool = False,
        progress: Progress | None = None,
        files: Files | None = None,
    ) -> GeometricLedger:
        """Open the ledger in folder `path`, or make one.

        Parameters
        ----------
        path
            Folder of the ledger.
        options
            Settings; geometry that is None is the ledger's own.
        create
            Make the ledger if there is none.
        read_only
            Write nothing at all; refused while a writer has the ledger open.
        salvage
            After damage or a loss of power that the mode does not cover: keep what passes its checksums.
        progress
            Called as ``progress(what, done, of)`` during long work.
        files
            Through which all disk changes go; for tests.

        Returns
        -------
        GeometricLedger

        Raises
        ------
        LockedError
            Another handle has it open.
        LedgerNotFoundError
            There is none, and none was to be made.
        OptionsError
            The options do not fit the ledger.
        CorruptionError, WrongLedgerError, UnsupportedVersionError
            What is on disk is not whole, or not for this version.
        SalvageNeededError
            See `salvage`.

        Notes
        -----
        **Complexity**: O(1) in size after a clean close; else O(log since the checkpoint).
        """
        opener = Opener(Path(path), options or Options(), read_only, salvage, progress, files or Files())
        return cls(opener.run(create and not read_only))

    def __init__(self, opener: Opener) -> None:
        self.path = opener.path
        self.options = opener.options
        self.recovery = opener.report
        self._files = opener.files
        self._lock = opener.lock
        self._control = opener.control
        self._shards = opener.shards
        self._pool = opener.pool
        self._applier = opener.applier
        self._passes = opener.passes
        self._log = opener.log
        self._read_only = opener.read_only
        assert opener.shards.view is not None
        self._view = opener.shards.view
        self._state = self._view.state
        self._gate = threading.Lock()
        self._reader = Reader(self._applier, self._passes, self._gate)
        self._address = self._reader.address
        self._checkpointer: Checkpointer | None = None
        self._committer: Committer | None = self._make_committer()
        self._inspection = Inspection(opener, self._gate, self._reader, self._committer, self._checkpointer)
        self._status = ""
        self._close_lock = threading.Lock()
        self._batches = self._rows = self._snapshots = 0
        _open_ledgers.add(self)

    def _make_committer(self) -> Committer | None:
        if self._read_only:
            return None
        if self._log is None:
            committer = DirectCommitter(self._applier, self._gate, self._sync_mapped())
            committer.durable_lsn = self._control.checkpoint_lsn
            return committer
        interval = self.options.sync_interval_s if self.options.durability == "async" else None
        checkpointer = self._checkpointer = Checkpointer(
            self._files, self.path, self._control, self._shards, self._log, self._gate, self.options,
            self.recovery.bytes_read,
        )  # fmt: skip
        committer = LoggedCommitter(
            self._applier, self._gate, self._log, rows_max=self.options.batch_rows_max, sync_interval_s=interval,
            checkpoints=checkpointer,
        )  # fmt: skip
        checkpointer.attach(committer.pause_early, committer.check_writable, committer.fail)
        return committer

    def _sync_mapped(self) -> tuple[float, Callable[[], Any]] | None:
        """Return interval and function of the periodic msync, in the mode that has one."""
        if self.options.durability != "msync":
            return None
        return self.options.sync_interval_s, self._shards.sync_mapped

    def close(self) -> None:
        """Write everything to the image and mark the ledger as closed cleanly; twice does no harm.

        Raises
        ------
        FailStopError
            The writer had stopped, or stops now; the next opening recovers what was acknowledged.

        Notes
        -----
        **Durability**: durable when this returns, in every mode. An interrupt is raised when all is done, or leaves the
        ledger open if it strikes before closing has begun.
        """
        if not self._status:
            run_apart(self._close)

    def _close(self) -> None:
        """Close, in a thread where no interrupt strikes."""
        with self._close_lock:
            if self._status:
                return
            failure: BaseException | None = None
            try:
                if self._committer is not None:
                    self._end_writing()
                    self._close_image()
            except BaseException as error:
                failure = error
            self._let_go("closed")
            if failure is not None:
                raise failure

    def _end_writing(self) -> None:
        """End the threads that write; what was queued is committed first."""
        assert self._committer is not None
        self._committer.close()
        if self._checkpointer is not None:
            self._checkpointer.stop()

    def _close_image(self) -> None:
        """Take the last checkpoint, then say on disk that all is whole."""
        assert self._committer is not None
        self._committer.check_writable()
        control = self._control
        changed = int(self._state[STATE_COMMITTED]) != control.checkpoint_lsn
        try:
            if changed or self._view.dirty.any() or self._view.index_dirty.any():
                self._take_still()
            control.clean = True
            control.write(self._files, self.path)
            write_clean(
                self._files, self.path, ledger_id=control.ledger_id, epoch=control.epoch, lsn=control.checkpoint_lsn,
                sequence=control.sequence, image_bytes=control.image_bytes,
            )  # fmt: skip
        except OSError as error:
            raise FailStopError(f"the ledger was not closed cleanly: {error}") from error

    def _let_go(self, status: str) -> None:
        """Give up memory, files, threads and lock; what the handle is asked from now on is an error."""
        self._status = status
        self._reader.close(self._error())
        self._address = 0
        if status == "closed":
            self._pool.close()
            if self._log is not None:
                self._log.close()
            self._shards.close()
            self._lock.release()
        _open_ledgers.discard(self)

    def __enter__(self) -> GeometricLedger:
        """Return the ledger itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the ledger."""
        self.close()

    def __del__(self) -> None:
        """Let go of a handle that was forgotten; nothing is written, as after a kill."""
        if getattr(self, "_status", "closed") == "":
            if self._committer is not None:
                self._end_writing()
            self._let_go("closed")

    def __repr__(self) -> str:
        """Return path and state."""
        return f"<GeometricLedger {str(self.path)!r}, {self._status or f'{len(self)} accounts'}>"

    def _error(self) -> Exception:
        """Return the error for a handle that is no more."""
        if self._status == "forked":
            return ForkedError(f"{self.path} was opened by process {self._lock.pid}")
        return ClosedError(f"{self.path} is closed")

    def _check(self) -> None:
        if self._status:
            raise self._error()

    # ------------------------------------------------------------ reading
    def get(self, key: bytes) -> Account | None:
        """Return one account, or None when there is none.

        Parameters
        ----------
        key : bytes
            32 bytes.

        Raises
        ------
        InvalidInputError
            The key is not 32 bytes.
        CorruptRecordError
            The record fails its checksum.

        Notes
        -----
        Takes no lock. **Complexity**: O(1), about a microsecond.
        """
        if type(key) is bytes:
            status, balance, nonce, staked, modified = get_account(self._address, key)
            if not status:
                return _new(Account, (key, balance, nonce, staked, modified))
            if status == STATUS_ABSENT:
                return None
        return self._reader.get(key)

    def get_batch(self, keys: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the accounts of many keys, all as of one moment.

        Parameters
        ----------
        keys : uint8[n, 32]
            Or a sequence of 32-byte keys.

        Returns
        -------
        records : ACCOUNT[n]
            Absent accounts have their key and zeros.
        found : bool[n]

        Raises
        ------
        InvalidInputError, CorruptRecordError

        Notes
        -----
        Takes no lock, unless writers overtake it twice: then it holds the next frame back for one call.
        **Complexity**: O(n).
        """
        self._check()
        return self._reader.get_batch(key_words(keys))

    def __len__(self) -> int:
        """Return the number of live accounts."""
        self._check()
        return int(self._state[STATE_LIVE])

    def __contains__(self, key: bytes) -> bool:
        """Tell whether the key has a live account."""
        return self.get(key) is not None

    def chunks(self, slots: int = CHUNK_SLOTS) -> Iterator[np.ndarray]:
        """Yield all live accounts in arrays of ACCOUNT, in the order of their slots.

        Each chunk is one consistent state; writers may go on between two chunks.

        Parameters
        ----------
        slots : int
            Slots looked at for one chunk: the most rows that it can have.
        """
        self._check()
        yield from self._inspection.chunks(slots, self._check)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield all live accounts in chunks; see `chunks`."""
        return self.chunks()

    # ------------------------------------------------------------ writing
    def update_batch(self, records: Any, deletes: Any = None) -> int:
        """Write and delete accounts, all of them or none.

        Parameters
        ----------
        records : ACCOUNT[n]
            New or changed accounts. A key that comes twice: the last one wins.
        deletes : uint8[m, 32], optional
            Keys to delete, after the records are written. A key that is not there is no error.

        Returns
        -------
        int
            LSN of the commit; for an empty batch the newest one.

        Raises
        ------
        InvalidInputError
            Names row and field; nothing was changed.
        CapacityError
            A shard is full; nothing was changed.
        FailStopError
            A disk write failed; this batch is not acknowledged and does not become visible.

        Notes
        -----
        **Durability**: as the ledger's mode says when this returns. **Complexity**: O(n + m).
        """
        committer, rows, keys = self._check_batch(records, deletes)
        if not len(rows) + len(keys):
            return int(self._state[STATE_COMMITTED])
        lsn = committer.commit(rows, keys)
        self._batches += 1
        self._rows += len(rows) + len(keys)
        return lsn

    def _check_batch(self, records: Any, deletes: Any) -> tuple[Committer, np.ndarray, np.ndarray]:
        """Return the committer, and a batch as words; nothing is wrong with it then."""
        committer = self._check_writer()
        rows = record_words(records)
        keys = NO_DELETES if deletes is None else key_words(deletes, "deletes")
        check_rows(len(rows) + len(keys), self.options.batch_rows_max)
        if not self._passes.all_checked:
            self._passes.check_all()
        return committer, rows, keys

    def _check_writer(self) -> Committer:
        self._check()
        if self._committer is None:
            raise ReadOnlyError("the ledger is open read-only")
        return self._committer

    def submit_batch(self, records: Any, deletes: Any = None) -> Future[int]:
        """Hand a batch over and go on: one thread keeps the disk busy, and small batches share its writes.

        Parameters
        ----------
        records, deletes
            As for `update_batch`; copied, so that they may be changed at once.

        Returns
        -------
        concurrent.futures.Future of int
            Its result is the LSN, once the batch is acknowledged as the mode says; its exception what
            `update_batch` would raise (CapacityError, FailStopError). It cannot be cancelled.

        Raises
        ------
        InvalidInputError, ReadOnlyError, ClosedError, FailStopError
            At once.

        Notes
        -----
        Batches of one thread are committed in the order in which they are submitted, each of them whole; one that
        fails does not hold back the next. Waits while 131,072 rows are under way. Callbacks run in the thread that
        commits, so they should be short. Without a log the batch is committed when this returns.
        """
        committer, rows, keys = self._check_batch(records, deletes)
        if not len(rows) + len(keys):
            done: Future[int] = Future()
            done.set_result(int(self._state[STATE_COMMITTED]))
            return done
        self._batches += 1
        self._rows += len(rows) + len(keys)
        return committer.submit(rows, keys)

    def flush(self) -> int:
        """Wait until every batch submitted before is acknowledged, or has failed; return the newest LSN."""
        return self._check_writer().pause(lambda: int(self._state[STATE_COMMITTED]))

    def delete_batch(self, keys: Any) -> int:
        """Delete accounts, all of them or none; see `update_batch`.

        Parameters
        ----------
        keys : uint8[n, 32]
        """
        return self.update_batch(np.zeros(0, ACCOUNT), key_words(keys).view(np.uint8))

    def snapshot(self) -> int:
        """Bring the image on disk up to the newest commit: a checkpoint on demand.

        Returns
        -------
        int
            The LSN up to which the image holds everything.

        Notes
        -----
        Writers go on meanwhile in the modes with a log, and wait in those without.
        **Durability**: that state is durable when this returns, in every mode.
        **Complexity**: O(blocks changed since the last one).
        """
        committer = self._check_writer()
        if self._checkpointer is not None:
            return run_apart(self._checkpointer.take)
        return committer.pause(self._take_still)

    def _take_still(self) -> int:
        """Take a checkpoint while no frame is under way and none comes."""
        if self._checkpointer is not None:
            return self._checkpointer.take_still()
        lsn = take_checkpoint(self._files, self.path, self._control, self._shards, self._log)
        self._snapshots += 1
        assert self._committer is not None
        self._committer.durable_lsn = lsn
        return lsn

    # ------------------------------------------------------------ looking inside
    def stats(self) -> LedgerStats:
        """Return the ledger's state and settings. **Complexity**: O(shards), and a walk of the page tables."""
        self._check()
        return self._inspection.stats(self._batches, self._rows, self._snapshots)

    def state_hash(self) -> str:
        """Return a hash over the five fields of all live accounts, in no order: equal contents, equal hash."""
        return self._quiet(lambda: self._passes.totals().digest)

    def verify(self, progress: Progress | None = None) -> VerifyReport:
        """Check every record, index entry and total; writers wait meanwhile.

        Parameters
        ----------
        progress
            Called as ``progress("shards", done, of)``.

        Notes
        -----
        **Complexity**: O(size).
        """
        return self._quiet(lambda: self._inspection.verify(progress))

    def _quiet(self, function: Callable[[], Any]) -> Any:
        """Call `function` while no frame is under way."""
        self._check()
        if self._committer is None or not self._committer.writable:
            with self._gate:
                return function()
        return self._committer.pause(function)

    def index_view(self, shard: int) -> IndexView:
        """Return a copy of a shard's index: which positions are taken, and how far each entry is from home."""
        self._check()
        return self._inspection.index_view(shard)

    def record_view(self, shard: int) -> np.ndarray:
        """Return a shard's stored records, both cells, as a read-only array (layout.RECORD) over live memory."""
        self._check()
        return self._inspection.record_view(shard)

    def log_frames(self) -> Iterator[LogFrame]:
        """Yield the frames of the log since the last snapshot, oldest first."""
        self._check()
        yield from self._inspection.log_frames()

    def advise(self, advice: str) -> None:
        """Advise the kernel about the ledger's files, for measuring.

        Parameters
        ----------
        advice : {"willneed", "dontneed"}
            Read the files ahead, or forget their clean pages in the page cache.
        """
        self._check()
        if advice == "willneed":
            self._shards.will_need()
        elif advice == "dontneed":
            self._shards.image.drop_cache()
        else:
            raise OptionsError(f"advice is {advice!r}, not willneed or dontneed", field="advice")


def _disown_in_child() -> None:
    """Make the handles of the parent useless in a forked child, without touching anything of theirs."""
    for ledger in list(_open_ledgers):
        ledger._let_go("forked")


os.register_at_fork(after_in_child=_disown_in_child)
