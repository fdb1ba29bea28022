"""Damage to record and index files: an index is made again, a record is named."""

from __future__ import annotations

import os

import pytest

from ledger import CorruptionError, CorruptRecordError
from ledger.layout import BLOCK_BYTES, CELL_A, CELL_LSN, FILE_HEADER
from tests.damaged import make, reopen
from tests.faults import flip_bit, patch, tree
from tests.model import assert_equal, make_accounts, make_key, make_keys


def zero_contents(path):
    patch(path, BLOCK_BYTES, bytes(path.stat().st_size - BLOCK_BYTES))


INDEX_DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: os.truncate(path, 0),
    "short": lambda path: os.truncate(path, 5000),
    "only a header": lambda path: os.truncate(path, BLOCK_BYTES),
    "flipped entry": lambda path: flip_bit(path, BLOCK_BYTES + 40),
    "flipped header": lambda path: flip_bit(path, 12),
    "all zeros": zero_contents,
    "noise": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
}


@pytest.mark.parametrize("damage", INDEX_DAMAGE)
@pytest.mark.parametrize(
    "mode", [("none", "private"), ("none", "memory"), ("msync", "shared"), ("sync", "private")], ids="-".join
)
def test_an_index_that_is_lost_or_damaged_is_made_again_bit_for_bit(tmp_path, mode, damage):
    path = tmp_path / "book"
    models = make(path, mode, n=250, seeds=(1, 2))
    files = tree(path)
    for name in ("index_000.bin", "index_003.bin"):
        INDEX_DAMAGE[damage](path / name)
    told = []
    with reopen(path, mode, read_only=True) as ledger:
        faults = ledger.verify().faults
        assert [] == faults or (2, damage in ("flipped entry", "all zeros")) == (len(faults), True)
        assert_equal(models[-1], ledger)
    with reopen(path, mode, read_only=True) as ledger:
        assert all(models[-1].accounts.get(key) == ledger.get(key) for key in models[-1].slots)
    with reopen(path, mode, progress=lambda *step: told.append(step)) as ledger:
        assert ledger.get_batch(make_keys(range(250)))[1].tolist().count(True) == len(models[-1].accounts)
        assert_equal(models[-1], ledger)
    assert told or damage in ("flipped entry", "all zeros"), "a rebuild at opening says how far it is"
    after = tree(path)
    for name in ("index_000.bin", "index_003.bin"):
        assert files[name] == after[name]


def test_a_stale_index_is_made_again(tmp_path):
    path = tmp_path / "book"
    make(path, n=40)
    stale = {name: data for name, data in tree(path).items() if name.startswith("index")}
    with reopen(path) as ledger:
        ledger.update_batch(make_accounts(2, 200))
        digest = ledger.state_hash()
    right = tree(path)
    for name, data in stale.items():
        (path / name).write_bytes(data)
    for number in range(195, 200):
        with reopen(path, read_only=True) as ledger:
            assert ledger.get(make_key(number)) is not None
    with reopen(path) as ledger:
        assert ledger.get_batch(make_keys(range(200)))[1].all()
        assert digest == ledger.state_hash()
    for name in stale:
        assert right[name] == tree(path)[name]


def reads(ledger, number):
    """Yield the ways to read an account, or everything."""
    key = make_key(number)
    yield lambda: ledger.get(key)
    yield lambda: ledger.get_batch([key])[0][0]["balance"]
    yield lambda: list(ledger)
    yield ledger.state_hash


def assert_every_flip_is_seen(tmp_path, offsets, seeds=(1,)):
    """Flip a bit at each of `offsets` of record 0: every way of reading must raise, other records be there."""
    path = tmp_path / "book"
    make(path, n=20, seeds=seeds, shards=1)
    unseen = []
    for offset in offsets:
        flip_bit(path / "shard_000.bin", BLOCK_BYTES + offset, offset % 7)
        with reopen(path, read_only=True) as ledger:
            for number, read in enumerate(reads(ledger, 0)):
                try:
                    read()
                    unseen.append((offset, ("get", "get_batch", "iteration", "state_hash")[number]))
                except CorruptRecordError as error:
                    assert (0, 0, path / "shard_000.bin") == (error.shard, error.slot, error.path)
            assert ledger.get(make_key(7)) is not None
            assert not ledger.verify().ok
        flip_bit(path / "shard_000.bin", BLOCK_BYTES + offset, offset % 7)
    assert [] == unseen


def test_every_flipped_byte_of_a_cell_but_its_lsn_is_an_error_on_every_read(tmp_path):
    offsets = [CELL_A * 8 + at for at in range(48) if not CELL_LSN * 8 <= at < CELL_LSN * 8 + 8]
    assert_every_flip_is_seen(tmp_path, offsets)


def test_every_flipped_byte_of_a_key_is_an_error_on_every_read(tmp_path):
    assert_every_flip_is_seen(tmp_path, range(32))


@pytest.mark.parametrize("seeds", [(1,), (1, 2), (1, 2, 3)])
def test_every_flipped_byte_of_an_lsn_is_an_error_on_every_read(tmp_path, seeds):
    newest = CELL_A * 8 if len(seeds) % 2 else CELL_A * 8 + 48
    assert_every_flip_is_seen(tmp_path, range(newest + CELL_LSN * 8, newest + CELL_LSN * 8 + 8), seeds)


@pytest.mark.parametrize("shard", [0, 3])
@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 10])
def test_a_short_or_missing_shard_file_is_named_and_not_made_again(tmp_path, shard, size):
    path = tmp_path / "book"
    make(path)
    target = path / f"shard_{shard:03d}.bin"
    for damage in (lambda: os.truncate(target, size), target.unlink):
        damage()
        before = tree(path)
        for read_only in (True, False):
            with pytest.raises(CorruptionError) as caught:
                reopen(path, read_only=read_only)
            assert target == caught.value.path
            assert before | {"lock": b""} == tree(path) | {"lock": b""}


def test_every_flipped_byte_of_a_shard_header_is_named(tmp_path):
    path = tmp_path / "book"
    make(path)
    for at in range(0, FILE_HEADER.itemsize, 3):
        flip_bit(path / "shard_001.bin", at)
        with pytest.raises(CorruptionError) as caught:
            reopen(path)
        assert path / "shard_001.bin" == caught.value.path
        flip_bit(path / "shard_001.bin", at)
    reopen(path).close()


def test_an_old_shard_file_of_the_same_ledger_is_found_out(tmp_path):
    path = tmp_path / "book"
    make(path, n=60)
    old = (path / "shard_000.bin").read_bytes()
    with reopen(path) as ledger:
        ledger.update_batch(make_accounts(2, 200))
    new = (path / "shard_000.bin").read_bytes()
    (path / "shard_000.bin").write_bytes(old)
    for read_only in (True, False):
        with pytest.raises(CorruptionError, match="older copy") as caught:
            reopen(path, read_only=read_only)
        assert path / "shard_000.bin" == caught.value.path
    (path / "shard_000.bin").write_bytes(new)
    reopen(path).close()
