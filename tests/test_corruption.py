"""Damage on disk of any file: expect the named error or a repair, never a wrong answer."""

from __future__ import annotations

import os

import numpy as np
import pytest

from ledger import LedgerError, UnsupportedVersionError, WrongLedgerError
from ledger.layout import (
    BLOCK_BYTES,
    CONTROL,
    CONTROL_COPY_BYTES,
    FILE_HEADER,
    FORMAT_VERSION,
    FRAME_HEADER,
    SEGMENT_HEADER,
)
from tests.crash.disk import lay
from tests.damaged import SEGMENT, make, reopen
from tests.faults import make_newer, patch, tree


@pytest.mark.parametrize(
    ("name", "offset", "dtype"),
    [
        ("control.bin", 0, CONTROL), ("control.bin", CONTROL_COPY_BYTES, CONTROL), ("shard_003.bin", 0, FILE_HEADER),
        ("index_000.bin", 0, FILE_HEADER), (SEGMENT, 0, SEGMENT_HEADER), (SEGMENT, BLOCK_BYTES, FRAME_HEADER),
    ],
)  # fmt: skip
def test_a_newer_version_is_told_apart_from_damage_and_no_byte_is_changed(tmp_path, name, offset, dtype):
    path = tmp_path / "book"
    make(path, ("sync", "private"), close=False)
    if name.startswith(("shard", "index")):
        reopen(path, ("sync", "private")).close()
    make_newer(path / name, offset, dtype)
    before = tree(path)
    for arguments in ({"read_only": True}, {}, {"create": False}, {"salvage": True}):
        with pytest.raises(UnsupportedVersionError) as caught:
            reopen(path, ("sync", "private"), **arguments)
        assert (FORMAT_VERSION + 1, FORMAT_VERSION, offset, path / name) == (
            caught.value.found, caught.value.supported, caught.value.offset, caught.value.path,
        )  # fmt: skip
        assert before | {"lock": b""} == tree(path) | {"lock": b""}


@pytest.mark.parametrize("name", ["shard_000.bin", "index_000.bin", SEGMENT])
def test_a_file_of_another_ledger_or_another_place_is_named(tmp_path, name):
    path, other = tmp_path / "book", tmp_path / "other"
    mode = ("sync", "private")
    for folder in (path, other):
        make(folder, mode, close=name != SEGMENT)
    sources = [other / name] + ([path / name.replace("000", "001")] if name != SEGMENT else [])
    right = (path / name).read_bytes()
    for source in sources:
        (path / name).write_bytes(source.read_bytes())
        before = tree(path)
        with pytest.raises(WrongLedgerError) as caught:
            reopen(path, mode)
        assert path / name == caught.value.path
        assert before | {"lock": b""} == tree(path) | {"lock": b""}
        (path / name).write_bytes(right)


def test_damage_is_always_an_error_of_the_tree(tmp_path):
    path = tmp_path / "book"
    models = make(path, ("sync", "private"), seeds=(1, 2), close=False)
    files = tree(path)
    choose = np.random.default_rng(1)
    truths = {model.state_hash() for model in models}
    for _ in range(60):
        lay(files, path)
        name = str(choose.choice(sorted(set(files) - {"lock"})))
        size = len(files[name])
        at = int(choose.integers(0, min(size, 20_000)))
        patch(path / name, at, os.urandom(int(min(size - at, choose.integers(1, 300)))))
        try:
            with reopen(path, ("sync", "private")) as ledger:
                assert ledger.state_hash() in truths
        except LedgerError:
            pass
