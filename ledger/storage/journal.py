"""The journal: an unfinished snapshot of a ledger without a log, so that a kill leaves the old image or the new one.

Invariants:

- the journal gets its name when its contents are durable; a damaged one with that name is an error;
- it holds every block that differs from the image, and the control block that goes with them;
- one that the control block has overtaken says nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ledger.errors import CorruptionError
from ledger.kernels.intrinsics import checksum_words
from ledger.layout import BLOCK_BYTES, CONTROL_COPY_BYTES, JOURNAL_ENTRY, JOURNAL_HEADER, MAGIC_JOURNAL, round_up
from ledger.storage.control import Control
from ledger.storage.files import JOURNAL_NAME, Files
from ledger.storage.headers import crc32c, decode, new_header, seal
from ledger.storage.shard import Dirty, Shards

JOURNAL_TEMPORARY = JOURNAL_NAME + ".tmp"


def write_journal(files: Files, path: Path, control: Control, shards: Shards, dirty: Dirty) -> None:
    """Write `dirty` blocks, and the control block that goes with them, to the journal.

    **Durability**: contents, then name, are durable when this returns.
    """
    runs = list(shards.dirty_runs(dirty))
    copy = control.encode()
    entries = np.zeros(sum(run[3] for run in runs), JOURNAL_ENTRY)
    at = 0
    for shard, which, first, blocks in runs:
        words = np.frombuffer(shards.block_bytes(shard, which, first, blocks), np.uint64)
        for block in range(blocks):
            checksum = checksum_words(words, block * 512, (block + 1) * 512)
            entries[at] = (shard, which, first + block, checksum)
            at += 1
    header = new_header(JOURNAL_HEADER, MAGIC_JOURNAL, control.ledger_id)
    header["from_sequence"] = control.sequence
    header["lsn"] = control.checkpoint_lsn
    header["blocks"] = len(entries)
    header["table_crc"] = crc32c(entries.tobytes())
    header["control_bytes"] = len(copy)
    target, temporary = path / JOURNAL_NAME, path / JOURNAL_TEMPORARY
    fd = files.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        files.pwrite(fd, seal(header), 0)
        files.pwrite(fd, copy, BLOCK_BYTES)
        offset = BLOCK_BYTES + round_up(len(copy), BLOCK_BYTES)
        files.pwrite(fd, entries.tobytes(), offset)
        offset += round_up(entries.nbytes, BLOCK_BYTES)
        for shard, which, first, blocks in runs:
            files.pwrite(fd, shards.block_bytes(shard, which, first, blocks), offset)
            offset += blocks * BLOCK_BYTES
        files.fdatasync(fd)
    finally:
        files.close(fd)
    files.replace(temporary, target)
    files.sync_directory(path)


def replay_journal(
    files: Files, path: Path, control: Control, write_block: Callable[[int, int, int, bytes], None]
) -> Control | None:
    """Give every block of a journal that continues `control` to `write_block`.

    Returns
    -------
    Control or None
        What the control block becomes once the blocks are durable; None when there is no journal, or one
        whose work is done.

    Raises
    ------
    CorruptionError
        The journal has its final name, so it was whole once, and is damaged now.
    """
    target = path / JOURNAL_NAME
    try:
        fd = files.open(target, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        header = decode(files.pread(fd, BLOCK_BYTES, 0), JOURNAL_HEADER, MAGIC_JOURNAL, target)
        if header is None or int(header["control_bytes"]) > CONTROL_COPY_BYTES:
            raise CorruptionError(f"{target}: damaged header", path=target, offset=0)
        if bytes(header["ledger_id"]) != control.ledger_id or int(header["lsn"]) <= control.checkpoint_lsn:
            return None
        size = int(header["control_bytes"])
        after = Control.decode(files.pread(fd, size, BLOCK_BYTES), target, BLOCK_BYTES)
        offset = BLOCK_BYTES + round_up(size, BLOCK_BYTES)
        blocks = int(header["blocks"])
        if blocks * BLOCK_BYTES > files.size(fd):
            raise CorruptionError(f"{target} is shorter than its header says", path=target, offset=0)
        raw = files.pread(fd, blocks * JOURNAL_ENTRY.itemsize, offset)
        if (
            after is None
            or not after.is_laid_out_like(control)
            or len(raw) % JOURNAL_ENTRY.itemsize
            or crc32c(raw) != int(header["table_crc"])
        ):
            raise CorruptionError(f"{target}: damaged table", path=target, offset=offset)
        offset += round_up(len(raw), BLOCK_BYTES)
        for entry in np.frombuffer(raw, JOURNAL_ENTRY):
            data = files.pread(fd, BLOCK_BYTES, offset)
            if len(data) < BLOCK_BYTES or checksum_words(np.frombuffer(data, np.uint64), 0, 512) != entry["checksum"]:
                raise CorruptionError(f"{target}: damaged block", path=target, offset=offset)
            place = int(entry["shard"]), int(entry["file"]), int(entry["block"])
            if not control.has_block(*place):
                raise CorruptionError(f"{target}: a block of no file", path=target, offset=offset)
            write_block(*place, data)
            offset += BLOCK_BYTES
        return after
    finally:
        files.close(fd)
