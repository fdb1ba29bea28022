"""One frame of the log in memory: the buffer it is built in, its header, and the checks after a read.

Layout of a frame, at a 4 KiB boundary of a segment::

    FRAME_HEADER (256 bytes) | rows x ACCOUNT (64) | deletes x key (32) | zeros to a whole block

Invariants: a header is sealed by its own checksum and holds the checksum of the payload and the digest of the
header before it, so that a frame vouches for all frames before it.
"""

from __future__ import annotations

import mmap
import struct
from collections import deque, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from blake3 import blake3

from ledger.kernels.intrinsics import checksum_words, crc32c_words
from ledger.layout import (
    ACCOUNT,
    ACCOUNT_WORDS,
    BLOCK_BYTES,
    FORMAT_VERSION,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    FRAME_ROWS,
    FRAME_ROWS_MAX,
    HUGE_BYTES,
    KEY_BYTES,
    MAGIC_FRAME,
    round_up,
)
from ledger.storage.headers import is_sealed

DIGEST_BYTES: Final = 16
ROW_BYTES: Final = ACCOUNT.itemsize
_HEADER_WORDS: Final = FRAME_HEADER_BYTES // 8
_POOLED_BYTES_MAX: Final = 64 * 1024 * 1024
_POOLED_BUFFERS: Final = 4
_LOW: Final = (1 << 64) - 1


def _struct_of(dtype: np.dtype) -> struct.Struct:
    """Return the struct of a header: packing with it is ten times as fast as setting fields one by one."""
    codes = {"<u8": "Q", "<u4": "I"}
    kinds = [dtype[name] for name in dtype.names or ()]
    return struct.Struct("<" + "".join(codes.get(kind.str, f"{kind.itemsize}s") for kind in kinds))


_HEADER_STRUCT: Final = _struct_of(FRAME_HEADER)
assert _HEADER_STRUCT.size == FRAME_HEADER_BYTES


class Header(namedtuple("_Fields", FRAME_HEADER.names or ())):
    """The fields of a FRAME_HEADER as plain integers and bytes, by attribute or like a record by name."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if isinstance(key, str) else super().__getitem__(key)

    @property
    def supply(self) -> int:
        """The sum of all live balances as of `known_lsn`."""
        return self.supply_hi << 64 | self.supply_lo


def payload_bytes(rows: int, deletes: int) -> int:
    """Return the bytes of a payload."""
    return rows * ROW_BYTES + deletes * KEY_BYTES


def frame_bytes(rows: int, deletes: int) -> int:
    """Return the bytes of a frame: whole blocks, header included."""
    return round_up(FRAME_HEADER_BYTES + payload_bytes(rows, deletes), BLOCK_BYTES)


def header_digest(header: bytes) -> bytes:
    """Return what the next frame's `previous_digest` holds: the first half of BLAKE3 of the header."""
    return blake3(header).digest(length=DIGEST_BYTES)


class FrameBuffer:
    """Page-aligned memory in which a frame is built and from which it is written.

    Parameters
    ----------
    rows, deletes
        What it must have room for.

    Attributes
    ----------
    bytes : uint8[size]
        All of it; the header first.
    words : uint64[size / 8]
        The same memory.
    """

    def __init__(self, rows: int, deletes: int) -> None:
        size = frame_bytes(rows, deletes)
        if size >= HUGE_BYTES:
            size = round_up(size, HUGE_BYTES)
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if size >= HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)  # a write then pins a handful of pages instead of hundreds
        self.bytes = np.frombuffer(memory, np.uint8)
        self.words = self.bytes.view(np.uint64)
        self._crc = self.bytes[FRAME_HEADER_BYTES - 4 : FRAME_HEADER_BYTES].view(np.uint32)

    def rows_view(self, rows: int) -> np.ndarray:
        """Return the place of the rows, uint64[rows, 8]; ``.view(ACCOUNT)`` names the fields."""
        return self.words[_HEADER_WORDS : _HEADER_WORDS + rows * ACCOUNT_WORDS].reshape(rows, ACCOUNT_WORDS)

    def keys_view(self, deletes: int, rows: int) -> np.ndarray:
        """Return the place of the keys of deletes, uint8[deletes, 32], behind `rows` rows."""
        at = FRAME_HEADER_BYTES + rows * ROW_BYTES
        return self.bytes[at : at + deletes * KEY_BYTES].reshape(deletes, KEY_BYTES)

    def fill_header(
        self,
        *,
        ledger_id: bytes,
        epoch: int,
        lsn: int,
        rows: int,
        deletes: int,
        batches: int,
        durable_lsn: int,
        known_lsn: int,
        live: int,
        supply: int,
        wall_time_ns: int,
        previous_digest: bytes,
    ) -> tuple[np.ndarray, bytes]:
        """Write the header and the padding; return the frame's bytes and the digest of the header."""
        size, payload = frame_bytes(rows, deletes), payload_bytes(rows, deletes)
        frame = self.bytes[:size]
        frame[FRAME_HEADER_BYTES + payload :] = 0
        checksum = checksum_words(self.words, _HEADER_WORDS, _HEADER_WORDS + payload // 8)
        fields = (
            MAGIC_FRAME, FORMAT_VERSION, FRAME_ROWS, ledger_id, epoch, lsn, durable_lsn, known_lsn,
            supply & _LOW, supply >> 64, live, rows, deletes, batches, FRAME_HEADER_BYTES, payload, size,
            0, wall_time_ns, previous_digest, int(checksum), b"", b"", 0,
        )  # fmt: skip
        _HEADER_STRUCT.pack_into(frame, 0, *fields)
        self._crc[0] = crc32c_words(self.words, 0, _HEADER_WORDS, 0)
        return frame, header_digest(frame[:FRAME_HEADER_BYTES].tobytes())


class BufferPool:
    """Frame buffers that wait for their next use; any thread may take and give back."""

    def __init__(self) -> None:
        self._idle: deque[FrameBuffer] = deque(maxlen=_POOLED_BUFFERS)

    def take(self, rows: int, deletes: int) -> FrameBuffer:
        """Return a buffer with room for so much; its contents are anything."""
        size = frame_bytes(rows, deletes)
        try:
            buffer = self._idle.popleft()
        except IndexError:
            return FrameBuffer(rows, deletes)
        return buffer if buffer.bytes.nbytes >= size else FrameBuffer(rows, deletes)

    def give_back(self, buffer: FrameBuffer) -> None:
        """Keep a buffer whose write and apply have ended; a very large one is let go."""
        if buffer.bytes.nbytes <= _POOLED_BYTES_MAX:
            self._idle.append(buffer)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as read back.

    `rows` (ACCOUNT[n]) and `deletes` (uint8[n, 32]) are views of the reader's memory, good until it goes on.
    """

    lsn: int
    epoch: int
    header: Header
    rows: np.ndarray
    deletes: np.ndarray
    path: Path
    offset: int
    digest: bytes


def read_header(raw: bytes, ledger_id: bytes) -> Header | None:
    """Return the frame header in 256 bytes if it is sound and of this ledger, of whatever version."""
    header = Header._make(_HEADER_STRUCT.unpack(raw))
    if header.magic != MAGIC_FRAME or header.ledger_id != ledger_id or not is_sealed(raw):
        return None
    return header


def lengths_agree(header: Header) -> bool:
    """Tell whether the sizes in a header follow from its counts, which are within their limits."""
    return (
        header.kind == FRAME_ROWS
        and header.rows + header.deletes <= FRAME_ROWS_MAX
        and header.payload_offset == FRAME_HEADER_BYTES
        and header.payload_bytes == payload_bytes(header.rows, header.deletes)
        and header.frame_bytes == frame_bytes(header.rows, header.deletes)
    )


def payload_agrees(header: Header, frame: np.ndarray) -> bool:
    """Tell whether the payload of a frame (uint8[frame_bytes], aligned) has the checksum of its header."""
    stop = (FRAME_HEADER_BYTES + header.payload_bytes) // 8
    return int(checksum_words(frame.view(np.uint64), _HEADER_WORDS, stop)) == header.payload_checksum
