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

Importing this package imports neither numpy nor numba: each name is fetched from its module when it is first asked
for, so that the command line answers at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledger.engine.warmup import warm_up
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
    from ledger.ledger import GeometricLedger
    from ledger.options import Options
    from ledger.stats import LedgerStats, VerifyReport

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

# Where the names that are no errors live.
_MODULES = {
    "ACCOUNT": "layout",
    "Account": "inputs",
    "GeometricLedger": "ledger",
    "LedgerStats": "stats",
    "Options": "options",
    "VerifyReport": "stats",
    "warm_up": "engine.warmup",
}


def __getattr__(name: str) -> Any:
    """Fetch a public name from its module, once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
