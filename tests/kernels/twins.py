"""Naive Python twins of the kernels, and the small shards that both work on."""

from __future__ import annotations

import blake3
import numpy as np

from ledger.layout import (
    CELL_A,
    CELL_B,
    RECORD,
    RECORD_WORDS,
    SHARD_CHECKED,
    SHARD_INDEX_BASE,
    SHARD_POSITIONS,
    SHARD_RECORD_BASE,
    SHARD_SEED,
    SHARD_SLOTS,
    SHARD_WORDS,
    STATE_COMMITTED,
    STATE_LIVE,
    STATE_SUPPLY_HI,
    STATE_SUPPLY_LO,
    STATE_TAINTED,
    STATE_WORDS,
)

HASH_KEY = bytes(range(32))
U64 = 1 << 64


def hash_words(key: bytes) -> tuple[int, int, int]:
    """Return the three words that choose shard, home and fingerprint."""
    words = np.frombuffer(blake3.blake3(key, key=HASH_KEY).digest()[:12], "<u4")
    return int(words[0]), int(words[1]), int(words[2])


def crc32c_words(words: list[int], start: int) -> int:
    """Return the crc32c register after 64-bit words, bit by bit; no inversion at either end."""
    crc = start & 0xFFFFFFFF
    for word in words:
        for byte in word.to_bytes(8, "little"):
            crc ^= byte
            for _ in range(8):
                crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


class Ledger:
    """Shards in memory, as the kernels take them, each followed by a guard that must stay as it is.

    Parameters
    ----------
    shards, slots, positions
        Geometry; all shards alike.
    """

    def __init__(self, shards: int = 4, slots: int = 64, positions: int = 96) -> None:
        self.count, self.slots, self.positions = shards, slots, positions
        self.index = np.zeros(shards * 512, np.uint64)
        self.records = np.zeros(shards * (slots + 32) // 32 * 32 * RECORD_WORDS, np.uint64)
        self.shards = np.zeros(shards * SHARD_WORDS, np.uint64)
        self.dirty = np.zeros(len(self.records) // 512 + 1, np.uint8)
        self.index_dirty = np.zeros(shards, np.uint8)
        self.state = np.zeros(STATE_WORDS, np.uint64)
        self.key = np.frombuffer(HASH_KEY, np.uint32).copy()
        for shard in range(shards):
            at = shard * SHARD_WORDS
            self.shards[at + SHARD_INDEX_BASE] = shard * 512
            self.shards[at + SHARD_POSITIONS] = positions
            self.shards[at + SHARD_RECORD_BASE] = shard * slots
            self.shards[at + SHARD_SLOTS] = slots
            self.shards[at + SHARD_SEED] = 1000 + shard
            self.shards[at + SHARD_CHECKED] = 1

    @property
    def view(self):
        """The arrays that batch kernels take."""
        return self.index, self.records, self.shards, self.dirty

    def copy(self) -> Ledger:
        """Return an equal ledger."""
        other = Ledger(self.count, self.slots, self.positions)
        for name in ("index", "records", "shards", "dirty", "index_dirty", "state"):
            getattr(other, name)[:] = getattr(self, name)
        return other

    def bytes(self) -> tuple[bytes, bytes, bytes]:
        """Return records, index and descriptors."""
        return self.records.tobytes(), self.index.tobytes(), self.shards.tobytes()

    def record(self, shard: int, slot: int) -> np.ndarray:
        """Return one record (layout.RECORD[1]) over live memory."""
        first = (shard * self.slots + slot) * RECORD_WORDS
        return self.records[first : first + RECORD_WORDS].view(RECORD)

    def totals(self) -> tuple[int, int, int]:
        """Return live accounts, supply and committed LSN as the state keeps them."""
        words = [int(word) for word in self.state]
        return words[STATE_LIVE], words[STATE_SUPPLY_LO] | words[STATE_SUPPLY_HI] << 64, words[STATE_COMMITTED]

    @property
    def tainted(self) -> bool:
        """Whether redo met what it did not expect."""
        return bool(self.state[STATE_TAINTED])


def seal(seed: int, slot: int, key: bytes, fields: tuple[int, int, int, int], lsn: int, flags: int) -> tuple[int, int]:
    """Return crc and flags of a cell."""
    words = [int.from_bytes(key[at : at + 8], "little") for at in (0, 8, 16, 24)]
    state = crc32c_words(words, seed ^ slot)
    crc = crc32c_words([*fields, lsn >> 32 | flags << 32, state], lsn)
    return crc, flags


CELLS = (CELL_A, CELL_B)
