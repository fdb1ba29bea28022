"""Keys, records and values: every layout that is taken, and every wrong one refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from ledger import ACCOUNT, Account, InvalidInputError
from ledger.kernels import batch_read, batch_write
from tests.model import accounts_of, assert_equal, filled, make_accounts, make_key, reopen_options, small_options

ODD_KEYS = [b"\x01" * 31 + b"\x00", bytes(32), b"\x00" + b"x" * 31, b"\x00" * 31 + b"\x01", b"\xff" * 32]


@pytest.mark.parametrize("threads", [1, 2])
def test_keys_keep_all_their_bytes(book, mode, threads):
    ledger = book(small_options(*mode, threads=threads))
    accounts = [Account(key, row, 1, 2, 3) for row, key in enumerate(ODD_KEYS)]
    ledger.update_batch(accounts)
    assert accounts == [ledger.get(key) for key in ODD_KEYS]
    assert sorted(accounts) == sorted(account for chunk in ledger for account in accounts_of(chunk))
    as_array = np.frombuffer(b"".join(ODD_KEYS), np.uint8).reshape(-1, 32)
    as_views = [memoryview(key) for key in ODD_KEYS]
    as_bytearrays = tuple(bytearray(key) for key in ODD_KEYS)
    for keys in (ODD_KEYS, as_array, as_views, as_bytearrays):
        records, found = ledger.get_batch(keys)
        assert accounts == accounts_of(records)
        assert found.all()
    assert accounts[1] == ledger.get(as_array[1]) == ledger.get(bytearray(32)) == ledger.get(memoryview(bytes(32)))
    ledger.close()
    ledger = book(reopen_options(*mode))
    assert accounts == [ledger.get(key) for key in ODD_KEYS]
    ledger.delete_batch([bytes(32)])
    assert ledger.get(bytes(32)) is None
    assert accounts[0] == ledger.get(ODD_KEYS[0])


def test_arrays_of_every_layout_mean_the_same(book):
    ledger = book()
    records = make_accounts(3, 40)
    wide = np.zeros((40, 3), ACCOUNT)
    wide[:, 1] = records
    swapped = records.astype(ACCOUNT.newbyteorder(">"))
    shifted = np.frombuffer(bytearray(b"x" + records.tobytes()), np.uint8)[1:].view(ACCOUNT)
    frozen = records.copy()
    frozen.flags.writeable = False
    forms = [records, wide[:, 1], records[::-1], swapped, shifted, frozen, records.view(np.recarray)]
    forms += [accounts_of(records), tuple(accounts_of(records))]
    for form in forms:
        ledger.delete_batch(records["pubkey"])
        ledger.update_batch(form)
        found = ledger.get_batch(records["pubkey"])[0]
        assert accounts_of(records) == accounts_of(found)
    keys = np.ascontiguousarray(records["pubkey"])
    wide_keys = np.zeros((40, 64), np.uint8)
    wide_keys[:, 16:48] = keys
    for form in (keys[::-1][::-1], np.asfortranarray(keys), wide_keys[:, 16:48], records["pubkey"]):
        assert accounts_of(records) == accounts_of(ledger.get_batch(form)[0])
    assert accounts_of(records)[0] == accounts_of(ledger.get_batch(keys[:1])[0])[0]
    one = Account(make_key(500), 1, 2, 3, 4)
    ledger.update_batch(one)
    assert one == ledger.get(make_key(500))


WRONG_KEYS = {
    "31 bytes": [bytes(31)],
    "33 bytes": [bytes(32), bytes(33)],
    "empty": [b""],
    "text": ["k" * 32],
    "None": [None],
    "a number": [7],
    "one key": bytes(32),
    "one text": "k" * 32,
    "nothing": None,
    "int": 5,
    "float": 5.0,
    "a generator": (key for key in [bytes(32)]),
    "31 columns": np.zeros((2, 31), np.uint8),
    "flat": np.zeros(32, np.uint8),
    "cube": np.zeros((1, 2, 32), np.uint8),
    "u4": np.zeros((2, 8), np.uint32),
    "u8": np.zeros((2, 4), np.uint64),
    "i1": np.zeros((2, 32), np.int8),
    "i8": np.zeros((2, 32), np.int64),
    "f8": np.zeros((2, 32)),
    "f1": np.full((1, 4), np.nan),
    "bool": np.zeros((2, 32), bool),
    "S32": np.array([b"k" * 32]),
    "V32": np.zeros(2, "V32"),
    "O": np.array([b"k" * 32], object),
    "U": np.array(["k" * 32]),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_wrong_keys_are_refused_and_nothing_is_changed(book, name):
    ledger, model = filled(book)
    keys = WRONG_KEYS[name]
    calls = [lambda: ledger.get_batch(keys), lambda: ledger.delete_batch(keys)]
    calls += [] if keys is None else [lambda: ledger.update_batch(make_accounts(9, 3), keys)]
    for call in calls:
        with pytest.raises(InvalidInputError) as caught:
            call()
        assert caught.value.field
    assert_equal(model, ledger)


@pytest.mark.parametrize(
    "key", [bytes(31), bytes(33), b"", "k" * 32, None, 5, [bytes(32)], np.zeros(32), np.zeros(31, "u1")]
)
def test_a_wrong_single_key_is_refused(book, key):
    with pytest.raises(InvalidInputError) as caught:
        book().get(key)
    assert "pubkey" == caught.value.field


def account(**changes):
    return Account(**{"pubkey": bytes(32), "balance": 1, "nonce": 1, "staked": 1, "last_modified": 1} | changes)


@pytest.mark.parametrize("field", ["balance", "nonce", "staked", "last_modified"])
@pytest.mark.parametrize("value", [-1, 2**64, 1.0, float("nan"), True, None, "1", b"1", np.float64(1)], ids=repr)
def test_a_wrong_value_is_named_by_row_and_field(book, field, value):
    ledger, model = filled(book)
    with pytest.raises(InvalidInputError) as caught:
        ledger.update_batch([account(), account(), account(**{field: value})])
    assert (2, field) == (caught.value.row, caught.value.field)
    assert_equal(model, ledger)


def structured(**changes):
    fields = {"pubkey": ("u1", (32,)), "balance": "<u8", "nonce": "<u8", "staked": "<u8", "last_modified": "<u8"}
    fields = {name: kind for name, kind in (fields | changes).items() if kind}
    return np.zeros(2, [(n, *k) if isinstance(k, tuple) else (n, k) for n, k in fields.items()])


WRONG_RECORDS = {
    "no structure": np.zeros((2, 8), np.uint64),
    "bytes": b"x" * 64,
    "text": "x",
    "None": None,
    "number": 3,
    "floats": np.zeros(2),
    "missing": structured(staked=None),
    "extra": structured(more="<u8"),
    "float field": structured(balance="<f8"),
    "signed field": structured(nonce="<i8"),
    "short key": structured(pubkey=("u1", (31,))),
    "narrow": structured(staked="<u4"),
    "two dimensions": np.zeros((2, 2), ACCOUNT),
    "no dimension": np.zeros((), ACCOUNT),
    "tuples of four": [(bytes(32), 1, 2, 3)],
    "lists": [[bytes(32), 1, 2, 3, 4]],
    "padded": np.zeros(2, np.dtype([*ACCOUNT.descr, ("", "V8")])),
    "other order": np.zeros(2, [ACCOUNT.descr[i] for i in (1, 0, 2, 3, 4)]),
    "a dict": {bytes(32): 1},
    "a key of 31": [account(pubkey=bytes(31))],
    "a text key": [account(pubkey="k" * 32)],
}


@pytest.mark.parametrize("name", WRONG_RECORDS)
def test_wrong_records_are_refused_and_nothing_is_changed(book, name):
    ledger, model = filled(book)
    with pytest.raises(InvalidInputError) as caught:
        ledger.update_batch(WRONG_RECORDS[name])
    assert caught.value.field
    assert_equal(model, ledger)


@pytest.mark.parametrize("kind", [("none", "private"), ("sync", "private")], ids="-".join)
def test_arrays_that_cannot_be_written_to_need_no_kernels_of_their_own(book, kind):
    ledger = book(small_options(*kind))
    records = make_accounts(1, 40)
    ledger.update_batch(records, records["pubkey"][:2])
    ledger.get_batch(records["pubkey"])
    kernels = (batch_write.apply_frame, batch_read.read_batch)
    compiled = [len(kernel.signatures) for kernel in kernels]
    records.flags.writeable = False
    before = records.tobytes()
    keys = np.frombuffer(records["pubkey"].tobytes(), np.uint8).reshape(-1, 32)
    ledger.update_batch(records, keys[:3])
    ledger.delete_batch([bytes(keys[3])])
    assert [False] * 4 + [True] * 36 == ledger.get_batch(keys)[1].tolist()
    assert compiled == [len(kernel.signatures) for kernel in kernels]
    assert before == records.tobytes()
