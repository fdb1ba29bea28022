"""Every byte of a record and of the files, and the word numbers that kernels share.

Invariants, asserted at import:

- a record is 128 bytes, two cache lines; 32 records fill one 4 KiB block exactly;
- a cell is 48 bytes; both cells end inside their record;
- an API record is 64 bytes, eight words;
- each header is as long as its dtype and a multiple of eight bytes, its checksum is its last word.

All integers are little-endian. FORMAT.md draws the same bytes; a test holds the two equal.
"""

from __future__ import annotations

import sys
from typing import Final

import numpy as np

if sys.byteorder != "little":
    raise ImportError("the ledger's files and kernels need a little-endian machine")

FORMAT_VERSION: Final = 2
BLOCK_BYTES: Final = 4096
HUGE_BYTES: Final = 2 * 1024 * 1024

# ---------------------------------------------------------------- API record
ACCOUNT: Final = np.dtype(
    [("pubkey", "u1", (32,)), ("balance", "<u8"), ("nonce", "<u8"), ("staked", "<u8"), ("last_modified", "<u8")]
)
ACCOUNT_WORDS: Final = 8
KEY_BYTES: Final = 32
KEY_WORDS: Final = 4

# ---------------------------------------------------------------- stored record
CELL: Final = np.dtype(
    [
        ("balance", "<u8"),
        ("nonce", "<u8"),
        ("staked", "<u8"),
        ("last_modified", "<u8"),
        ("lsn", "<u8"),
        ("crc", "<u4"),
        ("flags", "<u4"),
    ]
)
RECORD: Final = np.dtype([("pubkey", "u1", (32,)), ("a", CELL), ("b", CELL)])
RECORD_BYTES: Final = 128
RECORD_WORDS: Final = 16
RECORDS_PER_BLOCK: Final = BLOCK_BYTES // RECORD_BYTES
CELL_A: Final = 4  # first word of cell A in a record
CELL_B: Final = 10
CELL_LSN: Final = 4  # word of a cell
CELL_SEAL: Final = 5  # crc32c in the low half, flags in the high half

# flags: bit 0 live, bits 1..31 the number of the row in its frame. The row number lets two threads
# that meet one key in one frame agree that the later row wins, and says afterwards which row wrote.
FLAG_LIVE: Final = 1
FLAG_ROW_SHIFT: Final = 1
FRAME_ROWS_MAX: Final = 1 << 24

# lsn words: bit 63 marks a cell that is being written; 0 is a cell never written.
LSN_BUSY: Final = 1 << 63

# ---------------------------------------------------------------- index
# One word a position: fingerprint in the high half, slot + 1 in the low half, 0 empty.
INDEX_SLOT_MASK: Final = 0xFFFFFFFF
SLOTS_PER_SHARD_MAX: Final = 0xFFFFFFF0
SHARDS_MAX: Final = 4096

# ---------------------------------------------------------------- shard descriptors: uint64[shards, 8]
SHARD_INDEX_BASE: Final = 0  # first position of the shard in the index array
SHARD_POSITIONS: Final = 1
SHARD_RECORD_BASE: Final = 2  # first slot of the shard, in records from the start of the record array
SHARD_SLOTS: Final = 3  # slots that fit
SHARD_USED: Final = 4  # slots given out so far; an index word that names a later slot is of the future
SHARD_SEED: Final = 5  # crc32c state over ledger id, shard and generation
SHARD_CHECKED: Final = 6  # 1 when the index sum has been compared since open
SHARD_SUM: Final = 7  # sum over the entries of the index
SHARD_WORDS: Final = 8

# ---------------------------------------------------------------- shared state of a ledger: uint64[64]
STATE_COMMITTED: Final = 0  # greatest LSN that readers may see
STATE_LIVE: Final = 1  # live accounts as of the committed LSN
STATE_SUPPLY_LO: Final = 2  # sum of all live balances, 128 bits, as of the committed LSN
STATE_SUPPLY_HI: Final = 3
STATE_APPLIED: Final = 4  # newest LSN whose apply has ended
STATE_TAINTED: Final = 5  # redo met cells of its own future: live and supply must be recounted
STATE_READ_RETRIES: Final = 6
STATE_READ_GATES: Final = 7
STATE_APPLIED_LIVE: Final = 9  # the same three totals as of the newest applied frame
STATE_APPLIED_SUPPLY_LO: Final = 10
STATE_APPLIED_SUPPLY_HI: Final = 11
STATE_EPOCH: Final = 8  # of the writer, in the mapped state of storage "shared"
STATE_WORDS: Final = 64

# ---------------------------------------------------------------- statuses of kernels (negative)
STATUS_ABSENT: Final = -1
STATUS_RETRY: Final = -2  # a reader was overtaken
STATUS_UNCHECKED: Final = -3  # the shard's index sum must be compared first
STATUS_CORRUPT: Final = -4
STATUS_FULL: Final = -5
STATUS_CLOSED: Final = -6

PROBE_BUCKETS: Final = 256  # probe distances 0..254 and "255 or more"

# ---------------------------------------------------------------- file headers
MAGIC_CONTROL: Final = int.from_bytes(b"GLCONTR1", "little")
MAGIC_SHARD: Final = int.from_bytes(b"GLSHARD1", "little")
MAGIC_INDEX: Final = int.from_bytes(b"GLINDEX1", "little")
MAGIC_SEGMENT: Final = int.from_bytes(b"GLSEGMT1", "little")
MAGIC_FRAME: Final = int.from_bytes(b"GLFRAME1", "little")
MAGIC_JOURNAL: Final = int.from_bytes(b"GLJOURN1", "little")
MAGIC_CLEAN: Final = int.from_bytes(b"GLCLEAN1", "little")

HASH_BLAKE3: Final = b"blake3"

# control.bin: two copies, each CONTROL followed by shards x CONTROL_SHARD, rounded up to whole blocks.
# The second copy starts at CONTROL_COPY_BYTES, whatever the number of shards.
CONTROL_COPY_BYTES: Final = 256 * 1024
CONTROL: Final = np.dtype(
    [
        ("magic", "<u8"),
        ("version", "<u4"),
        ("record_bytes", "<u4"),
        ("ledger_id", "u1", (16,)),
        ("sequence", "<u8"),  # the copy with the greater valid sequence counts
        ("epoch", "<u8"),  # one more at each opening for writing
        ("checkpoint_lsn", "<u8"),  # the image holds every frame up to here
        ("supply_lo", "<u8"),
        ("supply_hi", "<u8"),
        ("live", "<u8"),
        ("shards", "<u4"),
        ("durability", "<u4"),  # position in options.DURABILITIES of the last writer
        ("capacity", "<u8"),
        ("index_load", "<f8"),
        ("hash_key", "u1", (32,)),
        ("hash_name", "S24"),
        ("clean", "<u4"),  # 1 after a clean close
        ("storage", "<u4"),  # position in options.STORAGES of the last writer
        ("log_segment_bytes", "<u8"),
        ("log_segment_first", "<u8"),  # sequence number of the segment that holds the frame after the checkpoint
        ("log_digest", "u1", (16,)),  # digest of the header of frame checkpoint_lsn: the chain's start
        ("boot_id", "u1", (16,)),  # of the kernel under which the last writer ran
        ("created_ns", "<u8"),
        ("written_ns", "<u8"),
        ("totals_lsn", "<u8"),  # supply and live are as of this LSN, not below checkpoint_lsn
        ("redo_bytes_per_s", "<u8"),  # first 4 MiB of log that a recovery redid, a second; 0 where none did
        ("spare", "u1", (208,)),
        ("table_crc", "<u4"),  # crc32c of the shard table
        ("crc", "<u4"),  # crc32c of all bytes before
    ]
)
CONTROL_SHARD: Final = np.dtype(
    [
        ("generation", "<u4"),
        ("index_sum", "<u4"),  # over the index entries as of checkpoint_lsn, see kernels/index.py
        ("slots", "<u8"),
        ("positions", "<u8"),
        ("used", "<u8"),
        ("record_stamp", "<u8"),  # stamps of the two files that belong to this block, see FILE_HEADER
        ("index_stamp", "<u8"),
    ]
)
# First block of shard_NNN.bin and of index_NNN.bin; records or words start at byte 4096.
FILE_HEADER: Final = np.dtype(
    [
        ("magic", "<u8"),
        ("version", "<u4"),
        ("shard", "<u4"),
        ("ledger_id", "u1", (16,)),
        ("generation", "<u4"),
        ("item_bytes", "<u4"),
        ("items", "<u8"),
        ("stamp", "<u8"),  # checkpoint_lsn of the last checkpoint that changed the file: an older copy has a lower one
        ("spare", "u1", (4,)),
        ("crc", "<u4"),
    ]
)
# First block of a log segment.
SEGMENT_HEADER: Final = np.dtype(
    [
        ("magic", "<u8"),
        ("version", "<u4"),
        ("spare0", "<u4"),
        ("ledger_id", "u1", (16,)),
        ("sequence", "<u8"),
        ("segment_bytes", "<u8"),
        ("spare", "u1", (12,)),
        ("crc", "<u4"),
    ]
)
FRAME_HEADER_BYTES: Final = 256
FRAME_HEADER: Final = np.dtype(
    [
        ("magic", "<u8"),
        ("version", "<u4"),
        ("kind", "<u4"),  # 1: rows and deletes
        ("ledger_id", "u1", (16,)),
        ("epoch", "<u8"),
        ("lsn", "<u8"),
        ("durable_lsn", "<u8"),  # known durable when this header was made
        ("known_lsn", "<u8"),  # live and supply below are as of this LSN
        ("supply_lo", "<u8"),
        ("supply_hi", "<u8"),
        ("live", "<u8"),
        ("rows", "<u4"),
        ("deletes", "<u4"),
        ("batches", "<u4"),
        ("payload_offset", "<u4"),
        ("payload_bytes", "<u8"),
        ("frame_bytes", "<u8"),  # whole blocks, header included
        ("generation", "<u8"),
        ("wall_time_ns", "<u8"),
        ("previous_digest", "u1", (16,)),  # first half of BLAKE3 of the previous frame's header
        ("payload_checksum", "<u8"),
        ("nonce_tag", "u1", (32,)),  # kept for encryption
        ("spare", "u1", (60,)),
        ("crc", "<u4"),
    ]
)
FRAME_ROWS: Final = 1

# journal.bin: a header, then the (file, block) table, then the blocks themselves.
JOURNAL_HEADER: Final = np.dtype(
    [
        ("magic", "<u8"),
        ("version", "<u4"),
        ("spare0", "<u4"),
        ("ledger_id", "u1", (16,)),
        ("from_sequence", "<u8"),  # control sequence that it replaces
        ("lsn", "<u8"),
        ("blocks", "<u8"),
        ("table_crc", "<u4"),
        ("control_bytes", "<u4"),  # the control copy to write after the blocks
        ("spare", "u1", (60,)),
        ("crc", "<u4"),
    ]
)
JOURNAL_ENTRY: Final = np.dtype([("shard", "<u4"), ("file", "<u4"), ("block", "<u8"), ("checksum", "<u8")])
CLEAN: Final = np.dtype(
    [
        ("magic", "<u8"),
        ("ledger_id", "u1", (16,)),
        ("epoch", "<u8"),
        ("lsn", "<u8"),
        ("sequence", "<u8"),
        ("image_bytes", "<u8"),
        ("spare", "u1", (4,)),
        ("crc", "<u4"),
    ]
)

assert ACCOUNT.itemsize == ACCOUNT_WORDS * 8
assert RECORD.itemsize == RECORD_BYTES == RECORD_WORDS * 8 and CELL.itemsize == 48
assert RECORDS_PER_BLOCK * RECORD_BYTES == BLOCK_BYTES
assert RECORD.fields is not None and RECORD.fields["a"][1] == CELL_A * 8 and RECORD.fields["b"][1] == CELL_B * 8
assert CELL.fields is not None and CELL.fields["lsn"][1] == CELL_LSN * 8 and CELL.fields["crc"][1] == CELL_SEAL * 8
for _dtype in (CONTROL, FILE_HEADER, SEGMENT_HEADER, FRAME_HEADER, JOURNAL_HEADER, CLEAN):
    assert _dtype.fields is not None
    assert _dtype.itemsize % 8 == 0 and _dtype.itemsize <= BLOCK_BYTES, _dtype
    assert _dtype.fields["crc"][1] == _dtype.itemsize - 4
assert FRAME_HEADER.itemsize == FRAME_HEADER_BYTES
assert CONTROL.itemsize + SHARDS_MAX * CONTROL_SHARD.itemsize <= CONTROL_COPY_BYTES
assert FRAME_ROWS_MAX << FLAG_ROW_SHIFT < 1 << 32


def round_up(size: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is not less than `size`."""
    return -(-size // unit) * unit
