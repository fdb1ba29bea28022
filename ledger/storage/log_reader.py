"""Read the log back: frame after frame, and where it ends.

Invariants:

- reading writes nothing;
- a frame follows the one before it if it is sound, its LSN is the next one, its epoch is not older, and it
  holds the digest of the header before it. Everything else is left from an earlier use of the segment;
- where no frame follows, the rest is the torn tail, unless any sound header further on, of an epoch not
  older, says that a frame from here on was durable: then a promised frame is lost, which is an error;
- a read error is an error, never the end of the log.

A power cut in mode "async" may leave frames n+1, n+2 and n+5: the tail is cut after n+2.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from ledger.errors import CorruptLogError
from ledger.layout import ACCOUNT, BLOCK_BYTES, FORMAT_VERSION, FRAME_HEADER_BYTES, KEY_BYTES, MAGIC_FRAME, round_up
from ledger.storage.files import Files, segment_name
from ledger.storage.frames import (
    DIGEST_BYTES,
    ROW_BYTES,
    Frame,
    header_digest,
    lengths_agree,
    payload_agrees,
    read_header,
)
from ledger.storage.headers import unsupported
from ledger.storage.segments import check_segment, list_segments

WINDOW_BYTES: Final = 4 * 1024 * 1024
_BLOCK_WORDS: Final = BLOCK_BYTES // 8


class SegmentReader:
    """A segment seen through a window of memory that moves forward; close it after use."""

    def __init__(self, files: Files, folder: Path, sequence: int, ledger_id: bytes) -> None:
        self.sequence = sequence
        self.path = folder / segment_name(sequence)
        self._files = files
        self._fd = files.open(self.path, os.O_RDONLY)
        try:
            self.size = files.size(self._fd)
            self.header = check_segment(files.pread(self._fd, BLOCK_BYTES, 0), ledger_id, sequence, self.path)
        except BaseException:
            self.close()
            raise
        self._window = np.empty(0, np.uint8)
        self._start = self._stop = 0

    def read(self, offset: int, size: int) -> np.ndarray:
        """Return uint8[size] at a 4 KiB boundary, less at the end of the file; good until the next call."""
        size = max(0, min(size, self.size - offset))
        if size == 0:
            return self._window[:0]
        if not self._start <= offset <= offset + size <= self._stop:
            wanted = min(max(size, WINDOW_BYTES), self.size - offset)
            if self._window.nbytes < wanted:
                self._window = np.frombuffer(mmap.mmap(-1, round_up(wanted, BLOCK_BYTES)), np.uint8)
            count = self._files.pread_into(self._fd, self._window[:wanted], offset)
            self._start, self._stop = offset, offset + count
            size = min(size, count)
        at = offset - self._start
        return self._window[at : at + size]

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1


class LogScan:
    """All frames after a checkpoint, in the order of their LSN; iterate once.

    Parameters
    ----------
    files, folder
        Where the segments are.
    ledger_id
        16 bytes; frames of other ledgers do not count.
    lsn, digest, first_segment
        `checkpoint_lsn`, `log_digest` and `log_segment_first` of the control block.
    salvage
        Take a hole in what was durable for the end, instead of raising; `hole` then tells where.

    Attributes
    ----------
    lsn, digest, epoch
        Of the newest frame that was accepted so far.
    sequence, offset
        Where the next frame goes: a segment and a place in it.
    durable_lsn
        The greatest LSN that a header names as durable.
    frames, rows, bytes_read
        What was accepted.
    torn_frames
        Headers of later frames behind the end: of frames that were being written, and were never promised.
    unsure
        ``(sequence, offset, frame_bytes, lsn)`` of accepted frames that no header names as durable.
    hole
        The error that `salvage` held back, or None.

    Raises
    ------
    CorruptLogError
        While iterating: a frame that was durable is damaged or missing; `path` and `offset` say where.
    UnsupportedVersionError, WrongLedgerError
        A segment or frame is newer, or a segment belongs elsewhere.
    """

    def __init__(
        self,
        files: Files,
        folder: Path,
        *,
        ledger_id: bytes,
        lsn: int,
        digest: bytes,
        first_segment: int,
        salvage: bool = False,
    ) -> None:
        assert len(digest) == DIGEST_BYTES
        self.files, self.folder, self.ledger_id = files, folder, ledger_id
        self.lsn, self.digest, self.epoch = lsn, digest, 0
        self.first_segment = self.sequence = first_segment
        self.offset = BLOCK_BYTES
        self.durable_lsn = lsn
        self.frames = self.rows = self.bytes_read = self.torn_frames = 0
        self.unsure: deque[tuple[int, int, int, int]] = deque()
        self.salvage = salvage
        self.hole: CorruptLogError | None = None

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; the views in one are good until the next is asked for."""
        numbers = [n for n in list_segments(self.files, self.folder) if n >= self.first_segment]
        if not numbers or numbers[0] != self.first_segment:
            path = self.folder / segment_name(self.first_segment)
            raise CorruptLogError(f"{path} is missing", path=path, offset=0)
        for sequence in numbers:
            reader = SegmentReader(self.files, self.folder, sequence, self.ledger_id)
            try:
                yield from self._frames_in(reader)
            finally:
                reader.close()
        self._look_behind(numbers)

    def _frames_in(self, reader: SegmentReader) -> Iterator[Frame]:
        """Yield the frames that follow in one segment."""
        offset = BLOCK_BYTES
        while (frame := self._next(reader, offset)) is not None:
            if reader.header is None:
                raise CorruptLogError(f"{reader.path}: the header is damaged", path=reader.path, offset=0)
            size = frame.header.frame_bytes
            self.lsn, self.digest, self.epoch = frame.lsn, frame.digest, frame.epoch
            self.durable_lsn = max(self.durable_lsn, frame.header.durable_lsn)
            while self.unsure and self.unsure[0][3] <= self.durable_lsn:
                self.unsure.popleft()
            self.unsure.append((reader.sequence, offset, size, frame.lsn))
            self.frames += 1
            self.rows += len(frame.rows) + len(frame.deletes)
            self.bytes_read += size
            offset += size
            self.sequence, self.offset = reader.sequence, offset
            yield frame

    def _next(self, reader: SegmentReader, offset: int) -> Frame | None:
        """Return the frame at a place if it follows the newest accepted one."""
        block = reader.read(offset, BLOCK_BYTES)
        if block.nbytes < BLOCK_BYTES:
            return None
        raw = block[:FRAME_HEADER_BYTES].tobytes()
        header = read_header(raw, self.ledger_id)
        if header is None or header.lsn != self.lsn + 1 or header.epoch < self.epoch:
            return None
        if header.version != FORMAT_VERSION:
            raise unsupported(header.version, reader.path, offset)
        if header.previous_digest != self.digest or not lengths_agree(header):
            return None
        size = header.frame_bytes
        if offset + size > reader.size:
            return None
        frame = reader.read(offset, size)
        if frame.nbytes < size or not payload_agrees(header, frame):
            return None
        rows_stop = FRAME_HEADER_BYTES + header.rows * ROW_BYTES
        deletes = header.deletes
        return Frame(
            lsn=header.lsn,
            epoch=header.epoch,
            header=header,
            rows=frame[FRAME_HEADER_BYTES:rows_stop].view(ACCOUNT),
            deletes=frame[rows_stop : rows_stop + deletes * KEY_BYTES].reshape(deletes, KEY_BYTES),
            path=reader.path,
            offset=offset,
            digest=header_digest(raw),
        )

    # ------------------------------------------------------------ the end
    def _look_behind(self, numbers: list[int]) -> None:
        """Look for a promise behind the end of the chain; raise if a frame that was durable is lost."""
        for sequence in numbers:
            if sequence < self.sequence:
                continue
            start = self.offset if sequence == self.sequence else BLOCK_BYTES
            reader = SegmentReader(self.files, self.folder, sequence, self.ledger_id)
            try:
                promised = self._greatest_promise(reader, start)
            finally:
                reader.close()
            self.durable_lsn = max(self.durable_lsn, promised)
        if self.durable_lsn <= self.lsn:
            return
        path = self.folder / segment_name(self.sequence)
        error = CorruptLogError(
            f"{path}: frame {self.lsn + 1} is damaged or missing at byte {self.offset}, "
            f"but was durable: frames to {self.durable_lsn} were",
            path=path,
            offset=self.offset,
            lsn=self.lsn + 1,
            durable_lsn=self.durable_lsn,
        )
        if not self.salvage:
            raise error
        self.hole = error

    def _greatest_promise(self, reader: SegmentReader, start: int) -> int:
        """Return the greatest durable LSN that a sound header from `start` on names, 0 for none."""
        greatest = 0
        for at in range(start, reader.size - BLOCK_BYTES + 1, WINDOW_BYTES):
            size = min(WINDOW_BYTES, (reader.size - at) // BLOCK_BYTES * BLOCK_BYTES)
            piece = reader.read(at, size)
            piece = piece[: piece.nbytes // BLOCK_BYTES * BLOCK_BYTES]
            words = piece.view(np.uint64)[::_BLOCK_WORDS]
            for block in np.flatnonzero(words == np.uint64(MAGIC_FRAME)):
                offset = int(block) * BLOCK_BYTES
                header = read_header(piece[offset : offset + FRAME_HEADER_BYTES].tobytes(), self.ledger_id)
                if header is None or header.epoch < self.epoch:
                    continue
                if header.version != FORMAT_VERSION:
                    if header.lsn > self.lsn:
                        raise unsupported(header.version, reader.path, at + offset)
                    continue
                greatest = max(greatest, header.durable_lsn)
                self.torn_frames += header.lsn > self.lsn
        return greatest
