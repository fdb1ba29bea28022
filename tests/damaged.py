"""Ledgers on disk that tests damage and open again."""

from __future__ import annotations

from ledger import GeometricLedger
from tests.model import Model, make_accounts, make_keys, reopen_options, small_options

SEGMENT = "log/0000000001.seg"


def make(path, mode=("none", "private"), *, n=60, seeds=(1,), close=True, **changes):
    """Make a ledger by some batches; returns the models after each batch."""
    ledger = GeometricLedger.open(path, small_options(*mode, **{"hash_key": b"k" * 32} | changes))
    models = [Model()]
    for seed in seeds:
        models.append(models[-1].copy())
        models[-1].update_batch(make_accounts(seed, n), make_keys([seed]))
        ledger.update_batch(make_accounts(seed, n), make_keys([seed]))
    ledger.close() if close else ledger.__del__()
    return models


def reopen(path, mode=("none", "private"), **arguments):
    """Open a ledger that is there."""
    return GeometricLedger.open(path, reopen_options(*mode), **arguments)
