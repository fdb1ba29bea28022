"""What is fuzzed: each target takes any bytes for a file, and holds the parser to what it promises.

A parser returns a value or raises a `LedgerError`; it asks for no more memory than the files that it reads could
need; and what it accepts is encoded again to the same bytes, but for fields that are kept for later. Half of the
changed inputs are sealed again, so that what lies behind a checksum is reached too.
"""

from __future__ import annotations

import errno
import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ledger.errors import LedgerError
from ledger.layout import (
    ACCOUNT_WORDS,
    BLOCK_BYTES,
    CLEAN,
    CONTROL,
    CONTROL_COPY_BYTES,
    CONTROL_SHARD,
    FILE_HEADER,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    JOURNAL_ENTRY,
    JOURNAL_HEADER,
    MAGIC_CLEAN,
    MAGIC_FRAME,
    MAGIC_JOURNAL,
    SEGMENT_HEADER,
    SLOTS_PER_SHARD_MAX,
    round_up,
)
from ledger.storage import frames
from ledger.storage.control import Control
from ledger.storage.files import CLEAN_NAME, CONTROL_NAME, JOURNAL_NAME, Files, read_clean, segment_name
from ledger.storage.headers import check_file_header, crc32c, encode_file_header, new_header, seal
from ledger.storage.journal import replay_journal
from ledger.storage.log_reader import LogScan
from ledger.storage.segments import segment_header

FOLDER = Path("book")
LEDGER_ID = bytes(range(16))
SEGMENT_BYTES = 5 * BLOCK_BYTES
SPARE_BYTES = 1 << 20  # what a reader may ask for beyond the size of the file
EDGES = (0, 1, 2, 63, 64, 255, 256, 4095, 4096, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1)


class MemoryFiles(Files):
    """Files that are bytes, to be read only."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self._contents = {FOLDER / name: data for name, data in contents.items()}
        self._open: list[bytes] = []

    def open(self, path, flags, mode=0o640):
        if path not in self._contents:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        self._open.append(self._contents[path])
        return len(self._open) - 1

    def close(self, fd):
        pass

    def size(self, fd):
        return len(self._open[fd])

    def listdir(self, path):
        return sorted(name.name for name in self._contents if name.parent == path)

    def pread(self, fd, size, offset):
        assert size <= self.size(fd) + SPARE_BYTES, f"{size} bytes of a file of {self.size(fd)}"
        return super().pread(fd, size, offset)

    def pread_into(self, fd, buffer, offset):
        view = memoryview(buffer).cast("B")
        piece = self._open[fd][offset : offset + len(view)]
        view[: len(piece)] = piece
        return len(piece)


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes
    ----------
    name : str
    parse : bytes to bool
        Whether anything in an input was accepted; raises a `LedgerError`, or anything else if the parser is wrong.
    headers : bytearray to (offset, dtype)
        Where an input may have headers, for changes of single fields.
    reseal : bytearray to None
        Makes all checksums of an input right.
    seeds : function to list of bytes
        Inputs that are accepted.
    """

    name: str
    parse: Callable[[bytes], bool]
    headers: Callable[[bytearray], Iterator[tuple[int, np.dtype]]]
    reseal: Callable[[bytearray], None]
    seeds: Callable[[], list[bytes]]

    def run(self, data: bytes) -> bool:
        """Parse an input; False if it is refused, by an error with a name or by what says that nothing is there."""
        try:
            return self.parse(data)
        except LedgerError as error:
            assert str(error)
            return False

    def mutate(self, data: bytes, choose: random.Random, change: Callable[[bytes], bytes] | None = None) -> bytes:
        """Change an input by `change`, or one field of one of its headers; half the time seal it again."""
        raw = bytearray(data)
        places = [place for place in self.headers(raw) if place[0] + place[1].itemsize <= len(raw)]
        if places and (change is None or choose.random() < 0.5):
            offset, dtype = choose.choice(places)
            set_field(raw, offset, dtype, choose)
        elif change is not None:
            raw = bytearray(change(data))
        if choose.random() < 0.5:
            self.reseal(raw)
        return bytes(raw)


def set_field(raw: bytearray, offset: int, dtype: np.dtype, choose: random.Random) -> None:
    """Set a field to a value at an edge, near the old one, or to anything."""
    kind, at = dtype.fields[choose.choice(dtype.names)][:2]
    place, bits = slice(offset + at, offset + at + kind.itemsize), 8 * kind.itemsize
    old = int.from_bytes(raw[place], "little")
    value = choose.choice((choose.choice(EDGES), old + choose.choice((-1, 1)), choose.getrandbits(bits)))
    raw[place] = (value % (1 << bits)).to_bytes(kind.itemsize, "little")


def seal_at(raw: bytearray, offset: int, dtype: np.dtype, **fields: object) -> bytes:
    """Set fields of a header in place and seal it; nothing happens where it does not fit."""
    piece = raw[offset : offset + dtype.itemsize]
    if len(piece) < dtype.itemsize:
        return bytes(piece)
    header = np.frombuffer(piece, dtype).copy()
    for name, value in fields.items():
        header[name] = value
    raw[offset : offset + dtype.itemsize] = sealed = seal(header)
    return sealed


def field_of(raw: bytearray, offset: int, dtype: np.dtype, name: str) -> int:
    """Return an integer field of a header, 0 where the input is too short."""
    kind, at = dtype.fields[name][:2]
    return int.from_bytes(raw[offset + at : offset + at + kind.itemsize], "little")


def pad(raw: bytes) -> bytes:
    """Return bytes in whole blocks."""
    return raw.ljust(round_up(len(raw), BLOCK_BYTES), b"\0")


# ---------------------------------------------------------------- the log: segments one after the other
def parse_log(data: bytes) -> bool:
    """Scan a log, once as an opening does it and once as a salvage."""
    pieces = [data[at : at + SEGMENT_BYTES] for at in range(0, len(data), SEGMENT_BYTES)]
    files = MemoryFiles({segment_name(1 + number): piece for number, piece in enumerate(pieces)})
    error = None
    for salvage in (True, False):
        start = {"ledger_id": LEDGER_ID, "lsn": 0, "digest": bytes(16), "first_segment": 1}
        scan = LogScan(files, FOLDER, **start, salvage=salvage)
        try:
            for number, frame in enumerate(scan, 1):
                assert number == frame.lsn == scan.lsn
                if salvage:
                    check_frame(frame, data[(scan.sequence - 1) * SEGMENT_BYTES + frame.offset :])
        except LedgerError as caught:
            error = error or caught
        else:
            assert scan.hole is not None or scan.durable_lsn <= scan.lsn
            assert scan.offset <= SEGMENT_BYTES and scan.frames == scan.lsn
    if error is not None:
        raise error
    return scan.frames > 0


def check_frame(frame: frames.Frame, found: bytes) -> None:
    """Encode a frame again; fields that are kept for later are as they were."""
    header, rows, deletes = frame.header, len(frame.rows), len(frame.deletes)
    buffer = frames.FrameBuffer(rows, deletes)
    buffer.rows_view(rows)[:] = np.frombuffer(frame.rows.tobytes(), np.uint64).reshape(rows, ACCOUNT_WORDS)
    buffer.keys_view(deletes, rows)[:] = frame.deletes
    names = ("epoch", "lsn", "batches", "durable_lsn", "known_lsn", "live", "wall_time_ns", "previous_digest")
    fields = {name: getattr(header, name) for name in names}
    made, _ = buffer.fill_header(ledger_id=LEDGER_ID, rows=rows, deletes=deletes, supply=header.supply, **fields)
    raw = bytearray(made[: FRAME_HEADER_BYTES + header.payload_bytes].tobytes())
    kept = {name: np.frombuffer(getattr(header, name), np.uint8) for name in ("nonce_tag", "spare")}
    seal_at(raw, 0, FRAME_HEADER, generation=header.generation, **kept)
    assert raw == found[: len(raw)]


def log_headers(raw: bytearray) -> Iterator[tuple[int, np.dtype]]:
    """Yield where segments and frames may begin."""
    for at in range(0, len(raw), BLOCK_BYTES):
        yield at, FRAME_HEADER if at % SEGMENT_BYTES else SEGMENT_HEADER


def reseal_log(raw: bytearray) -> None:
    """Seal segments and frames, and chain the frames."""
    digest = bytes(16)
    for at, dtype in log_headers(raw):
        if dtype == SEGMENT_HEADER:
            seal_at(raw, at, dtype)
        elif field_of(raw, at, FRAME_HEADER, "magic") == MAGIC_FRAME and at + FRAME_HEADER_BYTES <= len(raw):
            start = at + FRAME_HEADER_BYTES
            payload = raw[start : start + min(field_of(raw, at, FRAME_HEADER, "payload_bytes"), len(raw))]
            words = np.frombuffer(payload.ljust(round_up(len(payload), 8), b"\0"), np.uint64)
            checksum = frames.checksum_words(words, 0, len(payload) // 8)
            sealed = seal_at(
                raw, at, FRAME_HEADER, payload_checksum=checksum, previous_digest=np.frombuffer(digest, np.uint8)
            )
            digest = frames.header_digest(sealed)


def log_seeds() -> list[bytes]:
    """Return logs of one and two segments: frames of one and two blocks, rows and deletes."""
    raw, digest, lsn = bytearray(), bytes(16), 0
    logs = []
    for sequence, sizes in enumerate((((1, 0), (0, 1), (61, 2)), ((3, 2), (60, 0))), 1):
        segment = segment_header(LEDGER_ID, sequence, SEGMENT_BYTES)
        for rows, deletes in sizes:
            lsn += 1
            buffer = frames.FrameBuffer(rows, deletes)
            buffer.rows_view(rows)[:] = lsn
            buffer.keys_view(deletes, rows)[:] = lsn
            frame, digest = buffer.fill_header(
                ledger_id=LEDGER_ID, epoch=sequence, lsn=lsn, rows=rows, deletes=deletes, batches=1,
                durable_lsn=lsn - 1, known_lsn=lsn - 1, live=lsn, supply=1 << 64, wall_time_ns=lsn,
                previous_digest=digest,
            )  # fmt: skip
            segment += frame.tobytes()
        raw += segment.ljust(SEGMENT_BYTES, b"\0")
        logs.append(bytes(raw))
    return logs


# ---------------------------------------------------------------- the control block: two copies, halves of the input
def parse_control(data: bytes) -> bool:
    """Read the two copies, and use what counts as an opening does."""
    half = round_up(len(data) // 2, BLOCK_BYTES)
    files = MemoryFiles({CONTROL_NAME: data[:half].ljust(CONTROL_COPY_BYTES, b"\0") + data[half:]})
    control = Control.read(files, FOLDER)
    check_control(control, (data[:half], data[half:])[control._copy])
    return True


def check_control(control: Control, found: bytes) -> None:
    """Encode a control block again, and hold its numbers to what kernels take for granted."""
    raw = bytearray(control.encode()[: CONTROL.itemsize + control.table.nbytes])
    spare = np.frombuffer(found[: CONTROL.itemsize], CONTROL)["spare"][0]
    seal_at(raw, 0, CONTROL, spare=spare)
    assert raw == found[: len(raw)].ljust(len(raw), b"\0")  # as the file is
    assert control.shards & (control.shards - 1) == 0
    for shard in range(control.shards):
        assert control.used(shard) <= control.slots(shard) < control.positions(shard)
        assert control.slots(shard) <= SLOTS_PER_SHARD_MAX
        assert [control.stamp(shard, which) for which in (0, 1)] == [
            check_file_header(control.file_header(shard, which), control.file_header(shard, which), which, FOLDER)
            for which in (0, 1)
        ]
        control.seed(shard)
    assert control.image_bytes < 1 << 63


def control_headers(raw: bytearray) -> Iterator[tuple[int, np.dtype]]:
    """Yield where the copies and their tables are."""
    for at in (0, round_up(len(raw) // 2, BLOCK_BYTES)):
        yield at, CONTROL
        shards = min(field_of(raw, at, CONTROL, "shards"), 8)
        yield from ((at + CONTROL.itemsize + shard * CONTROL_SHARD.itemsize, CONTROL_SHARD) for shard in range(shards))


def reseal_control(raw: bytearray) -> None:
    """Seal both copies."""
    for at in (0, round_up(len(raw) // 2, BLOCK_BYTES)):
        reseal_copy(raw, at)


def reseal_copy(raw: bytearray, at: int) -> None:
    """Seal one copy with its table."""
    table = raw[at + CONTROL.itemsize :][: field_of(raw, at, CONTROL, "shards") * CONTROL_SHARD.itemsize]
    seal_at(raw, at, CONTROL, table_crc=crc32c(table[: len(table) // 8 * 8]))


def small_control(shards: int = 2) -> Control:
    """Return a control block of a small ledger."""
    table = np.zeros(shards, CONTROL_SHARD)
    table["slots"], table["positions"], table["used"] = 60, 80, 3
    return Control(
        ledger_id=LEDGER_ID, table=table, capacity=96, index_load=0.75, hash_key=bytes(32), sequence=1, epoch=1
    )


def control_seeds() -> list[bytes]:
    """Return ledgers of one shard and of two, and one that was written again."""
    newer = small_control()
    newer.sequence, newer.supply, newer.clean, newer.hash_name = 2, 1 << 100, True, "é"
    return [small_control(n).encode() * 2 for n in (1, 2)] + [small_control().encode() + newer.encode()]


# ---------------------------------------------------------------- the image: file headers, clean marker, journal
# The first byte says what an input is.
RECORDS, INDEX, MARKER, JOURNAL = range(4)


def parse_image(data: bytes) -> bool:
    """Read what a small ledger has beside its log."""
    which, data = (data[0] % 4, data[1:]) if data else (RECORDS, b"")
    if which in (RECORDS, INDEX):
        items = (60, 80)[which]
        expected = encode_file_header(LEDGER_ID, 1, 0, which, items, 7)
        stamp = check_file_header(data, expected, which, FOLDER)
        assert encode_file_header(LEDGER_ID, 1, 0, which, items, stamp)[: FILE_HEADER.itemsize] == data[:64]
        return True
    if which == MARKER:
        marker = read_clean(MemoryFiles({CLEAN_NAME: data}), FOLDER)
        if marker is not None:
            header = new_header(CLEAN, MAGIC_CLEAN, marker["ledger_id"].tobytes())
            for name in CLEAN.names:
                header[name] = marker[name]
            assert seal(header) == data
        return marker is not None
    control, blocks = small_control(), {}

    def write(shard: int, file: int, block: int, piece: bytes) -> None:
        assert shard < control.shards and file in (0, 1) and len(piece) == BLOCK_BYTES
        assert (block + 1) * BLOCK_BYTES <= control.file_bytes(shard, file)
        assert data.count(piece)
        blocks[shard, file, block] = piece

    after = replay_journal(MemoryFiles({JOURNAL_NAME: data}), FOLDER, control, write)
    if after is not None:
        check_control(after, data[BLOCK_BYTES:])
        assert after.ledger_id == control.ledger_id
        control.table[:] = after.table
    return after is not None


def image_headers(raw: bytearray) -> Iterator[tuple[int, np.dtype]]:
    """Yield where headers, and what a journal holds, are."""
    which = raw[0] % 4 if raw else RECORDS
    yield 1, {MARKER: CLEAN, JOURNAL: JOURNAL_HEADER}.get(which, FILE_HEADER)
    if which == JOURNAL:
        yield 1 + BLOCK_BYTES, CONTROL
        shards = min(field_of(raw, 1 + BLOCK_BYTES, CONTROL, "shards"), 4)
        for shard in range(shards):
            yield 1 + BLOCK_BYTES + CONTROL.itemsize + shard * CONTROL_SHARD.itemsize, CONTROL_SHARD
        for entry in range(min(field_of(raw, 1, JOURNAL_HEADER, "blocks"), 4)):
            yield 1 + 2 * BLOCK_BYTES + entry * JOURNAL_ENTRY.itemsize, JOURNAL_ENTRY


def reseal_image(raw: bytearray) -> None:
    """Seal whatever it is."""
    which = raw[0] % 4 if raw else RECORDS
    if which != JOURNAL:
        seal_at(raw, *next(image_headers(raw)))
        return
    start = 1 + BLOCK_BYTES
    reseal_copy(raw, start)
    start += round_up(min(field_of(raw, 1, JOURNAL_HEADER, "control_bytes"), len(raw)), BLOCK_BYTES)
    size = min(field_of(raw, 1, JOURNAL_HEADER, "blocks") * JOURNAL_ENTRY.itemsize, len(raw))
    blocks = start + round_up(size, BLOCK_BYTES)
    for number in range(size // JOURNAL_ENTRY.itemsize):
        block = raw[blocks + number * BLOCK_BYTES :][:BLOCK_BYTES]
        at = start + number * JOURNAL_ENTRY.itemsize
        if len(block) == BLOCK_BYTES and at + JOURNAL_ENTRY.itemsize <= len(raw):
            checksum = int(frames.checksum_words(np.frombuffer(block, np.uint64), 0, BLOCK_BYTES // 8))
            raw[at + 16 : at + 24] = checksum.to_bytes(8, "little")
    table = raw[start : start + size]
    seal_at(raw, 1, JOURNAL_HEADER, table_crc=crc32c(table[: len(table) // 8 * 8]))


def image_seeds() -> list[bytes]:
    """Return two file headers, a clean marker and a journal of two blocks."""
    seeds = [bytes([which]) + encode_file_header(LEDGER_ID, 1, 0, which, (60, 80)[which], 9) for which in (0, 1)]
    marker = new_header(CLEAN, MAGIC_CLEAN, LEDGER_ID)
    marker["epoch"], marker["lsn"], marker["image_bytes"] = 1, 7, 16384
    seeds.append(bytes([MARKER]) + seal(marker))
    after = small_control()
    after.checkpoint_lsn = after.totals_lsn = 7
    header = new_header(JOURNAL_HEADER, MAGIC_JOURNAL, LEDGER_ID)
    header["lsn"], header["from_sequence"], header["blocks"] = 7, 1, 2
    header["control_bytes"] = len(after.encode())
    entries = np.zeros(2, JOURNAL_ENTRY)
    entries["shard"], entries["file"], entries["block"] = (0, 1), (0, 1), (2, 0)
    parts = (pad(seal(header)), after.encode(), pad(entries.tobytes()), b"r" * BLOCK_BYTES, b"i" * BLOCK_BYTES)
    journal = bytearray(bytes([JOURNAL]) + b"".join(parts))
    reseal_image(journal)
    return [*seeds, bytes(journal)]


TARGETS = {
    target.name: target
    for target in (
        Target("log", parse_log, log_headers, reseal_log, functools.cache(log_seeds)),
        Target("control", parse_control, control_headers, reseal_control, functools.cache(control_seeds)),
        Target("image", parse_image, image_headers, reseal_image, functools.cache(image_seeds)),
    )
}
