"""Every error is raised by its real cause, with its facts; the tree is the one that the docstring draws."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest

import ledger
from ledger import GeometricLedger, Options, errors
from ledger.layout import CELL_A, CONTROL, CONTROL_COPY_BYTES, FORMAT_VERSION
from tests import children
from tests.faults import FaultyFiles, flip_bit, lose_power, make_newer, patch
from tests.model import make_accounts, make_key, make_keys, reopen_options, small_options

BASES = {errors.LedgerError, errors.FormatError}  # never raised themselves


def tree(root=errors.LedgerError):
    """Return the class and all below it."""
    return {root}.union(*(tree(sub) for sub in root.__subclasses__() if sub.__module__ == errors.__name__))


def make(path, mode=("none", "private"), n=30, **changes):
    """Make a ledger with accounts, closed."""
    with GeometricLedger.open(path, small_options(*mode, **changes)) as book:
        book.update_batch(make_accounts(1, n))
    return path


def invalid_input(path):
    book = GeometricLedger.open(path, small_options())
    book.get(b"short")


def batch_too_large(path):
    GeometricLedger.open(path, small_options(batch_rows_max=2)).update_batch(make_accounts(1, 3))


def options(path):
    Options(threads=0)


def unavailable(path):
    GeometricLedger.open(path, small_options(hugepages="hugetlb", require=True))


def not_found(path):
    GeometricLedger.open(path, create=False)


def locked(path):
    book = GeometricLedger.open(path, small_options())
    try:
        GeometricLedger.open(path, small_options())
    finally:
        book.close()


def closed(path):
    book = GeometricLedger.open(path, small_options())
    book.close()
    len(book)


def forked(path):
    book = GeometricLedger.open(path, small_options())

    def body(say):
        try:
            book.get(bytes(32))
        except errors.ForkedError as error:
            say(error)

    said = children.run(body)
    book.close()
    if said:
        raise errors.ForkedError(said[0])


def read_only(path):
    make(path)
    GeometricLedger.open(path, reopen_options(), read_only=True).snapshot()


def capacity(path):
    GeometricLedger.open(path, small_options(capacity=5, shards=1)).update_batch(make_accounts(1, 100))


def fail_stop(path):
    files = FaultyFiles()
    book = GeometricLedger.open(path, small_options(), files=files)
    files.fail("start_write")
    book.update_batch(make_accounts(1, 1))


def salvage_needed(path):
    book = GeometricLedger.open(path, small_options("msync", "shared"))
    book.update_batch(make_accounts(1, 5))
    book.__del__()
    lose_power(path)
    GeometricLedger.open(path, reopen_options())


def newer_version(path):
    make_newer(make(path) / "control.bin", 0, CONTROL)
    GeometricLedger.open(path, reopen_options())


def wrong_ledger(path):
    make(path)
    make(path / "other")
    (path / "shard_001.bin").write_bytes((path / "other" / "shard_001.bin").read_bytes())
    GeometricLedger.open(path, reopen_options())


def corruption(path):
    (make(path) / "shard_002.bin").unlink()
    GeometricLedger.open(path, reopen_options())


def corrupt_control(path):
    make(path)
    for copy_ in (0, 1):
        flip_bit(path / "control.bin", copy_ * CONTROL_COPY_BYTES + 30)
    GeometricLedger.open(path, reopen_options())


def corrupt_log(path):
    book = GeometricLedger.open(path, small_options())
    for seed in range(4):
        book.update_batch(make_accounts(seed, 5))
    book.__del__()
    flip_bit(path / "log" / "0000000001.seg", 4096 + 300)
    GeometricLedger.open(path, reopen_options())


def corrupt_index(path):
    keys = make_keys(range(100))
    with GeometricLedger.open(make(path), reopen_options()) as book:
        here = {row.tobytes() for row in book.record_view(0)["pubkey"]}
    other = next(key.tobytes() for key in keys[:30] if key.tobytes() not in here)
    patch(path / "shard_000.bin", 4096, other)
    (path / "index_000.bin").unlink()
    GeometricLedger.open(path, reopen_options())


def corrupt_record(path):
    flip_bit(make(path, shards=1) / "shard_000.bin", 4096 + CELL_A * 8)
    book = GeometricLedger.open(path, reopen_options())
    book.get(make_key(0))


CAUSES = {
    errors.InvalidInputError: (invalid_input, {"field": "pubkey"}),
    errors.BatchTooLargeError: (batch_too_large, {"row": 2}),
    errors.OptionsError: (options, {"field": "threads", "value": 0}),
    errors.UnavailableError: (unavailable, {"field": "hugepages"}),
    errors.LedgerNotFoundError: (not_found, {}),
    errors.LockedError: (locked, {"pid": None}),
    errors.ClosedError: (closed, {}),
    errors.ForkedError: (forked, {}),
    errors.ReadOnlyError: (read_only, {}),
    errors.CapacityError: (capacity, {"shard": 0}),
    errors.FailStopError: (fail_stop, {}),
    errors.SalvageNeededError: (salvage_needed, {}),
    errors.UnsupportedVersionError: (newer_version, {"found": FORMAT_VERSION + 1, "supported": FORMAT_VERSION}),
    errors.WrongLedgerError: (wrong_ledger, {"path": "shard_001.bin", "offset": 0}),
    errors.CorruptionError: (corruption, {"path": "shard_002.bin", "offset": 0}),
    errors.CorruptControlError: (corrupt_control, {"path": "control.bin", "offset": 0}),
    errors.CorruptLogError: (corrupt_log, {"path": "0000000001.seg", "offset": 4096}),
    errors.CorruptIndexError: (corrupt_index, {"shard": 0}),
    errors.CorruptRecordError: (corrupt_record, {"shard": 0, "slot": 0, "path": "shard_000.bin", "offset": 4096}),
}


def test_every_error_of_the_tree_has_a_cause_here():
    assert tree() - BASES == set(CAUSES)


@pytest.mark.parametrize("kind", CAUSES, ids=lambda kind: kind.__name__)
def test_the_error_comes_from_its_cause_with_its_facts(kind, tmp_path):
    cause, facts = CAUSES[kind]
    with pytest.raises(errors.LedgerError) as caught:
        cause(tmp_path)
    error = caught.value
    assert kind is type(error)
    for name, value in facts.items():
        found = getattr(error, name)
        assert name in ("path", "pid") or value == found
        assert name != "path" or value == found.name
    assert error.hint or kind in (errors.InvalidInputError, errors.OptionsError), "says what to do"
    assert error.hint in str(error)
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (kind, str(error), error.facts.keys()) == (type(twin), str(twin), twin.facts.keys())


def test_the_tree_is_the_one_in_the_docstring():
    drawn = {}
    above = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^ {4}((?:[│ ] {3})*)(?:[├└]── )?([A-Z]\w+Error)(?: \((\w+)\))?", line)
        if not match:
            continue
        depth = len(match[1]) // 4 + ("── " in line)
        above[depth:] = [match[2]]
        drawn[match[2]] = {above[depth - 1]} if depth else {"Exception"}
        drawn[match[2]] |= {match[3]} if match[3] else set()
    assert {kind.__name__: {base.__name__ for base in kind.__bases__} for kind in tree()} == drawn


def test_all_is_exactly_the_public_names():
    others = {"ACCOUNT", "Account", "GeometricLedger", "LedgerStats", "Options", "VerifyReport", "warm_up"}
    assert {kind.__name__ for kind in tree()} | others == set(ledger.__all__)
    assert sorted(set(ledger.__all__)) == sorted(ledger.__all__)
    for name in ledger.__all__:
        assert getattr(ledger, name) is not None
    assert np.dtype(ledger.ACCOUNT).itemsize == 64
    with pytest.raises(AttributeError):
        ledger.nothing_of_that_name  # noqa: B018
