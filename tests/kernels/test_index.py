"""The index of a shard against a naive open-addressing table."""

from __future__ import annotations

import numpy as np
import pytest

from ledger.kernels import index as kernels
from ledger.layout import (
    SHARD_POSITIONS,
    SHARD_SUM,
    SHARD_USED,
    SHARD_WORDS,
    STATUS_ABSENT,
    STATUS_CORRUPT,
    STATUS_FULL,
)
from tests.kernels.twins import Ledger, hash_words
from tests.model import make_key

NONE = int(kernels.NONE)
WORD = np.uint64
SHARD = 2


class Table:
    """A list of (fingerprint, slot) or None."""

    def __init__(self, positions):
        self.entries = [None] * positions

    def place(self, home, fingerprint, slot):
        for step in range(len(self.entries)):
            at = (home + step) % len(self.entries)
            if self.entries[at] is None:
                self.entries[at] = (fingerprint, slot)
                return at
        return NONE

    def find(self, home, fingerprint, is_key, used):
        for step in range(len(self.entries)):
            entry = self.entries[(home + step) % len(self.entries)]
            if entry is None:
                return NONE, step
            if entry[0] == fingerprint and entry[1] < used and is_key(entry[1]):
                return entry[1], step
        return NONE, len(self.entries)

    def words(self):
        return [0 if entry is None else entry[0] << 32 | entry[1] + 1 for entry in self.entries]


def keys_of(shard, count):
    """Return keys that fall to a shard of four."""
    found = []
    number = 0
    while len(found) < count:
        if hash_words(make_key(number))[0] % 4 == shard:
            found.append(make_key(number))
        number += 1
    return found


def home_of(word, positions):
    return word * positions >> 32


def enter(small, home, fingerprint, slot):
    at_shard = WORD(SHARD * SHARD_WORDS)
    return kernels.enter(small.index, small.shards, at_shard, WORD(home), WORD(fingerprint), WORD(slot))


def filled(count, positions=96, words=hash_words):
    small, table = Ledger(positions=positions), Table(positions)
    keys = keys_of(SHARD, count)
    for slot, key in enumerate(keys):
        small.record(SHARD, slot)["pubkey"][0] = np.frombuffer(key, np.uint8)
        _, home, fingerprint = words(key)
        at = enter(small, home_of(home, positions), fingerprint, slot)
        assert table.place(home_of(home, positions), fingerprint, slot) == int(at)
    small.shards[SHARD * SHARD_WORDS + SHARD_USED] = count
    return small, table, keys


def find(small, key, words=hash_words):
    _, home, fingerprint = words(key)
    four = [WORD(int.from_bytes(key[at : at + 8], "little")) for at in (0, 8, 16, 24)]
    home = home_of(home, small.positions)
    slot, distance = kernels.find_slot(
        small.index, small.records, small.shards, WORD(SHARD), WORD(home), WORD(fingerprint), *four
    )
    return int(slot), int(distance)


def few_words(key):
    """Return words that collide: three homes, two fingerprints."""
    word0, word1, word2 = hash_words(key)
    return word0, word1 % 3 << 30, word2 % 2


@pytest.mark.parametrize("words", [hash_words, few_words])
@pytest.mark.parametrize(("count", "positions"), [(0, 96), (1, 96), (50, 96), (63, 64), (64, 64)])
def test_entries_and_look_ups_equal_the_naive_table(words, count, positions):
    small, table, keys = filled(count, positions, words)
    assert table.words() == small.index[SHARD * 512 : SHARD * 512 + positions].tolist()
    assert not small.index[: SHARD * 512].any()
    assert not small.index[SHARD * 512 + positions :].any()
    for key in [*keys, *(b"%032d" % number for number in range(50))]:
        _, home, fingerprint = words(key)
        is_key = lambda slot, key=key: keys[slot] == key  # noqa: E731
        slot, distance = find(small, key, words)
        assert table.find(home_of(home, positions), fingerprint, is_key, count) == (slot, min(distance, positions))


def test_a_full_index_takes_no_entry_and_a_look_up_ends():
    small, _, _ = filled(64, 64)
    assert NONE == int(enter(small, 5, 1, 70))
    assert (NONE, 64) == find(small, b"?" * 32)


def test_entries_of_slots_not_given_out_hold_their_place_and_match_nothing():
    small, _, keys = filled(50)
    small.shards[SHARD * SHARD_WORDS + SHARD_USED] = 30
    assert [*range(30), *[NONE] * 20] == [find(small, key)[0] for key in keys]


def trim(small, used, dirty):
    return int(kernels.trim_index(small.index, WORD(SHARD * 512), WORD(small.positions), WORD(used), dirty))


def test_trimming_an_index_takes_later_entries_out_and_gives_the_sum_that_was_kept_then():
    early, _, keys = filled(30)
    late, _, _ = filled(50)
    kept = [int(small.shards[SHARD * SHARD_WORDS + SHARD_SUM]) for small in (early, late)]
    dirty = np.zeros(4, np.uint8)
    assert kept[1] == trim(late, 50, dirty)
    assert not dirty.any()
    assert kept[0] == trim(late, 30, dirty) != kept[1]
    assert early.index.tolist() == late.index.tolist()
    assert [0] * SHARD + [1] == dirty[: SHARD + 1].tolist()
    assert 1 == dirty.sum()
    for bit in (0, 5, 31, 32, 63):
        damaged = late.index.copy()
        at = int(np.flatnonzero(damaged)[7])
        damaged[at] ^= WORD(1 << bit)
        late.index, whole = damaged, late.index
        assert kept[0] != trim(late, 30, dirty), bit
        late.index = whole
    swapped = np.flatnonzero(late.index)[[3, 4]]
    late.index[swapped] = late.index[swapped[::-1]]
    assert kept[0] != trim(late, 30, dirty)
    assert keys


def rebuild(small, stop, given=None, start=0):
    given = np.zeros((3, 0), np.uint32) if given is None else given
    words = np.zeros((3, 8), np.uint32)
    return int(
        kernels.rebuild_index(
            small.index,
            small.records,
            small.shards,
            WORD(SHARD),
            WORD(start),
            WORD(stop),
            WORD(4),
            given,
            small.key,
            words,
        )
    )


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 50])
def test_a_rebuild_gives_the_same_words_in_any_pieces(count):
    small, table, _ = filled(count)
    for piece in (count or 1, 8, 3):
        small.index[SHARD * 512 : SHARD * 512 + 96] = 0
        for start in range(0, count, piece):
            assert 0 == rebuild(small, min(count, start + piece), start=start)
        assert table.words() == small.index[SHARD * 512 : SHARD * 512 + 96].tolist()


def test_a_rebuild_with_given_words_uses_them():
    small, table, keys = filled(30, 96, few_words)
    given = np.array([few_words(key) for key in keys], np.uint32).T.copy()
    small.index[:] = 0
    assert 0 == rebuild(small, 30, given)
    assert table.words() == small.index[SHARD * 512 : SHARD * 512 + 96].tolist()


def test_a_rebuild_refuses_keys_of_another_shard_and_too_many():
    small, _, _ = filled(50)
    small.record(SHARD, 20)["pubkey"][0] = np.frombuffer(keys_of(1, 1)[0], np.uint8)
    small.index[:] = 0
    assert STATUS_CORRUPT == rebuild(small, 50)
    small, _, _ = filled(64, 64)
    small.index[:] = 0
    small.shards[SHARD * SHARD_WORDS + SHARD_POSITIONS] = 60
    assert STATUS_FULL == rebuild(small, 64)


@pytest.mark.parametrize("words", [hash_words, few_words])
def test_distances_equal_those_of_the_naive_table(words):
    small, table, keys = filled(60, 64, words)
    given = (
        np.zeros((3, 0), np.uint32)
        if words is hash_words
        else np.array([words(key) for key in keys], np.uint32).T.copy()
    )
    out = np.full(64, 99, np.int32)
    scratch = np.zeros((3, 8), np.uint32)
    arguments = (WORD(SHARD), given, small.key, scratch, out)
    assert 0 == kernels.measure_distances(small.index, small.records, small.shards, *arguments)
    expected = [
        -1 if entry is None else (at - home_of(words(keys[entry[1]])[1], 64)) % 64
        for at, entry in enumerate(table.entries)
    ]
    assert expected == out.tolist()
    small.shards[SHARD * SHARD_WORDS + SHARD_USED] = 10
    assert STATUS_ABSENT == kernels.measure_distances(small.index, small.records, small.shards, *arguments)
