"""Damage of every kind to every file: expect an error with a name, or the right state, and never a wrong answer."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np

from ledger import FailStopError, GeometricLedger, LedgerError, layout
from ledger.engine.checkpoint import totals
from ledger.layout import BLOCK_BYTES, CONTROL_COPY_BYTES, FRAME_HEADER_BYTES, MAGIC_FRAME, round_up
from tests.crash.disk import lay
from tests.faults import tree
from tests.model import Model, accounts_of, make_accounts, make_keys, reopen_options, small_options

ACCOUNTS, BATCHES = 40, 9
STATE_NAMES = (name for name in vars(layout) if name.startswith("STATE_") and name != "STATE_WORDS")
STATE = np.dtype([(name, "<u8") for name in sorted(STATE_NAMES, key=vars(layout).get)])
WORD = np.dtype([("word", "<u8")])
ZEROS = "zeros behind its first block"
Place = tuple[str, int, int]  # field, offset, bytes


@dataclass(eq=False)
class Book:
    """A ledger on disk, an older copy of it, one of another ledger, and the states that it went through."""

    name: str
    kind: tuple[str, str]
    files: dict[str, bytes] = field(default_factory=dict)
    older: dict[str, bytes] = field(default_factory=dict)
    other: dict[str, bytes] = field(default_factory=dict)
    models: list[Model] = field(default_factory=list)
    image: int = 0  # LSN of the checkpoint


@dataclass(eq=False)
class Damage:
    """What came out of much damage; `dtypes` are the formats of which a field was changed."""

    count: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    dtypes: list[np.dtype] = field(default_factory=list)


KINDS = {
    "closed": ("sync", "private"), "killed": ("sync", "private"), "killed in memory": ("async", "memory"),
    "journal": ("none", "private"), "mapped": ("msync", "shared"),
}  # fmt: skip


def make(folder: Path, name: str) -> Book:
    """Make a ledger: batches with a checkpoint among them, closed cleanly or left as a kill leaves it."""
    book = Book(name, KINDS[name], models=[Model()])
    path, other = folder / "book", folder / "other"
    for place in (path, other):
        shutil.rmtree(place, ignore_errors=True)
        ledger = GeometricLedger.open(place, small_options(*book.kind, shards=2))
        for number in range(1, BATCHES + 1):
            rows, deletes = make_accounts(number, 9, first=4 * number - 4), make_keys([3 * number])
            ledger.update_batch(rows, deletes)
            if place == path:
                book.models.append(book.models[-1].copy())
                book.models[-1].update_batch(rows, deletes)
            if number in (2, 5):
                book.image = ledger.snapshot()
            if number == 4 and place == path:
                book.older = tree(path)
        if name == "journal":  # as a kill leaves it between the blocks and the control block
            with mock.patch.object(ledger._control, "write", side_effect=OSError), contextlib.suppress(FailStopError):
                ledger.snapshot()
        ledger.close() if name == "closed" else ledger.__del__()
    book.files, book.other = tree(path), tree(other)
    for files in (book.files, book.older, book.other):
        files.pop("lock", None)
    return book


# ---------------------------------------------------------------- places
def fields(dtype: np.dtype, offset: int, name: str) -> Iterator[Place]:
    """Yield every field of a dtype, those of its fields too."""
    for key in dtype.names or ():
        inner, at = dtype.fields[key][:2]
        if inner.names:
            yield from fields(inner, offset + at, f"{name}.{key}")
        else:
            yield f"{name}.{key}", offset + at, inner.itemsize


def formats(name: str, data: bytes) -> Iterator[tuple[np.dtype, int, str]]:
    """Yield (dtype, offset, name) of everything in a file."""
    if name in ("control.bin", "journal.bin"):
        copies = (0, CONTROL_COPY_BYTES) if name == "control.bin" else (BLOCK_BYTES,)
        for at in copies:
            yield layout.CONTROL, at, f"copy at {at}"
            shards = int(np.frombuffer(data, layout.CONTROL, 1, at)["shards"][0])
            for shard in range(shards):
                place = at + layout.CONTROL.itemsize + shard * layout.CONTROL_SHARD.itemsize
                yield layout.CONTROL_SHARD, place, f"copy at {at}, shard {shard}"
    if name == "journal.bin":
        yield layout.JOURNAL_HEADER, 0, "header"
        header = np.frombuffer(data, layout.JOURNAL_HEADER, 1)[0]
        table = BLOCK_BYTES + round_up(int(header["control_bytes"]), BLOCK_BYTES)
        size = int(header["blocks"]) * layout.JOURNAL_ENTRY.itemsize
        for number in range(int(header["blocks"])):
            yield layout.JOURNAL_ENTRY, table + number * layout.JOURNAL_ENTRY.itemsize, f"entry {number}"
            block = table + round_up(size, BLOCK_BYTES) + number * BLOCK_BYTES
            yield layout.RECORD, block + 128 * (number % 32), f"block {number}"
    elif name.startswith(("shard_", "index_")):
        yield layout.FILE_HEADER, 0, "header"
        kind = layout.RECORD if name.startswith("shard_") else WORD
        for at in range(BLOCK_BYTES, len(data) - kind.itemsize + 1, kind.itemsize):
            if any(data[at : at + kind.itemsize]):
                yield kind, at, f"item {(at - BLOCK_BYTES) // kind.itemsize}"
    elif name.endswith(".seg"):
        yield layout.SEGMENT_HEADER, 0, "header"
        for at in range(BLOCK_BYTES, len(data) - FRAME_HEADER_BYTES, BLOCK_BYTES):
            header = np.frombuffer(data, layout.FRAME_HEADER, 1, at)[0]
            if header["magic"] == MAGIC_FRAME:
                yield layout.FRAME_HEADER, at, f"frame {header['lsn']}"
                for row in range(int(header["rows"])):
                    yield layout.ACCOUNT, at + FRAME_HEADER_BYTES + 64 * row, f"frame {header['lsn']}, row {row}"
                stop = at + FRAME_HEADER_BYTES + 64 * int(header["rows"])
                for delete in range(int(header["deletes"])):
                    yield WORD, stop + 32 * delete, f"frame {header['lsn']}, delete {delete}"
    elif name == ".clean_shutdown":
        yield layout.CLEAN, 0, "marker"
    elif name == "state.bin":
        yield STATE, 0, "state"


def damaged(book: Book, choose: random.Random, found: Damage) -> Iterator[tuple[str, str, bytes | None]]:
    """Yield (file, what was done to it, its bytes or None where it is gone)."""
    for name, data in book.files.items():
        for dtype, at, where in formats(name, data):
            if not any(dtype is other for other in found.dtypes):
                found.dtypes.append(dtype)
            for place, offset, size in fields(dtype, at, where):
                bit = choose.randrange(8 * size)
                flipped = bytearray(data)
                flipped[offset + bit // 8] ^= 1 << bit % 8
                yield name, f"bit {bit} of {place} flipped", bytes(flipped)
        for size in range(0, len(data), BLOCK_BYTES):
            yield name, f"cut at {size}", data[:size]
        yield name, "gone", None
        yield name, "zeros", bytes(len(data))
        yield name, ZEROS, data[:BLOCK_BYTES].ljust(len(data), b"\0")
        for copy, files in (("older copy", book.older), ("copy of another ledger", book.other)):
            if files.get(name, data) != data:
                yield name, copy, files[name]


# ---------------------------------------------------------------- what may be read then
def run(folder: Path, name: str, found: Damage, *, seed: int, step: int = 1) -> None:
    """Do every `step`-th damage to the book of a name, one at a time, and read."""
    book = make(folder, name)
    choose = random.Random(seed)
    for number, (file, what, data) in enumerate(damaged(book, choose, found)):
        if number % step != seed % step:
            continue
        found.count += 1
        lay({key: value for key, value in (book.files | {file: data}).items() if value is not None}, folder / "image")
        read_only = number // step % 3 == 0
        outcome = read(folder / "image", book, file, what, read_only=read_only)
        found.outcomes[outcome.partition(":")[0]] += 1
        if outcome not in OUTCOMES:
            found.violations.append(f"{name}, seed {seed}, {file}, {what}, {read_only=}: {outcome}")


RIGHT, EARLIER, REFUSED, READ, VERIFIED = OUTCOMES = (
    "the right state", "an earlier one, as the log ends there", "refused at opening", "an error when read",
    "found by verify alone",
)  # fmt: skip


def read(path: Path, book: Book, file: str, what: str, *, read_only: bool) -> str:
    """Open a damaged ledger, read it in every way, and return what came of it."""
    try:
        ledger = GeometricLedger.open(path, reopen_options(*book.kind), read_only=read_only, create=False)
    except LedgerError:
        return REFUSED
    try:
        lsn = ledger.recovery.lsn
        newest = len(book.models) - 1
        # nothing but the next frame vouches for a frame, and nothing for a log that ends earlier as a whole
        least = book.image if file.endswith(".seg") else newest
        if file == "state.bin":
            lsn = newest  # the words of a running ledger have no checksum; accounts must be right all the same
        if not least <= lsn <= newest:
            return f"LSN {lsn} is served, not one from {least} on"
        answers = [same(ledger, book.models[lsn], way) for way in range(5)]
        if "wrong" in answers:
            # a block of zeros is as one that was never given out, for all but a pass over the whole shard
            found = what == ZEROS and not ledger.verify().ok
            return VERIFIED if found else f"a wrong answer at LSN {lsn}: {answers}"
        return READ if None in answers else (RIGHT if lsn == newest else EARLIER)
    finally:
        ledger.__del__()


def same(ledger: GeometricLedger, model: Model, way: int) -> str | None:
    """Read everything in one way; return "right", "wrong", or None where an error of the ledger said no."""
    keys = sorted(model.slots)
    try:
        if way == 0:
            equal = one_by_one(ledger, model, keys)
        elif way == 1:
            records, there = ledger.get_batch(keys)
            equal = [a for a, yes in zip(accounts_of(records), there, strict=True) if yes] == [
                model.accounts[key] for key in keys if key in model.accounts
            ]
        elif way == 2:
            listed = [account for chunk in ledger for account in accounts_of(chunk)]
            equal = sorted(listed) == sorted(model.accounts.values())
        elif way == 3:
            equal = ledger.state_hash() == model.state_hash()
        else:
            equal = (len(ledger), totals(ledger._state)[2]) == (len(model.accounts), model.supply)
    except LedgerError:
        return None
    return "right" if equal else "wrong"


def one_by_one(ledger: GeometricLedger, model: Model, keys: list[bytes]) -> bool:
    """Get each account by itself; an error of one says nothing about the others."""
    failed = None
    for key in keys:
        try:
            if ledger.get(key) != model.accounts.get(key):
                return False
        except LedgerError as error:
            failed = error
    if failed is not None:
        raise failed
    return True
