"""Bringing the image on disk up to a commit, in one go or while writers go on.

A checkpoint begins between two frames: it notes the newest LSN and the totals, starts a new log segment and takes
the map of dirty blocks. Then it copies and writes those blocks, while frames are applied; a block may hold parts of
later frames when it is copied. In the end the control block names the LSN of the beginning.

Invariants:

1. no block is written in place before the log is durable through every frame that may be in it;
2. nor before totals as of that frame or a later one are durable, in a frame's header or in the control block;
3. without a log, no block is written over an image that counts before a journal that holds it is durable;
4. the control block names the checkpoint only when all blocks of its map are durable;
5. log segments and the journal are let go only after that.

Killed at any point, the control block names an image that redo or the journal completes: redo repeats each frame
from the checkpoint on, so that whatever mixture of states a record was in, it ends in its two newest ones.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ledger.errors import ClosedError
from ledger.layout import (
    BLOCK_BYTES,
    SHARD_CHECKED,
    SHARD_SUM,
    SHARD_USED,
    SHARD_WORDS,
    STATE_COMMITTED,
    STATE_LIVE,
    STATE_SUPPLY_HI,
    STATE_SUPPLY_LO,
)
from ledger.options import Options
from ledger.storage.control import STAMPS, Control
from ledger.storage.files import JOURNAL_NAME, Files
from ledger.storage.image import INDEX, RECORDS, groups
from ledger.storage.journal import write_journal
from ledger.storage.log import Log, Mark
from ledger.storage.shard import Dirty, Shards

PIECE_BYTES = 1024 * 1024  # copied at a time while writers go on
GENTLY = (8, 16)  # runs and blocks that are under way at once, so that a frame of the log does not wait behind many
REST = 1.5  # time between two groups of them, in times of what the last one took
REST_MAX_S = 0.1
SETTLE_WAIT_S = 0.001
REDO_BYTES_PER_S = 12 * 1024 * 1024  # taken until a recovery has told: that of keys all over a large ledger
LIMIT_BYTES_MIN = 1024 * 1024
LOW32 = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True, eq=False)
class Begun:
    """What a checkpoint takes at its beginning, while no frame is under way."""

    lsn: int
    live: int
    supply: int
    used: np.ndarray
    index_sums: np.ndarray
    dirty: Dirty
    touched: tuple[np.ndarray, np.ndarray]
    mark: Mark | None
    log_bytes: int


def begin(control: Control, shards: Shards, log: Log | None) -> Begun:
    """Begin a checkpoint; no frame is under way.

    Raises
    ------
    FailStopError
        The log could not go on to its next segment.
    """
    view = shards.view
    assert view is not None
    mark = None if log is None else log.mark()
    lsn, live, supply = totals(view.state)
    table = view.shards.reshape(-1, SHARD_WORDS)
    sums = np.where(table[:, SHARD_CHECKED] != 0, table[:, SHARD_SUM] & LOW32, control.table["index_sum"])
    log_bytes = 0 if log is None else log.bytes_written
    dirty = shards.take_dirty()
    used = table[:, SHARD_USED].copy()
    return Begun(lsn, live, supply, used, sums, dirty, shards.touched(dirty), mark, log_bytes)


def totals(state: np.ndarray) -> tuple[int, int, int]:
    """Return the committed LSN, and the live accounts and the supply as of it; no frame is being published."""
    supply = int(state[STATE_SUPPLY_LO]) | int(state[STATE_SUPPLY_HI]) << 64
    return int(state[STATE_COMMITTED]), int(state[STATE_LIVE]), supply


def name_totals(files: Files, path: Path, control: Control, state: np.ndarray) -> None:
    """Let the control block name totals as of the newest commit; the log is durable through it.

    **Durability**: durable when this returns.
    """
    control.totals_lsn, control.live, control.supply = totals(state)
    control.write(files, path)


def set_control(control: Control, begun: Begun) -> None:
    """Let the control block, in memory only, name a checkpoint whose blocks are durable or in a journal."""
    control.checkpoint_lsn = begun.lsn
    if control.totals_lsn <= begun.lsn:
        control.totals_lsn, control.live, control.supply = begun.lsn, begun.live, begun.supply
    control.table["used"] = begun.used
    control.table["index_sum"] = begun.index_sums
    for name, touched in zip(STAMPS, begun.touched, strict=True):
        control.table[name][touched] = begun.lsn
    if begun.mark is not None:
        control.log_segment_first, control.log_digest = begun.mark.first_segment, begun.mark.digest


def take_checkpoint(files: Files, path: Path, control: Control, shards: Shards, log: Log | None) -> int:
    """Take a whole checkpoint while no frame is under way.

    Parameters
    ----------
    files, path, control, shards
        Of the ledger.
    log : Log or None
        None in the modes without one. Totals as of its newest frame are durable, see `name_totals`.

    Returns
    -------
    int
        The LSN up to which the image holds everything.

    Notes
    -----
    **Durability**: durable when this returns. **Complexity**: O(dirty blocks), twice without a log.
    """
    if log is not None:
        log.sync()
    image_counts = control.checkpoint_lsn > 0
    begun = begin(control, shards, log)
    control.totals_lsn = 0  # nothing is under way: the totals are those of the beginning
    set_control(control, begun)
    journal = log is None and shards.way != "shared" and image_counts
    if journal:
        write_journal(files, path, control, shards, begun.dirty)
    shards.image.write_stamps(begun.touched, begun.lsn)
    if shards.way == "shared":
        shards.sync_mapped()
    else:
        shards.write_dirty(begun.dirty)
    control.write(files, path)
    if log is not None and begun.mark is not None:
        log.recycle(begun.mark)
    if journal:
        files.unlink(path / JOURNAL_NAME)
        files.sync_directory(path)
    return begun.lsn


class Checkpointer:
    """Takes the checkpoints of a ledger with a log, most of them in a thread of its own while writers go on.

    Thread-safety: any thread may call; one checkpoint at a time.

    Parameters
    ----------
    files, path, control, shards, log
        Of the ledger.
    gate : Lock
        Held while a frame is applied, and while one is published.
    options : Options
        When to take one.
    log_bytes : int
        Bytes of frames after the last checkpoint that opening has found.
    """

    def __init__(
        self,
        files: Files,
        path: Path,
        control: Control,
        shards: Shards,
        log: Log,
        gate: threading.Lock,
        options: Options,
        log_bytes: int,
    ) -> None:
        self._files, self._path = files, path
        self._control, self._shards, self._log = control, shards, log
        self._gate = gate
        assert shards.view is not None
        self._state = shards.view.state
        self._interval_s = options.checkpoint_interval_s
        self.trigger_bytes, self.limit_bytes = log_limits(options, control.redo_bytes_per_s)
        self.taken = self.bytes_written = 0
        self.running = False
        self._kept_from = -log_bytes  # value of `log.bytes_written` at the last checkpoint that is whole
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._asked = False
        self._hurry = False
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._buffer = np.empty(0, np.uint8)
        self._pause: Callable[[Callable[[], Any]], Any]
        self._check: Callable[[], None]
        self._fail: Callable[[BaseException], None]

    def attach(
        self,
        pause: Callable[[Callable[[], Any]], Any],
        check: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        """Say how to call between two frames, how to learn that the writer has stopped, and how to stop it."""
        self._pause, self._check, self._fail = pause, check, fail
        if self._interval_s is not None:
            self._start_thread()

    @property
    def log_bytes(self) -> int:
        """Bytes of frames that an opening would have to redo now."""
        return self._log.bytes_written - self._kept_from

    # ------------------------------------------------------------ the committer's side
    def notice(self) -> None:
        """Ask for a checkpoint if the log has grown enough; costs a comparison."""
        if not self._asked and self.log_bytes >= self.trigger_bytes:
            self._asked = True
            self._start_thread()
            self._wake.set()

    @property
    def is_behind(self) -> bool:
        """Whether the log is as long as recovery may take, so that writers have to wait."""
        return self.limit_bytes is not None and self.log_bytes >= self.limit_bytes

    def make_room(self, has_room: Callable[[], bool], serve: Callable[[], None]) -> None:
        """Wait for the checkpoint under way, take one here and now if that gives no room; no frame is under way.

        Parameters
        ----------
        has_room
            Tells whether the next frame fits.
        serve
            Makes the calls that a checkpoint under way has asked for with `pause`.
        """
        self._hurry = True
        try:
            while not self._lock.acquire(timeout=SETTLE_WAIT_S):
                serve()
            try:
                if not has_room():
                    self._take_still()
            finally:
                self._lock.release()
        finally:
            self._hurry = False

    # ------------------------------------------------------------ taking one
    def take(self, *, paced: bool = False) -> int:
        """Take a checkpoint while writers go on; return the LSN up to which the image holds everything.

        Parameters
        ----------
        paced : bool
            Write little at a time and rest between, so that writers keep most of the disk and of the processor.

        Raises
        ------
        FailStopError
            A write or a sync failed; the writer has stopped.
        """
        with self._lock:
            self.running = True
            try:
                self._pause(self._log.prepare)
                self._log.wait_prepared()
                begun = self._pause(lambda: begin(self._control, self._shards, self._log))
                self._write(begun, paced)
                self._end(begun)
                return begun.lsn
            except ClosedError:
                raise  # before it began
            except BaseException as error:
                self._fail(error)
                raise
            finally:
                self.running = False

    def take_still(self) -> int:
        """Take a checkpoint while no frame is under way and none comes, as at close."""
        with self._lock:
            return self._take_still()

    def _take_still(self) -> int:
        if self._log.sync() > max(self._log.known_lsn, self._control.totals_lsn):
            name_totals(self._files, self._path, self._control, self._state)
        lsn = take_checkpoint(self._files, self._path, self._control, self._shards, self._log)
        self._kept_from = self._log.bytes_written
        self._asked = False
        self.taken += 1
        return lsn

    def _write(self, begun: Begun, paced: bool) -> None:
        """Write the blocks of the map in place, whatever state they have come to."""
        if not len(self._buffer):
            self._buffer = np.frombuffer(mmap.mmap(-1, PIECE_BYTES), np.uint8)
        image, stamped = self._shards.image, False
        for runs in self._shards.pieces(begun.dirty, PIECE_BYTES):
            self._shards.copy_runs(runs, self._buffer)
            self._settle()
            if not stamped:
                image.write_stamps(begun.touched, begun.lsn)
                stamped = True
            gently = paced and not (self._hurry or self._stopped)
            for group in groups(runs, *(GENTLY if gently else (PIECE_BYTES, PIECE_BYTES))):
                start = time.perf_counter()
                image.write_group(group, self._buffer)
                if gently and not (self._hurry or self._stopped):
                    time.sleep(min(REST_MAX_S, REST * (time.perf_counter() - start)))
            self.bytes_written += sum(run[3] for run in runs) * BLOCK_BYTES
        self._settle()
        for which in (RECORDS, INDEX):
            image.sync((shard, which) for shard in np.flatnonzero(begun.touched[which]).tolist())

    def _settle(self) -> None:
        """Wait until the log, and totals as of what was applied so far, are durable."""
        log, control = self._log, self._control
        newest = log.lsn  # a frame is submitted before it is applied, so no block holds a later one
        asked = 0
        while True:
            self._check()
            durable = log.sync()
            if durable >= newest and max(log.known_lsn, control.totals_lsn) >= newest:
                return
            asked += 1
            if durable >= newest and (log.lsn == newest or asked > 16) and self._note_totals(newest):
                return
            time.sleep(SETTLE_WAIT_S)

    def _note_totals(self, newest: int) -> bool:
        """Write totals to the control block, if `newest` is published; writers may rest for ever after it."""
        with self._gate:
            state = self._state.copy()
        if totals(state)[0] < newest:
            return False
        name_totals(self._files, self._path, self._control, state)
        return True

    def _end(self, begun: Begun) -> None:
        """Let the control block name the checkpoint, then give log segments back."""
        set_control(self._control, begun)
        self._control.write(self._files, self._path)
        assert begun.mark is not None
        self._log.recycle(begun.mark)
        self._kept_from = begun.log_bytes
        self._asked = False
        self.taken += 1

    # ------------------------------------------------------------ the thread
    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ledger-checkpointer", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        """Take a checkpoint when asked, and at each interval in which something was committed."""
        while True:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            self._asked = False
            if self._stopped:
                return
            if int(self._state[STATE_COMMITTED]) != self._control.checkpoint_lsn:
                try:
                    self.take(paced=True)
                except BaseException:
                    return  # the writer has been stopped, and says why

    def stop(self) -> None:
        """End the thread; a checkpoint under way is completed first."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


def log_limits(options: Options, redo_bytes_per_s: int) -> tuple[int, int | None]:
    """Return the bytes of log that ask for a checkpoint, and those at which writers wait for it.

    With `recovery_target_s` the log is kept as short as an opening can redo in that time: half of it asks for a
    checkpoint, so that there is time to take one.
    """
    trigger = options.checkpoint_log_bytes or options.log_bytes_max // 2
    if options.recovery_target_s is None:
        return trigger, None
    limit = max(LIMIT_BYTES_MIN, int(options.recovery_target_s * (redo_bytes_per_s or REDO_BYTES_PER_S)))
    return min(trigger, limit // 2), limit
