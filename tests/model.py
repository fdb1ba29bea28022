"""The naive ledger, a dict that is obviously right, and makers of accounts, keys and small options.

Every fast path of the engine is compared with what is here, so nothing here is clever.
"""

from __future__ import annotations

import numpy as np

from ledger.inputs import Account
from ledger.layout import ACCOUNT
from ledger.options import Options

U64 = 1 << 64
MODES = [
    ("none", "private"),
    ("none", "memory"),
    ("none", "shared"),
    ("msync", "shared"),
    ("async", "private"),
    ("async", "memory"),
    ("sync", "private"),
    ("sync", "memory"),
]  # every durability with every storage that it can have
LOGGED_MODES = [mode for mode in MODES if mode[0] in ("async", "sync")]


class Model:
    """A ledger without speed, disk or threads.

    Attributes
    ----------
    accounts : dict of bytes to Account
    lsn : int
    slots : set of bytes
        Keys that ever had an account: a slot stays with its key.
    """

    def __init__(self) -> None:
        self.accounts: dict[bytes, Account] = {}
        self.lsn = 0
        self.slots: set[bytes] = set()

    def update_batch(self, records: np.ndarray, deletes: list[bytes] | np.ndarray = ()) -> int:
        """Write, row after row, then delete, key after key."""
        for account in accounts_of(records):
            self.accounts[account.pubkey] = account
            self.slots.add(account.pubkey)
        for key in deletes:
            self.accounts.pop(bytes(key), None)
        if len(records) or len(deletes):
            self.lsn += 1
        return self.lsn

    def copy(self) -> Model:
        """Return a model of its own with the same state."""
        other = Model()
        other.accounts, other.lsn, other.slots = dict(self.accounts), self.lsn, set(self.slots)
        return other

    @property
    def supply(self) -> int:
        """Sum of all balances."""
        return sum(account.balance for account in self.accounts.values())

    def state_hash(self) -> str:
        """Return what `GeometricLedger.state_hash` returns: 128-bit sums of mixed words, in no order."""
        digest = 0
        for account in self.accounts.values():
            k0, k1, k2, k3 = (int.from_bytes(account.pubkey[at : at + 8], "little") for at in (0, 8, 16, 24))
            h = mix(k0, k1)
            h = mix(h ^ k2, k3)
            h = mix(h ^ account.balance, account.nonce)
            h = mix(h ^ account.staked, account.last_modified)
            digest += h + (mix(h, 0x5851F42D4C957F2D) << 64)
        return f"{digest % (1 << 128):032x}"


def mix(a: int, b: int) -> int:
    """Mix two 64-bit words by the finisher of MurmurHash3."""
    x = a ^ (b * 0x9E3779B97F4A7C15) % U64
    x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCD % U64
    x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53 % U64
    return x ^ (x >> 33)


def accounts_of(records: np.ndarray) -> list[Account]:
    """Return the rows of an ACCOUNT array as Python values."""
    keys = np.ascontiguousarray(records["pubkey"]).tobytes()
    fields = zip(*(records[name].tolist() for name in Account._fields[1:]), strict=True)
    return [Account(keys[32 * row : 32 * row + 32], *values) for row, values in enumerate(fields)]


def make_key(number: int) -> bytes:
    """Return key `number`; among the first are all zeros, trailing zeros and leading zeros."""
    if number < 4:
        return (bytes(32), b"\x01" * 31 + b"\x00", b"\x00" + b"x" * 31, b"\x02" + bytes(31))[number]
    return int(number).to_bytes(4, "big") * 8


def make_keys(numbers) -> np.ndarray:
    """Return keys as uint8[n, 32]."""
    return np.frombuffer(bytearray(b"".join(make_key(number) for number in numbers)), np.uint8).reshape(-1, 32)


def make_accounts(seed: int, n: int, *, first: int = 0) -> np.ndarray:
    """Return `n` accounts (ACCOUNT[n]) of the keys `first` on, with fields that follow from the seed."""
    choose = np.random.default_rng(seed)
    records = np.zeros(n, ACCOUNT)
    records["pubkey"] = make_keys(range(first, first + n))
    for name in Account._fields[1:]:
        records[name] = choose.integers(0, U64, n, dtype=np.uint64)
    return records


def one_account(number: int, balance: int, nonce: int = 0) -> np.ndarray:
    """Return one account (ACCOUNT[1])."""
    records = np.zeros(1, ACCOUNT)
    records["pubkey"] = make_keys([number])
    records["balance"], records["nonce"] = balance, nonce
    return records


def small_options(durability: str = "sync", storage: str = "", **changes) -> Options:
    """Return options that keep a ledger and its log small."""
    settings = {
        "durability": durability, "storage": storage, "capacity": 256, "shards": 4, "threads": 2,
        "log_segment_bytes": 64 * 1024, "log_bytes_max": 256 * 1024, "sync_interval_s": 0.01,
    }  # fmt: skip
    return Options(**settings | changes)


def reopen_options(durability: str = "sync", storage: str = "", **changes) -> Options:
    """Return small options without a geometry, to open a ledger that is there."""
    return small_options(durability, storage, **{"capacity": None, "shards": None} | changes)


def filled(book, mode=("none", "private"), n=20, **changes):
    """Return a ledger with `n` accounts and the model of it."""
    ledger, model = book(small_options(*mode, **changes)), Model()
    model.update_batch(make_accounts(1, n))
    ledger.update_batch(make_accounts(1, n))
    return ledger, model


def assert_equal(model: Model, ledger) -> None:
    """Compare everything that a ledger shows with the model, by every way of reading."""
    assert len(model.accounts) == len(ledger)
    assert model.state_hash() == ledger.state_hash()
    report = ledger.verify()
    assert [] == report.faults
    assert (model.lsn, len(model.accounts), model.supply) == (report.lsn, report.live, report.supply)
    exported = [account for chunk in ledger for account in accounts_of(chunk)]
    assert sorted(model.accounts.values()) == sorted(exported)
    absent = [make_key(number) for number in range(1_000_000, 1_000_003)]
    keys = [*model.slots, *absent]
    records, found = ledger.get_batch(keys)
    assert [key in model.accounts for key in keys] == found.tolist()
    blank = (0, 0, 0, 0)
    assert [model.accounts.get(key, Account(key, *blank)) for key in keys] == accounts_of(records)
    for key in keys[:50]:
        assert model.accounts.get(key) == ledger.get(key)
