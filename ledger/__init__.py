"""An account store: a 32-byte public key maps to a fixed-size account record.

>>> import tempfile, numpy as np
>>> from ledger import ACCOUNT, GeometricLedger, Options
>>> folder = tempfile.TemporaryDirectory()
>>> accounts = np.zeros(2, ACCOUNT)
>>> accounts["pubkey"][1] = 7
>>> accounts["balance"] = 100, 250
>>> with GeometricLedger.open(folder.name, Options(capacity=1000)) as book:
...     lsn = book.update_batch(accounts)
...     book.get(bytes([7] * 32)).balance, len(book)
(250, 2)
>>> folder.cleanup()
"""

from ledger.errors import (
    BatchTooLargeError,
    CapacityError,
    ClosedError,
    CorruptControlError,
    CorruptIndexError,
    CorruptionError,
    CorruptLogError,
    CorruptRecordError,
    FailStopError,
    ForkedError,
    FormatError,
    InvalidInputError,
    LedgerError,
    LedgerNotFoundError,
    LockedError,
    OptionsError,
    ReadOnlyError,
    SalvageNeededError,
    UnavailableError,
    UnsupportedVersionError,
    WrongLedgerError,
)
from ledger.inputs import Account
from ledger.layout import ACCOUNT
from ledger.options import Options

__version__ = "0.1.0"
__all__ = [
    "ACCOUNT",
    "Account",
    "BatchTooLargeError",
    "CapacityError",
    "ClosedError",
    "CorruptControlError",
    "CorruptIndexError",
    "CorruptLogError",
    "CorruptRecordError",
    "CorruptionError",
    "FailStopError",
    "ForkedError",
    "FormatError",
    "GeometricLedger",
    "InvalidInputError",
    "LedgerError",
    "LedgerNotFoundError",
    "LedgerStats",
    "LockedError",
    "Options",
    "OptionsError",
    "ReadOnlyError",
    "SalvageNeededError",
    "UnavailableError",
    "UnsupportedVersionError",
    "VerifyReport",
    "WrongLedgerError",
    "warm_up",
]


def __getattr__(name: str):  # noqa: ANN202
    """Import what needs numba only when it is asked for: `import ledger` stays instant for the command line."""
    if name == "GeometricLedger":
        from ledger.ledger import GeometricLedger

        return GeometricLedger
    if name == "warm_up":
        from ledger.engine.warmup import warm_up

        return warm_up
    if name in ("LedgerStats", "VerifyReport"):
        from ledger import stats

        return getattr(stats, name)
    raise AttributeError(f"module 'ledger' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
