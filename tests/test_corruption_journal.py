"""Snapshots and openings that stop half way, and the journal that they leave."""

from __future__ import annotations

import os

import pytest

from ledger import CorruptionError, GeometricLedger
from ledger.storage.files import Files
from tests.crash.disk import lay
from tests.damaged import make, reopen
from tests.faults import tree
from tests.model import Model, make_accounts, make_keys, reopen_options


class Stop(BaseException):
    """The end of the process, as far as the disk can tell."""


class StoppingFiles(Files):
    """Do nothing from the n-th change of the disk on, as after a kill."""

    def __init__(self, at=None):
        self.at, self.changes = at, 0

    def change(self):
        if self.at is not None and self.changes >= self.at:
            raise Stop
        self.changes += 1


def _stopping(name):
    def call(self, *arguments, **named):
        self.change()
        return getattr(Files, name)(self, *arguments, **named)

    return call


for _name in (
    "pwrite",
    "fdatasync",
    "fsync",
    "replace",
    "unlink",
    "mkdir",
    "preallocate",
    "start_write",
    "sync_directory",
):
    setattr(StoppingFiles, _name, _stopping(_name))


def abandon(ledger):
    """Let go of a handle whose disk has stopped."""
    ledger._files.at = None
    ledger.__del__()


@pytest.mark.parametrize(
    ("kind", "last"),
    [(("none", "private"), "snapshot"), (("none", "private"), "close"), (("none", "memory"), "snapshot")],
)
def test_a_journal_leaves_the_snapshot_before_or_the_new_one_wherever_it_stops(tmp_path, kind, last):
    path = tmp_path / "book"
    make(path, kind, n=60)
    files = tree(path)
    old, new = Model(), Model()
    for seed in (1, 2):
        new.update_batch(make_accounts(seed, 60), make_keys([seed]))
        old = old if seed == 2 else new.copy()
    new.update_batch(make_accounts(3, 60, first=60))
    seen = set()
    for at in range(200):
        lay(files, path)
        disk = StoppingFiles()
        ledger = GeometricLedger.open(path, reopen_options(*kind), files=disk)
        ledger.update_batch(make_accounts(2, 60), make_keys([2]))
        ledger.update_batch(make_accounts(3, 60, first=60))
        disk.at = disk.changes + at
        try:
            ledger.snapshot() if last == "snapshot" else ledger.close()
        except Stop:
            pass
        else:
            break
        finally:
            abandon(ledger)
        for again in (("none", "memory"), ("none", "private"), ("sync", "private")):
            with reopen(path, again, read_only=True) as ledger:
                assert ledger.state_hash() in (old.state_hash(), new.state_hash()), at
        stopped = StoppingFiles(at % 25)
        try:
            abandon(GeometricLedger.open(path, reopen_options(*kind), files=stopped))
        except Stop:
            pass
        with reopen(path, kind) as ledger:
            assert ledger.state_hash() in (old.state_hash(), new.state_hash()), at
            assert ledger.verify().ok
            seen.add(ledger.state_hash())
    assert 10 < at < 199
    assert {old.state_hash(), new.state_hash()} == seen


@pytest.mark.parametrize("data", [b"", os.urandom(10_000), "prefix"], ids=["empty", "noise", "prefix"])
def test_an_unfinished_journal_is_ignored_and_a_damaged_finished_one_is_named(tmp_path, data):
    path = tmp_path / "book"
    models = make(path)
    if data == "prefix":
        data = (path / "shard_000.bin").read_bytes()[:5000]
    ledger = reopen(path)
    ledger.__del__()
    (path / "journal.bin.tmp").write_bytes(data)
    ledger = reopen(path)
    assert models[-1].state_hash() == ledger.state_hash()
    ledger.update_batch(make_accounts(5, 10))
    ledger.snapshot()
    ledger.close()
    ledger = reopen(path)
    ledger.__del__()
    assert not (path / "journal.bin.tmp").exists()
    (path / "journal.bin").write_bytes(data)
    with pytest.raises(CorruptionError) as caught:
        reopen(path)
    assert path / "journal.bin" == caught.value.path


@pytest.mark.parametrize(
    "first", [("none", "private"), ("msync", "shared"), ("async", "memory"), ("sync", "private")], ids="-".join
)
@pytest.mark.parametrize("second", [("none", "memory"), ("none", "shared"), ("sync", "private")], ids="-".join)
def test_an_opening_that_stops_anywhere_leaves_what_it_began_with(tmp_path, first, second):
    path = tmp_path / "book"
    models = make(path, first, seeds=(1, 2, 3), close=False)
    expected = models[0 if first[0] == "none" else -1].state_hash()
    for at in range(300):
        try:
            abandon(GeometricLedger.open(path, reopen_options(*second), files=StoppingFiles(at)))
        except Stop:
            continue
        break
    assert 3 < at < 299
    with reopen(path, second) as ledger:
        assert expected == ledger.state_hash()
        assert ledger.verify().ok
