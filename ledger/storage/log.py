"""The write-ahead log: one chain of frames for the whole ledger, in segments of the folder `log`.

Invariants:

- frames are placed in the order of their LSN, each at a 4 KiB boundary behind the one before, or at the start
  of the next segment; a frame is written in one write;
- a frame is durable when its `wait` returns (mode "sync"), or when `sync` returns (mode "async");
- the first error of a write or a sync ends the log: every later call raises, nothing is tried again;
- a checkpoint moves on to the next segment (`mark`), then the control block names it, then the segments
  before it are reused (`recycle`): wherever a kill comes between, the control block names what is there.

Thread-safety: one thread submits; `wait`, `sync`, `wait_prepared` and `recycle` may be called from any thread.
`prepare` and `mark` are called by the submitting thread or while it stands still.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledger.errors import BatchTooLargeError, CorruptLogError, FailStopError
from ledger.layout import BLOCK_BYTES
from ledger.storage.files import Files, segment_name
from ledger.storage.frames import BufferPool, FrameBuffer
from ledger.storage.log_reader import LogScan
from ledger.storage.segments import Segment, SegmentStore

MODES: Final = ("async", "sync")


@dataclass(eq=False, slots=True)
class Ticket:
    """A frame under way; give it to `Log.wait`, in the order of the LSN."""

    lsn: int
    known_lsn: int
    buffer: FrameBuffer
    bytes: int
    handle: Any = None
    done: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """What the control block has to say so that the log may be reused up to here."""

    lsn: int
    digest: bytes
    first_segment: int


class Log:
    """The log, open for writing.

    Made by `create` or `resume`. `scan` reads without opening for writing.

    Attributes
    ----------
    lsn, digest
        Of the newest frame that was submitted.
    durable_lsn
        The greatest LSN that this handle knows to be durable.
    known_lsn
        The greatest LSN whose totals a durable frame of this handle names.
    epoch, mode
        As given.
    """

    def __init__(self, store: SegmentStore, *, epoch: int, mode: str, lsn: int, digest: bytes) -> None:
        assert mode in MODES
        self.files = store.files
        self.store = store
        self.mode = mode
        self.epoch = epoch
        self.lsn = self.durable_lsn = lsn
        self.digest = digest
        self.known_lsn = self._known_next = 0
        self.frames = self.bytes_written = self.rolls = self.roll_wait_ns = 0
        self._pool = BufferPool()
        self._lock = threading.Lock()  # over lsn, durable_lsn and the two lists
        self._sync_lock = threading.Lock()  # one sync at a time: the second waits for what the first makes durable
        self._in_flight: list[Ticket] = []
        self._unsynced: list[Segment] = []
        self._failure: BaseException | None = None

    # ------------------------------------------------------------ opening
    @classmethod
    def create(
        cls,
        files: Files,
        folder: Path,
        *,
        ledger_id: bytes,
        epoch: int,
        mode: str,
        segment_bytes: int,
        bytes_max: int,
    ) -> Log:
        """Make the folder and segment 1 of a new ledger.

        **Durability**: both are durable when this returns, so that a control block may name the segment.
        """
        files.mkdir(folder)
        files.sync_directory(folder.parent)
        store = SegmentStore(files, folder, ledger_id, segment_bytes, bytes_max, mode == "sync")
        store.roll(0)
        return cls(store, epoch=epoch, mode=mode, lsn=0, digest=bytes(16))

    @classmethod
    def scan(cls, files: Files, folder: Path, **start: Any) -> LogScan:
        """Return the frames after a checkpoint; see `LogScan`. Writes nothing."""
        return LogScan(files, folder, **start)

    @classmethod
    def resume(cls, scan: LogScan, *, epoch: int, mode: str, segment_bytes: int, bytes_max: int) -> Log:
        """Open for writing behind the end that a finished scan has found; cut the torn tail there.

        For a ledger that was closed cleanly, a scan that was made but not iterated will do: it stands at the
        checkpoint.

        **Durability**: accepted frames that no header names as durable may be only in the page cache, even
        after a failed sync; they are written again and synced before this returns.

        Raises
        ------
        FailStopError
            A write or a sync failed.
        CorruptLogError
            The segment that the control block names is missing.
        """
        store = SegmentStore(scan.files, scan.folder, scan.ledger_id, segment_bytes, bytes_max, mode == "sync")
        log = cls(store, epoch=epoch, mode=mode, lsn=scan.lsn, digest=scan.digest)
        try:
            with log._fail_stop("resumed"):
                log._rewrite(scan)
                store.adopt(scan.first_segment, scan.sequence, scan.offset, given_up=scan.hole is not None)
        except BaseException as error:
            log.close()
            if isinstance(error.__cause__, FileNotFoundError):
                path = Path(error.__cause__.filename)
                raise CorruptLogError(f"{path} is missing", path=path, offset=0) from error
            raise
        return log

    def _rewrite(self, scan: LogScan) -> None:
        """Write frames that may not be durable again, where they are."""
        paths: dict[int, int] = {}
        try:
            for sequence, offset, size, _ in scan.unsure:
                if sequence not in paths:
                    path = scan.folder / segment_name(sequence)
                    paths[sequence] = self.files.open(path, os.O_RDWR)
                fd = paths[sequence]
                self.files.pwrite(fd, self.files.pread(fd, size, offset), offset)
            for fd in paths.values():
                self.files.fdatasync(fd)  # the accepted tail
        finally:
            for fd in paths.values():
                self.files.close(fd)

    # ------------------------------------------------------------ writing
    def buffer(self, rows: int, deletes: int) -> FrameBuffer:
        """Return a buffer with room for a frame; give it back with `release`."""
        return self._pool.take(rows, deletes)

    def release(self, buffer: FrameBuffer) -> None:
        """Take a buffer back, once `wait` has returned and nobody reads the rows any more."""
        self._pool.give_back(buffer)

    def check_size(self, size: int) -> None:
        """Refuse a frame that no log of this size can hold.

        Raises
        ------
        BatchTooLargeError
            It is larger than `log_bytes_max`.
        """
        if size + BLOCK_BYTES > self.store.bytes_max:
            raise BatchTooLargeError(
                f"a log frame of {size} bytes; log_bytes_max is {self.store.bytes_max}",
                hint="split the batch, or open with a larger log_bytes_max",
                size_bytes=size,
            )

    def room_for(self, size: int) -> bool:
        """Tell whether a frame of `size` bytes fits; if not, a snapshot must be taken first.

        An empty log has room for every frame that `check_size` lets through.
        """
        store, live = self.store, self.store.live_bytes
        current = store.current
        if current.has_room(size):
            return current.is_used or live + current.size <= store.bytes_max or live == 0
        return live == 0 or live + store.size_for(size) <= store.bytes_max

    def submit(
        self,
        buffer: FrameBuffer,
        *,
        lsn: int,
        rows: int,
        deletes: int,
        batches: int,
        durable_lsn: int,
        known_lsn: int,
        live: int,
        supply: int,
        wall_time_ns: int,
    ) -> Ticket:
        """Seal the frame whose payload is in `buffer`, place it, and start to write it.

        Parameters
        ----------
        buffer
            Holds `rows` rows and then `deletes` keys; not to be changed before `wait` returns.
        lsn
            One more than that of the frame before.
        batches
            Batches that share the frame.
        durable_lsn
            Newest LSN that is durable now: a reader takes a hole up to it for corruption.
        known_lsn, live, supply
            Live accounts and the sum of their balances as of `known_lsn`.
        wall_time_ns
            Nanoseconds since 1970.

        Returns
        -------
        Ticket
            For `wait`. In mode "async" the frame is with the operating system already.

        Raises
        ------
        BatchTooLargeError
            See `check_size`; nothing was changed.
        FailStopError
            The log has failed, now or before.

        **Durability**: none before `wait` (mode "sync") or `sync` (mode "async") returns.
        """
        self.check()
        assert lsn == self.lsn + 1, (lsn, self.lsn)
        frame, digest = buffer.fill_header(
            ledger_id=self.store.ledger_id,
            epoch=self.epoch,
            lsn=lsn,
            rows=rows,
            deletes=deletes,
            batches=batches,
            durable_lsn=durable_lsn,
            known_lsn=known_lsn,
            live=live,
            supply=supply,
            wall_time_ns=wall_time_ns,
            previous_digest=self.digest,
        )
        self.check_size(frame.nbytes)
        ticket = Ticket(lsn, known_lsn, buffer, frame.nbytes)
        with self._fail_stop("written"):
            segment = self._place(frame.nbytes)
            if self.mode == "sync":
                direct = segment.direct_fd >= 0
                fd = segment.direct_fd if direct else segment.fd
                ticket.handle = self.files.start_write(fd, frame, segment.offset, direct)
            else:
                self.files.pwrite(segment.fd, frame, segment.offset)
                ticket.done = True
        segment.offset += frame.nbytes
        with self._lock:
            if self.mode == "sync":
                self._in_flight.append(ticket)
            elif segment not in self._unsynced:
                self._unsynced.append(segment)
            self.lsn, self.digest, self._known_next = lsn, digest, known_lsn
        self.frames += 1
        self.bytes_written += frame.nbytes
        if 2 * segment.offset > segment.size:
            self.store.prepare()
        return ticket

    def wait(self, ticket: Ticket) -> None:
        """Wait until the frame of a ticket is durable; in mode "async" there is nothing to wait for.

        Raises
        ------
        FailStopError
            This write or an earlier one failed; the frame does not count.
        """
        self.check()
        if ticket.done:
            return
        assert self._in_flight[0] is ticket, "tickets are waited for in their order"
        with self._fail_stop("written"):
            self.files.finish_write(ticket.handle)
        with self._lock:
            self._in_flight.pop(0)
            self.durable_lsn, self.known_lsn = ticket.lsn, ticket.known_lsn
        ticket.done, ticket.handle = True, None

    def sync(self) -> int:
        """Make every frame handed over so far durable and return the newest LSN that is.

        In mode "sync" frames become durable by `wait` alone, and this only tells how far they are.
        """
        self.check()
        if self.mode == "sync":
            return self.durable_lsn
        with self._sync_lock:
            self.check()
            with self._lock:
                segments, lsn, known_lsn = self._unsynced, self.lsn, self._known_next
                self._unsynced = []
            with self._fail_stop("synced"):
                for segment in segments:
                    self.files.fdatasync(segment.fd)  # the frames up to `lsn`
            with self._lock:
                self.durable_lsn, self.known_lsn = lsn, known_lsn
            return lsn

    def _place(self, size: int) -> Segment:
        """Return the segment that a frame of `size` bytes goes to."""
        segment = self.store.current
        if segment.has_room(size):
            return segment
        start = time.perf_counter_ns()
        segment = self.store.roll(size)
        self.rolls += 1
        self.roll_wait_ns += time.perf_counter_ns() - start
        return segment

    # ------------------------------------------------------------ checkpoints
    def mark(self) -> Mark:
        """End the segment in use, so that a checkpoint as of the newest frame frees it.

        **Durability**: the segment named is durable when this returns. The control block may name it once the
        newest frame is durable too.
        """
        self.check()
        assert not self._in_flight, "wait comes first"
        if self.store.current.is_used:
            with self._fail_stop("continued"):
                self.store.roll(0)
        return Mark(self.lsn, self.digest, self.store.current.sequence)

    def prepare(self) -> None:
        """Begin to make the next segment, so that `mark` finds it."""
        self.check()
        if self.store.current.is_used:
            self.store.prepare()

    def wait_prepared(self) -> None:
        """Wait for the segment that is being made; from any thread."""
        self.store.wait_prepared()

    def recycle(self, mark: Mark) -> None:
        """Reuse the segments before a mark; the control block that names the mark must be durable.

        May be called from any thread, while another one submits.
        """
        self.check()
        with self._fail_stop("recycled"):
            self.store.free_before(mark.first_segment)

    # ------------------------------------------------------------ failing and closing
    def check(self) -> None:
        """Raise if the log has failed.

        Raises
        ------
        FailStopError
            Its cause is the first error.
        """
        if self._failure is not None:
            raise FailStopError(f"the log has failed: {self._failure}") from self._failure

    @contextmanager
    def _fail_stop(self, what: str) -> Iterator[None]:
        """Turn the first error of the disk into the end of the log."""
        try:
            yield
        except OSError as error:
            self._failure = self._failure or error
            raise FailStopError(f"the log cannot be {what}: {error}") from error

    def close(self) -> None:
        """Wait for what is under way and close the files; frames not synced are left to the system."""
        for ticket in self._in_flight:
            try:
                self.files.finish_write(ticket.handle)
            except OSError as error:
                self._failure = self._failure or error
        self._in_flight = []
        self.store.close()
