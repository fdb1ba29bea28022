"""From what is on disk to a ledger that is ready: control block -> image -> journal or redo -> ready.

Invariants:

1. a clean close is believed only if the control block and the marker agree; then nothing is replayed;
2. entries of later frames are taken out of the index and its sum is compared before redo trusts it; it is made
   anew from the records if that differs;
3. redo applies the frames after the checkpoint in order, by the kernels that applied them first;
4. the totals are those that the log or the control block name for a frame, and what later frames changed: a
   record of the image may be ahead of redo, so that what a frame changes in it cannot be told;
5. nothing on disk changes before the accepted end of the log is durable again;
6. a killed recovery leaves what it began with.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ledger.engine.apply import NO_DELETES, Applier
from ledger.engine.checkpoint import totals
from ledger.engine.passes import Passes, Progress
from ledger.engine.readahead import Readahead
from ledger.engine.salvage import bury, rename_lost
from ledger.errors import CorruptLogError, CorruptRecordError, SalvageNeededError
from ledger.kernels.batch_write import publish
from ledger.layout import (
    SHARD_CHECKED,
    SHARD_WORDS,
    STATE_APPLIED,
    STATE_APPLIED_LIVE,
    STATE_APPLIED_SUPPLY_HI,
    STATE_COMMITTED,
    STATE_EPOCH,
    STATE_LIVE,
    STATE_READ_GATES,
    STATE_READ_RETRIES,
    STATE_SUPPLY_HI,
    STATE_SUPPLY_LO,
    STATE_TAINTED,
)
from ledger.stats import RecoveryReport
from ledger.storage.control import Control
from ledger.storage.files import STATE_NAME, Files, boot_id, read_clean
from ledger.storage.log import Log
from ledger.storage.log_reader import LogScan
from ledger.storage.shard import Shards

EVERYTHING = (1 << 63) - 1
COUNTS_KEPT = 8
REDO_BYTES_TIMED = 4 * 1024 * 1024  # of log, which give the rate: what comes later meets blocks that were touched
EIGHT_BYTES = 1 << 64


def was_closed_cleanly(files: Files, path: Path, control: Control) -> bool:
    """Tell whether the clean marker and the control block agree."""
    marker = read_clean(files, path)
    return (
        control.clean
        and marker is not None
        and bytes(marker["ledger_id"]) == control.ledger_id
        and int(marker["sequence"]) == control.sequence
        and int(marker["epoch"]) == control.epoch
        and int(marker["lsn"]) == control.checkpoint_lsn
        and int(marker["image_bytes"]) == control.image_bytes
    )


def recover(
    control: Control,
    shards: Shards,
    applier: Applier,
    passes: Passes,
    scan: LogScan | None,
    report: RecoveryReport,
    *,
    salvage: bool,
    progress: Progress | None,
) -> None:
    """Bring the opened view from the image to the newest acknowledged state.

    Parameters
    ----------
    control
        As read from disk, the journal taken in.
    scan : LogScan or None
        The log after the checkpoint; None when the last writer had none.
    report
        Filled in.

    Raises
    ------
    SalvageNeededError
        Power was lost under a mode that promises nothing for it, and `salvage` is False.
    CorruptLogError
        A frame that was durable is lost, or the replay came to other totals than the log, or to none that are named.
    CorruptRecordError
        Mapped files hold what no kill leaves.
    """
    view = shards.view
    assert view is not None
    report.checkpoint_lsn = control.checkpoint_lsn
    if not report.clean and control.was_mapped:
        with report.phase("roll back"):
            _recover_mapped(control, shards, passes, report, salvage, progress)
        report.lsn = int(view.state[STATE_COMMITTED])
        return
    start_state(control, shards, control.checkpoint_lsn)
    if report.clean:
        for shard in sorted(shards.image.broken_indexes):
            with report.phase("check index"):
                passes.check_index(shard, progress)
            report.indexes_rebuilt.append(shard)
    else:
        readahead = Readahead(shards, applier)
        with report.phase("check index"):
            readahead.index()
            report.indexes_rebuilt += passes.check_all(progress)
        if scan is not None:
            with report.phase("redo"):
                _redo(view.state, control, applier, readahead, scan, report, progress)
        if scan is not None and (scan.hole is not None or view.state[STATE_TAINTED]):
            if not salvage:
                raise CorruptLogError(
                    f"{scan.folder}: the image is ahead of all totals that are named, so what was synced is lost",
                    path=scan.folder, offset=0,
                )  # fmt: skip
            with report.phase("roll back"):
                _cut_at_hole(shards, passes, report, progress)
    report.lsn = int(view.state[STATE_COMMITTED])


def start_state(control: Control, shards: Shards, lsn: int) -> None:
    """Set the shared state of the view to that of the image.

    It may be a mapped file: no word passes through another value, so that a kill here loses nothing.
    """
    assert shards.view is not None
    state = shards.view.state
    state[STATE_COMMITTED] = state[STATE_APPLIED] = lsn
    state[STATE_TAINTED] = state[STATE_READ_RETRIES] = state[STATE_READ_GATES] = 0
    state[STATE_LIVE] = control.live
    state[STATE_SUPPLY_LO] = control.supply & 0xFFFFFFFFFFFFFFFF
    state[STATE_SUPPLY_HI] = control.supply >> 64
    copy_totals(state)
    state[STATE_EPOCH] = control.epoch


def copy_totals(state: np.ndarray) -> None:
    """Take the totals as of the committed LSN for those of the newest applied frame, which is the same one."""
    state[STATE_APPLIED_LIVE : STATE_APPLIED_SUPPLY_HI + 1] = state[STATE_LIVE : STATE_SUPPLY_HI + 1]


class TotalsOfRedo:
    """Live accounts and supply during redo: what redo has counted, put right by the totals that others name.

    What redo counts for a frame is right unless it is tainted: the image was ahead in a record that it touches. As
    no block reaches the image before totals of a frame as new are durable, the newest that are named make up for
    all that went before.
    """

    def __init__(self, state: np.ndarray, control: Control) -> None:
        self._state = state
        self._control = control
        self._counted = {control.checkpoint_lsn: self._count()}
        self._tainted_lsn = -1
        self._named_lsn = -1
        self._offset = (0, 0)
        self.take(control.checkpoint_lsn)

    def _count(self) -> tuple[int, int]:
        state = self._state
        return int(state[STATE_LIVE]), int(state[STATE_SUPPLY_LO]) | int(state[STATE_SUPPLY_HI]) << 64

    def take(self, lsn: int) -> None:
        """Take what redo has counted up to frame `lsn`, which is published."""
        state = self._state
        if state[STATE_TAINTED]:
            self._tainted_lsn = lsn
            state[STATE_TAINTED] = 0
        self._counted[lsn] = self._count()
        self._counted.pop(lsn - COUNTS_KEPT, None)
        control = self._control
        if lsn == control.totals_lsn:
            self.name(lsn, control.live, control.supply)

    def name(self, lsn: int, live: int, supply: int) -> bool:
        """Learn the totals as of `lsn`; False if those that redo came to must be right, and are others."""
        counted = self._counted.get(lsn)
        if counted is None or lsn < self._named_lsn:
            return True
        offset = (live - counted[0]) % EIGHT_BYTES, (supply - counted[1]) % EIGHT_BYTES**2
        if self._named_lsn >= 0 and self._tainted_lsn <= self._named_lsn and offset != self._offset:
            return False
        self._named_lsn, self._offset = lsn, offset
        return True

    def settle(self) -> None:
        """Put the totals into the state; it stays tainted where they cannot be told."""
        state = self._state
        live, supply = self._count()
        live = (live + self._offset[0]) % EIGHT_BYTES
        supply = (supply + self._offset[1]) % EIGHT_BYTES**2
        state[STATE_LIVE], state[STATE_SUPPLY_LO], state[STATE_SUPPLY_HI] = live, supply % EIGHT_BYTES, supply >> 64
        copy_totals(state)
        state[STATE_TAINTED] = self._named_lsn < 0 or self._tainted_lsn > self._named_lsn


def _redo(
    state: np.ndarray,
    control: Control,
    applier: Applier,
    readahead: Readahead,
    scan: LogScan,
    report: RecoveryReport,
    progress: Progress | None,
) -> None:
    """Apply the frames of the log, checking the totals that later frames name for earlier ones."""
    counts = TotalsOfRedo(state, control)
    start = time.perf_counter()
    for frame in scan:
        rows = frame.rows.view("u8").reshape(-1, 8)
        deletes = frame.deletes.view("u8").reshape(-1, 4)
        header = frame.header
        supply = int(header["supply_lo"]) | int(header["supply_hi"]) << 64
        if not counts.name(int(header["known_lsn"]), int(header["live"]), supply):
            raise CorruptLogError(
                f"{frame.path}: frame {frame.lsn} names other totals than the replay came to",
                path=frame.path, offset=frame.offset,
            )  # fmt: skip
        readahead.records(rows, deletes)
        applier.apply(rows, deletes, frame.lsn, redo=True)
        publish(state, frame.lsn)
        counts.take(frame.lsn)
        if not report.redo_bytes_per_s and scan.bytes_read >= REDO_BYTES_TIMED:
            report.redo_bytes_per_s = int(scan.bytes_read / (time.perf_counter() - start))
        if progress is not None and scan.frames % 16 == 0:
            progress("redo", scan.frames, 0)
    counts.settle()
    report.frames, report.rows, report.bytes_read = scan.frames, scan.rows, scan.bytes_read
    report.torn_frames, report.blocks_fetched = scan.torn_frames, readahead.blocks


def _cut_at_hole(shards: Shards, passes: Passes, report: RecoveryReport, progress: Progress | None) -> None:
    """Drop what a checkpoint put into the image of frames that a salvaged log has lost, and count."""
    assert shards.view is not None
    committed = int(shards.view.state[STATE_COMMITTED])
    report.cells_undone, report.cells_broken, _ = passes.roll_back(committed)
    report.salvaged = report.recounted = True
    lost = rename_lost(shards, passes.applier)
    for shard in range(shards.count):
        passes.rebuild(shard, progress)
        report.indexes_rebuilt.append(shard)
    passes.recount()
    bury(passes.applier, lost, committed)


def _recover_mapped(
    control: Control,
    shards: Shards,
    passes: Passes,
    report: RecoveryReport,
    salvage: bool,
    progress: Progress | None,
) -> None:
    """Undo the batch in flight in files that the kernel wrote back; after a loss of power keep what is whole."""
    assert shards.view is not None
    state = shards.view.state
    # A kill between the two may leave the mapped state one epoch ahead of the control block.
    ours = int(state[STATE_EPOCH]) in (control.epoch, control.epoch + 1)
    mapped = int(state[STATE_COMMITTED]) if ours else None
    power_lost = control.boot_id != boot_id() or mapped is None
    if power_lost and not salvage:
        raise SalvageNeededError(
            f'power was lost under durability "{control.durability}" with storage "shared", which promises nothing then'
        )
    must_hold = not power_lost and not salvage
    if must_hold:
        passes.check_killed(mapped)
    undone, broken, greatest = passes.roll_back(EVERYTHING if mapped is None or power_lost else mapped)
    report.cells_undone, report.cells_broken, report.salvaged = undone, broken, power_lost
    committed = max(greatest, control.checkpoint_lsn) if mapped is None else max(mapped, greatest)
    state[STATE_COMMITTED] = committed
    lost = rename_lost(shards, passes.applier) if salvage else NO_DELETES
    for shard in range(shards.count):
        passes.rebuild(shard, progress)
        shards.view.shards[shard * SHARD_WORDS + SHARD_CHECKED] = 1
        report.indexes_rebuilt.append(shard)
    counted = passes.totals()
    _, live, supply = totals(state)
    # While a batch was being published, the state's totals may be its own, or mixed.
    at_rest = must_hold and state[STATE_APPLIED] == state[STATE_COMMITTED]
    if at_rest and (counted.live, counted.supply) != (live, supply):
        raise CorruptRecordError(
            f"{shards.path}: its records hold {counted.live} live accounts with a supply of {counted.supply}, "
            f"{STATE_NAME} counted {live} with {supply}",
            path=shards.path / STATE_NAME, offset=0,
        )  # fmt: skip
    passes.set_totals(counted)
    bury(passes.applier, lost, committed)
    state[STATE_APPLIED] = committed  # last: until then the totals of a killed recovery may be mixed
    report.recounted = True


def log_scan(files: Files, folder: Path, control: Control, *, salvage: bool) -> LogScan:
    """Return the frames of the log after the control block's checkpoint."""
    return Log.scan(
        files, folder, ledger_id=control.ledger_id, lsn=control.checkpoint_lsn, digest=control.log_digest,
        first_segment=control.log_segment_first, salvage=salvage,
    )  # fmt: skip
