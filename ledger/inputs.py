"""Checking what callers give: keys and records become words for kernels, or an error that names the fault.

Taken: arrays that are right, copies of them that are not contiguous or in the other byte order, lists of keys.
Refused: other dtypes, shapes and lengths. Nothing is reinterpreted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ledger.errors import BatchTooLargeError, InvalidInputError
from ledger.layout import ACCOUNT, KEY_BYTES


class Account(NamedTuple):
    """One account.

    Attributes
    ----------
    pubkey : bytes
        32 bytes.
    balance, nonce, staked, last_modified : int
        0 to 2**64 - 1.
    """

    pubkey: bytes
    balance: int
    nonce: int
    staked: int
    last_modified: int


def key_words(keys: Any, what: str = "keys") -> np.ndarray:
    """Return keys as uint64[n, 4], without a copy where the input allows it.

    Parameters
    ----------
    keys : uint8[n, 32], or a sequence of 32-byte keys
    what : str
        Name of the argument, for the error.

    Raises
    ------
    InvalidInputError
        Names the row where one key is at fault.
    """
    if isinstance(keys, np.ndarray):
        if keys.dtype != np.uint8:
            raise InvalidInputError(
                f"{what} has dtype {keys.dtype}, not uint8 of shape [n, 32]", field="dtype", hint=_dtype_hint(keys)
            )
        if keys.ndim != 2 or keys.shape[1] != KEY_BYTES:
            raise InvalidInputError(f"{what} has shape {list(keys.shape)}, not [n, 32]", field="shape")
        return words_of(keys, 4)
    if isinstance(keys, (bytes, bytearray, memoryview, str)) or not hasattr(keys, "__len__"):
        raise InvalidInputError(
            f"{what} is {type(keys).__name__}, not uint8[n, 32] or a sequence of keys", field="type"
        )
    for row, key in enumerate(keys):
        check_key(key, row)
    joined = np.frombuffer(b"".join(bytes(key) for key in keys), np.uint8).reshape(len(keys), KEY_BYTES)
    return words_of(joined, 4)


def check_key(key: Any, row: int | None = None) -> None:
    """Refuse what is not 32 bytes."""
    where = "" if row is None else f" in row {row}"
    if not isinstance(key, (bytes, bytearray, memoryview)):
        raise InvalidInputError(f"the key{where} is {type(key).__name__}, not bytes", row=row, field="pubkey")
    size = key.nbytes if isinstance(key, memoryview) else len(key)
    if size != KEY_BYTES:
        raise InvalidInputError(f"the key{where} has {size} bytes, not 32", row=row, field="pubkey")


def record_words(records: Any) -> np.ndarray:
    """Return records as uint64[n, 8], without a copy where the input allows it.

    Parameters
    ----------
    records : ACCOUNT[n], a sequence of Account, or one Account
        A structured array must have the names, order and types of ACCOUNT; its byte order may be the other one.

    Raises
    ------
    InvalidInputError
        Names row and field where one value is at fault.
    """
    if isinstance(records, Account):
        records = [records]
    if not isinstance(records, np.ndarray):
        return _pack(records)
    if records.dtype != ACCOUNT:
        if records.dtype.names is None:
            raise InvalidInputError(f"records has dtype {records.dtype}, not ledger.ACCOUNT", field="dtype")
        for name in ACCOUNT.names or ():
            if name not in records.dtype.names:
                raise InvalidInputError(f"records has no field {name!r}", field=name)
        if records.dtype.newbyteorder("<") != ACCOUNT.newbyteorder("<"):
            wrong = [n for n in records.dtype.names if n not in (ACCOUNT.names or ())]
            wrong += [
                n for n in ACCOUNT.names or () if records.dtype[n].newbyteorder("<") != ACCOUNT[n].newbyteorder("<")
            ]
            name = wrong[0] if wrong else records.dtype.names[0]
            raise InvalidInputError(
                f"field {name!r} of records does not fit ledger.ACCOUNT", field=name, hint="make it with dtype=ACCOUNT"
            )
        records = records.astype(ACCOUNT)
    if records.ndim != 1:
        raise InvalidInputError(f"records has {records.ndim} dimensions, not 1", field="shape")
    return words_of(records, 8)


def words_of(array: np.ndarray, words: int) -> np.ndarray:
    """Return the memory of a one- or two-dimensional array as uint64[n, words]; copy if it is not in one piece."""
    if not len(array):
        return np.zeros((0, words), np.uint64)
    view = np.ascontiguousarray(array).view(np.uint64).reshape(len(array), words)
    if not view.flags.aligned:
        return view.copy()
    return view if view.flags.writeable else np.asarray(_Unlocked(view))


class _Unlocked:
    """Array interface of an array that must not be written to, without saying so.

    Kernels only read what callers give; numba would compile each of them a second time for a read-only array.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, False)}


def check_rows(count: int, rows_max: int) -> None:
    """Refuse a batch of too many rows."""
    if count > rows_max:
        raise BatchTooLargeError(f"the batch has {count} rows, batch_rows_max is {rows_max}", row=rows_max)


def _pack(records: Any) -> np.ndarray:
    """Pack a sequence of accounts, checking each value."""
    if isinstance(records, (str, bytes)) or not hasattr(records, "__len__"):
        raise InvalidInputError(f"records is {type(records).__name__}, not ACCOUNT[n]", field="type")
    packed = np.zeros(len(records), ACCOUNT)
    for row, account in enumerate(records):
        if not isinstance(account, tuple) or len(account) != 5:
            raise InvalidInputError(f"row {row} is not an Account", row=row, field="type")
        check_key(account[0], row)
        packed["pubkey"][row] = np.frombuffer(account[0], np.uint8)
        for name, value in zip(Account._fields[1:], account[1:], strict=True):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise InvalidInputError(f"{name} in row {row} is {value!r}, not an integer", row=row, field=name)
            if not 0 <= value < 1 << 64:
                raise InvalidInputError(f"{name} in row {row} is {value}, not within u64", row=row, field=name)
            packed[name][row] = value
    return words_of(packed, 8)


def _dtype_hint(keys: np.ndarray) -> str:
    """Return what to do about a dtype that users often bring."""
    if keys.dtype.kind in "SV":
        return "numpy drops trailing zero bytes of S; use np.frombuffer(...).reshape(-1, 32)"
    return "keys.view(np.uint8) only where the bytes are the keys"
