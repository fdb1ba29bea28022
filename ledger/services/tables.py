"""How answers look on a terminal: tables, sizes, moments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledger.pictures import size

if TYPE_CHECKING:
    from ledger.stats import LedgerStats, VerifyReport
    from ledger.storage.control import Control

_FRAME_HEADS: Final = "LSN epoch written_(UTC) batches rows deletes bytes durable segment at".split()
_FRAME_LINE: Final = "{:>10} {:>5}  {:<23} {:>8} {:>8} {:>8} {:>11} {:>10} {:>8} {:>11}"


def frame_values(frame: Any) -> dict[str, Any]:
    """Return what is told of a frame."""
    header = frame.header
    return {
        "lsn": frame.lsn,
        "epoch": frame.epoch,
        "wall_time_ns": header.wall_time_ns,
        "batches": header.batches,
        "rows": header.rows,
        "deletes": header.deletes,
        "frame_bytes": header.frame_bytes,
        "durable_lsn": header.durable_lsn,
        "segment": int(frame.path.stem),
        "offset": frame.offset,
    }


def frame_heads() -> str:
    """Return the heads of the table of frames."""
    return _FRAME_LINE.format(*(head.replace("_", " ") for head in _FRAME_HEADS))


def frame_line(frame: Any) -> str:
    """Return a frame as a line of the table."""
    values = frame_values(frame)
    values["wall_time_ns"] = moment(values["wall_time_ns"], milliseconds=True)
    return _FRAME_LINE.format(*values.values())


def stats_rows(path: Path, control: Control, found: LedgerStats) -> list[tuple[str, str]]:
    """Return the lines of `stats`."""
    recovery = found.recovery
    if recovery.clean:
        closed = "closed cleanly"
    elif recovery.frames:
        closed = f"not closed; {recovery.frames:,} frames ({recovery.rows:,} rows) were replayed from the log"
    else:
        closed = "not closed; nothing had to be replayed"
    if recovery.torn_frames:
        closed += f"; {recovery.torn_frames:,} more were cut off half written"
    fill, load = found.slot_fill, found.load_factor
    rows = [
        ("ledger", str(path)),
        ("id", control.ledger_id.hex()),
        ("created", f"{moment(control.created_ns)} UTC"),
        ("last writer", f"durability {control.durability}, storage {control.storage}, {closed}"),
        ("accounts", f"{found.live:,} live, room for {found.capacity:,}"),
        ("supply", f"{found.supply:,}"),
        ("LSN", f"{found.committed_lsn:,} committed, {found.checkpoint_lsn:,} in the image"),
        ("shards", f"{found.shards:,}, {sum(found.slots_used):,} slots given out"),
        ("fill of shards", f"{sum(fill) / len(fill):.1%} on average, {max(fill):.1%} the fullest"),
        ("load of indexes", f"{sum(load) / len(load):.1%} on average, {max(load):.1%} the fullest"),
        ("hash", control.hash_name),
        ("image", f"{size(found.image_bytes)} on disk"),
        ("memory", f"{size(found.resident_bytes)} resident, {size(found.anonymous_bytes)} of it anonymous"),
    ]
    if recovery.indexes_rebuilt:
        rows.append(("rebuilt", f"{len(recovery.indexes_rebuilt)} indexes, in memory only"))
    if recovery.journal_replayed:
        rows.append(("journal", "completes a snapshot that was cut short"))
    if recovery.cells_undone or recovery.cells_broken:
        rows.append(("rolled back", f"{recovery.cells_undone:,} cells undone, {recovery.cells_broken:,} broken"))
    if recovery.salvaged:
        rows.append(("salvaged", "power was lost; only what passes its checksums is shown"))
    return rows + [("note", note) for note in found.notes]


def verdict(report: VerifyReport | None, faults: Sequence[str]) -> str:
    """Return what `verify` says."""
    if faults:
        return "\n".join([f"{len(faults)} fault{'s' * (len(faults) > 1)}", *(f"  {fault}" for fault in faults)])
    assert report is not None
    return f"ok: {report.live:,} accounts, supply {report.supply:,}, LSN {report.lsn:,}"


def two_columns(rows: Sequence[tuple[str, str]]) -> str:
    """Lay out names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def moment(nanoseconds: int, *, milliseconds: bool = False) -> str:
    """Return nanoseconds since 1970 as date and time, UTC."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    return f"{moment}.{rest // 1_000_000:03d}" if milliseconds else moment
