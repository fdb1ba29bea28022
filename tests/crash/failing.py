"""Every call that changes the disk fails once: what was acknowledged is there at the next opening."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ledger import FailStopError, GeometricLedger, LedgerError
from ledger.storage.files import Files
from tests.faults import FaultyFiles
from tests.model import Model, make_accounts, make_key, make_keys, reopen_options, small_options

CALLS = (
    "pwrite", "fdatasync", "fsync", "start_write", "finish_write", "preallocate", "replace", "unlink", "mkdir",
    "sync_directory",
)  # fmt: skip
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
STARTS = ("new", "closed", "killed")  # what the workload finds
BATCHES = 6
SECTOR_BYTES = 512


@dataclass(eq=False)
class Faults:
    """What came out of many failures."""

    count: int = 0
    violations: list[str] = field(default_factory=list)


class NthFails(FaultyFiles):
    """Fail the n-th call that changes the disk, once, with an error; a write may first do half of its work."""

    def __init__(self, nth: int | None, error: int, half: bool) -> None:
        super().__init__()
        self.nth, self.error, self.half, self.count, self.failed = nth, error, half, 0, ""

    def note(self, call, where):
        self.calls.append((call, self._names.get(where, "?") if isinstance(where, int) else str(where)))
        if call in CALLS:
            self.count += 1
            if self.count - 1 == self.nth:
                self.failed = f"{call} {self.calls[-1][1]}"
                raise OSError(self.error, os.strerror(self.error))

    def _half(self, fd, data, offset):
        """Write the first half, in whole sectors where there are some."""
        if self.half and self.count == self.nth:
            view = memoryview(data).cast("B")
            size = len(view) // 2
            Files.pwrite(self, fd, view[: size // SECTOR_BYTES * SECTOR_BYTES or size], offset)

    def pwrite(self, fd, data, offset):
        self._half(fd, data, offset)
        super().pwrite(fd, data, offset)

    def start_write(self, fd, buffer, offset, direct):
        self._half(fd, buffer, offset)
        return super().start_write(fd, buffer, offset, direct)


def work(path: Path, kind: tuple[str, str], files: Files) -> tuple[int, int, Exception | None, list[str]]:
    """Open, write, take a snapshot, write, close.

    Returns the acknowledged LSN, what is durable in every mode, the error, and what is wrong with the stopped handle.
    """
    acknowledged = durable = 0
    ledger = None
    try:
        options = (reopen_options if (path / "control.bin").exists() else small_options)(*kind)
        ledger = GeometricLedger.open(path, options, files=files)
        acknowledged = durable = ledger.verify().lsn
        for number in range(BATCHES):
            acknowledged = ledger.update_batch(*batch(acknowledged + 1))
            if number == 2:
                durable = ledger.snapshot()
        ledger.close()
        return acknowledged, acknowledged, None, []
    except (FailStopError, OSError) as error:
        return acknowledged, durable, error, stopped_wrongly(ledger, acknowledged, error)
    finally:
        if ledger is not None:
            ledger.__del__()


def stopped_wrongly(ledger: GeometricLedger | None, acknowledged: int, error: Exception) -> list[str]:
    """Return what is wrong with a handle after an error: it is to serve what was there, and take no more writes."""
    if ledger is None or "closed" in repr(ledger):
        return []
    found = []
    seen = ledger.verify().lsn
    if acknowledged > seen or model_after(seen).accounts.get(make_key(5)) != ledger.get(make_key(5)):
        found.append(f"the stopped handle serves another state than that of LSN {acknowledged}")
    for call in (lambda: ledger.update_batch(*batch(99)), ledger.snapshot, ledger.close):
        if isinstance(error, FailStopError):
            try:
                call()
                found.append("the stopped handle goes on")
            except FailStopError:
                pass
    return found


def batch(number: int):
    """Return batch `number`: updates and a delete."""
    return make_accounts(number, 40), make_keys([number % 40])


_models = [Model()]


def model_after(lsn: int) -> Model:
    """Return the model after batch `lsn`."""
    while len(_models) <= lsn:
        _models.append(_models[-1].copy())
        _models[-1].update_batch(*batch(len(_models) - 1))
    return _models[lsn]


def make(path: Path, kind: tuple[str, str], start: str) -> None:
    """Make what the workload finds: nothing, or a ledger of two batches that was closed or killed."""
    if start == "new":
        path.mkdir()
        return
    ledger = GeometricLedger.open(path, small_options(*kind))
    for number in (1, 2):
        ledger.update_batch(*batch(number))
    ledger.close() if start == "closed" else ledger.__del__()


def fail_everywhere(
    folder: Path, kind: tuple[str, str], start: str, error: int, half: bool, found: Faults, *, step: int = 1
) -> None:
    """Let each `step`-th changing call of the workload fail, one a run, and open what is left."""
    origin = folder / "origin"
    make(origin, kind, start)
    total = NthFails(None, error, half)
    shutil.copytree(origin, folder / "whole")
    newest, _, failure, wrong = work(folder / "whole", kind, total)
    assert (failure, wrong) == (None, []) and total.count > 10
    for nth in range(step // 2, total.count, step):
        path = folder / "book"
        shutil.copytree(origin, path)
        files = NthFails(nth, error, half)
        acknowledged, durable, failure, wrong = work(path, kind, files)
        wrong += look(path, kind, max(newest - BATCHES, durable if kind[0] == "none" else acknowledged))
        # the pid is for messages only, and a segment that is made ahead may never be needed
        if failure is None and files.failed and not files.failed.endswith(("/lock", ".seg", ".seg.tmp", "/log")):
            wrong.append("nobody was told of the failure")
        place = f"{'-'.join(kind)}, {start}, {errno.errorcode[error]}{', short' if half else ''}, call {nth}"
        found.count += bool(files.failed)
        found.violations += [f"{place} ({files.failed}, {failure!r}): {what}" for what in wrong]
        shutil.rmtree(path)
    for name in ("origin", "whole"):
        shutil.rmtree(folder / name)


def look(path: Path, kind: tuple[str, str], low: int) -> list[str]:
    """Open what is left and return what is wrong with it."""
    try:
        options = (reopen_options if (path / "control.bin").exists() else small_options)(*kind)
        with GeometricLedger.open(path, options) as ledger:
            report = ledger.verify()
            if not report.ok:
                return report.faults
            if not low <= report.lsn <= 2 + BATCHES:
                return [f"LSN {report.lsn}, not within {low} to {2 + BATCHES}"]
            if model_after(report.lsn).state_hash() != ledger.state_hash():
                return [f"the state is not that of LSN {report.lsn}"]
            ledger.update_batch(make_accounts(1, 5))
    except (LedgerError, OSError) as error:
        return [f"{type(error).__name__}: {error}"]
    return []
