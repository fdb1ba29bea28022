"""Every error that the ledger raises.

::

    LedgerError
    ├── InvalidInputError (ValueError)      a key, record or argument is not of the form it must have
    │   └── BatchTooLargeError              more rows than `batch_rows_max`
    ├── OptionsError (ValueError)           a setting is out of bounds or does not fit another
    │   └── UnavailableError                the machine cannot give what `require=True` asks for
    ├── LedgerNotFoundError (FileNotFoundError)
    ├── LockedError                         another handle owns the ledger
    ├── ClosedError                         the handle was closed
    ├── ForkedError                         the handle belongs to the parent process
    ├── ReadOnlyError                       the handle was opened read-only
    ├── CapacityError                       a shard has no free slots for the batch; nothing was applied
    ├── FailStopError                       a write or sync failed once; the handle takes no more writes
    ├── SalvageNeededError                  power was lost under a mode that promises nothing for it
    └── FormatError                         a file is not what it should be
        ├── UnsupportedVersionError         made by a newer version; nothing was changed
        ├── WrongLedgerError                a file belongs to another ledger or another place
        └── CorruptionError                 bytes fail their checksum, or are missing
            ├── CorruptControlError
            ├── CorruptLogError
            ├── CorruptIndexError
            └── CorruptRecordError

Every error carries `hint`, one sentence about what to do, and its facts as attributes.
A key that is not in the ledger is no error: `get` returns None.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class LedgerError(Exception):
    """Base of all errors of the ledger.

    Parameters
    ----------
    message
        What happened, in one sentence.
    hint
        What to do about it.
    **facts
        Kept as attributes of the error.
    """

    hint: str = ""

    def __init__(self, message: str, *, hint: str = "", **facts: Any) -> None:
        super().__init__(message)
        if hint:
            self.hint = hint
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        """Return the message, and the hint behind it."""
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


class InvalidInputError(LedgerError, ValueError):
    """A key, a record or an argument is not of the form it must have; nothing was changed."""

    row: int | None = None
    field: str | None = None


class BatchTooLargeError(InvalidInputError):
    """The batch has more rows than `batch_rows_max`."""

    hint = "split the batch, or open with a larger batch_rows_max"


class OptionsError(LedgerError, ValueError):
    """A setting is out of bounds, or does not fit another one or the ledger on disk."""

    field: str | None = None


class UnavailableError(OptionsError):
    """The machine cannot give what was asked for with `require=True`."""

    hint = "open without require=True to go on with what the machine has"


class LedgerNotFoundError(LedgerError, FileNotFoundError):
    """There is no ledger at the path, and none was to be created."""

    hint = "open with create=True to make one"


class LockedError(LedgerError):
    """Another handle, here or in another process, owns the ledger."""

    hint = "close the other handle first"
    pid: int | None = None


class ClosedError(LedgerError):
    """The handle was closed."""

    hint = "open the ledger again"


class ForkedError(LedgerError):
    """The handle was opened by the parent of this process and cannot be used in a child."""

    hint = "open the ledger in the child after the parent has closed it"


class ReadOnlyError(LedgerError):
    """The handle was opened read-only."""

    hint = "open with read_only=False"


class CapacityError(LedgerError):
    """A shard has not enough free slots for the new keys of the batch; nothing was applied."""

    hint = "create a ledger with a larger capacity and copy the accounts over"
    shard: int
    free: int
    needed: int


class FailStopError(LedgerError):
    """A write or a sync failed; what was acknowledged stays, and this handle takes no more writes."""

    hint = "mend the disk, then close and open the ledger again"


class SalvageNeededError(LedgerError):
    """The last writer's mode promises nothing after a loss of power, and power was lost."""

    hint = "open with salvage=True to keep what passes its checksums"


class FormatError(LedgerError):
    """A file of the ledger is not what it should be."""

    path: Path | None = None
    offset: int | None = None


class UnsupportedVersionError(FormatError):
    """The file was written by a newer version; it was not touched."""

    hint = "use a newer version of the package"
    found: int
    supported: int


class WrongLedgerError(FormatError):
    """The file belongs to another ledger, or to another place in this one."""

    hint = "put back the file that belongs here, from a backup"


class CorruptionError(FormatError):
    """Bytes fail their checksum, or are missing."""

    hint = "restore the ledger from a backup"


class CorruptControlError(CorruptionError):
    """Neither copy of the control block can be read."""


class CorruptLogError(CorruptionError):
    """A frame that was durable is damaged or missing."""


class CorruptIndexError(CorruptionError):
    """The index of a shard names records that do not fit it."""

    shard: int


class CorruptRecordError(CorruptionError):
    """A record fails its checksum."""

    shard: int
    slot: int
