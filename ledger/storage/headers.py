"""Sealed headers: the checksum, the version and the owner of every header block on disk.

Invariants:

- a header is a dtype of layout.py; its last four bytes are the CRC-32C of all its bytes, taken with these
  four zero;
- a version is believed only where the checksum holds: a newer file is told apart from a damaged one;
- what was sealed before a write is checked in the same way after the read.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from ledger.errors import CorruptionError, UnsupportedVersionError, WrongLedgerError
from ledger.kernels.intrinsics import crc32c_words
from ledger.layout import BLOCK_BYTES, FILE_HEADER, FORMAT_VERSION, MAGIC_INDEX, MAGIC_SHARD, RECORD_BYTES

CRC_BYTES: Final = 4
FILE_MAGICS: Final = (MAGIC_SHARD, MAGIC_INDEX)  # by number of the file of a shard: records, index
ITEM_BYTES: Final = (RECORD_BYTES, 8)


def crc32c(data: Any) -> int:
    """Return the CRC-32C of a buffer whose length is a multiple of eight bytes."""
    words = np.frombuffer(bytearray(data), np.uint64)
    return int(crc32c_words(words, 0, words.size, 0))


def wall_time_ns() -> int:
    """Return nanoseconds since 1970 for a header, 0 where the clock stands before; nothing but people read them."""
    return max(0, time.time_ns())


def new_header(dtype: np.dtype, magic: int, ledger_id: bytes) -> np.ndarray:
    """Return a zeroed header of one element, with what every header has."""
    header = np.zeros(1, dtype)
    header["magic"] = magic
    header["ledger_id"] = np.frombuffer(ledger_id, np.uint8)
    if "version" in (dtype.names or ()):
        header["version"] = FORMAT_VERSION
    return header


def seal(header: np.ndarray) -> bytes:
    """Write the checksum into a header of one element and return its bytes."""
    header["crc"] = 0
    header["crc"] = crc32c(header.tobytes())
    return header.tobytes()


def is_sealed(data: bytes) -> bool:
    """Tell whether the last four bytes are the checksum of the rest."""
    return crc32c(data[:-CRC_BYTES] + bytes(CRC_BYTES)) == int.from_bytes(data[-CRC_BYTES:], "little")


def decode(data: bytes, dtype: np.dtype, magic: int, path: Path, offset: int = 0) -> np.void | None:
    """Return the header at the start of `data`, or None where it is short or damaged.

    Raises
    ------
    UnsupportedVersionError
        The header is sound, and newer than this code.
    """
    raw = bytes(data[: dtype.itemsize])
    if len(raw) < dtype.itemsize:
        return None
    header = np.frombuffer(raw, dtype)[0]
    if int(header["magic"]) != magic or not is_sealed(raw):
        return None
    if "version" in (dtype.names or ()) and int(header["version"]) != FORMAT_VERSION:
        raise unsupported(int(header["version"]), path, offset)
    return header


def unsupported(found: int, path: Path, offset: int) -> UnsupportedVersionError:
    """Return the error for a sound header of another version."""
    return UnsupportedVersionError(
        f"{path}: format version {found}; this package reads {FORMAT_VERSION}",
        path=path,
        offset=offset,
        found=found,
        supported=FORMAT_VERSION,
    )


def encode_file_header(ledger_id: bytes, shard: int, generation: int, which: int, items: int, stamp: int) -> bytes:
    """Return the first block of the record file (`which` 0) or the index file (1) of a shard."""
    header = new_header(FILE_HEADER, FILE_MAGICS[which], ledger_id)
    header["shard"] = shard
    header["generation"] = generation
    header["item_bytes"] = ITEM_BYTES[which]
    header["items"] = items
    header["stamp"] = stamp
    return seal(header).ljust(BLOCK_BYTES, b"\0")


def check_file_header(block: bytes, expected: bytes, which: int, path: Path) -> int:
    """Return the stamp of a header; raise unless it is what `encode_file_header` makes for this place but for that.

    Raises
    ------
    CorruptionError
        The header fails its checksum, or its stamp is below the one expected: the file is an older copy.
    UnsupportedVersionError
        It is of a newer version.
    WrongLedgerError
        It is sound, but of another ledger, shard, generation or size.
    """
    found = decode(block, FILE_HEADER, FILE_MAGICS[which], path)
    if found is None:
        raise CorruptionError(f"{path}: the header is damaged", path=path, offset=0)
    wanted = np.frombuffer(expected[: FILE_HEADER.itemsize], FILE_HEADER)[0]
    for name in ("ledger_id", "shard", "generation", "item_bytes", "items"):
        if found[name].tobytes() != wanted[name].tobytes():
            raise WrongLedgerError(
                f"{path}: {name} is {_text(found[name])}, not {_text(wanted[name])}",
                path=path,
                offset=0,
                field=name,
            )
    if found["version"] != wanted["version"] or found["spare"].any():
        raise CorruptionError(f"{path}: the header has bytes that nobody writes", path=path, offset=0)
    stamp, least = int(found["stamp"]), int(wanted["stamp"])
    if stamp < least:
        raise CorruptionError(
            f"{path} is an older copy: it was last changed by the checkpoint of LSN {stamp}, not {least}",
            path=path, offset=0,
        )  # fmt: skip
    return stamp


def _text(value: Any) -> str:
    """Show a field of a header."""
    return value.tobytes().hex() if isinstance(value, np.ndarray) else str(value)
