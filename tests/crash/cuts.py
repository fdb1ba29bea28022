"""Power cuts: a workload is recorded once, then cut at every operation, many times at each."""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np

from ledger import FailStopError, GeometricLedger, LedgerError, LedgerNotFoundError
from ledger.engine import checkpoint
from tests.crash.disk import Disk, Op, lay
from tests.crash.recorder import Recorder
from tests.model import Model, make_accounts, make_key, reopen_options, small_options

SMALL = {"capacity": 96, "shards": 2, "threads": 1}
PIECE_BYTES = 4096
SLACK_S = 0.25  # beyond the sync interval: the time that a sync itself and a busy machine may take


@dataclass(eq=False)
class Trace:
    """What a workload told the disk, and the states it went through.

    Attributes
    ----------
    kind : (durability, storage)
    ops, times
        See `Recorder`.
    start : dict of str to bytes
        The folder before.
    models : list of Model
        The state after each LSN.
    syncs, failed
        See `Recorder`.
    """

    kind: tuple[str, str]
    ops: list[Op]
    times: list[float]
    start: dict[str, bytes]
    models: list[Model]
    syncs: int = 0
    failed: str = ""


def batch(number: int) -> tuple[np.ndarray, list[bytes]]:
    """Return batch `number`: updates, new accounts now and then, and a delete."""
    first = (number * 5) % 40
    deletes = [make_key((number * 7) % 48)] if number % 3 == 0 else []
    return make_accounts(number, 6 + number % 5, first=first), deletes


def record(
    folder: Path,
    kind: tuple[str, str],
    *,
    batches: int = 60,
    make_files: Callable[[Path], Recorder] = Recorder,
    work: Callable[..., None] | None = None,
    fail_at: int | None = None,
    **options: object,
) -> Trace:
    """Run a workload through a recorder: create, write, checkpoints while writers go on, close, open again.

    With `fail_at`, that one of its syncs fails.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = make_files(folder)
    files.fail_at = fail_at
    models = [Model()]
    with mock.patch.object(checkpoint, "PIECE_BYTES", PIECE_BYTES):  # so that a checkpoint lasts some batches
        (work or steady_work)(folder, kind, files, models, batches, SMALL | options)
    shutil.rmtree(folder)
    return Trace(kind, files.ops, files.times, files.start, models, files.syncs, files.failed)


def steady_work(folder, kind, files, models, batches, options) -> None:
    """Write batches, with a checkpoint on demand under way beside them every now and then."""
    ledger = GeometricLedger.open(folder, small_options(*kind, **options), files=files)
    files.mark("open", 0)
    helpers: list[threading.Thread] = []
    for number in range(1, batches + 1):
        models.append(models[-1].copy())
        rows, deletes = batch(number)
        models[-1].update_batch(rows, deletes)
        lsn = ledger.update_batch(rows, deletes or None)
        assert lsn == number
        files.mark("acknowledged", lsn)
        if number % 9 == 0 and not (helpers and helpers[-1].is_alive()):
            helpers.append(threading.Thread(target=snapshot, args=(ledger, files, number)))
            helpers[-1].start()
            if kind[0] == "none" or number % 2:
                helpers[-1].join()
        if number == batches * 2 // 3:
            for helper in helpers:
                helper.join()
            ledger.close()
            files.mark("image", number)
            ledger = GeometricLedger.open(folder, reopen_options(*kind), files=files)
    for helper in helpers:
        helper.join()
    files.mark("closing", batches)
    ledger.close()
    files.mark("image", batches)


def killed_work(folder, kind, files, models, batches, options) -> None:
    """Write, die, recover, write, close: what the page cache holds outlives the process, not a power cut."""
    ledger = GeometricLedger.open(folder, small_options(*kind, sync_interval_s=3600.0, **options), files=files)
    files.mark("open", 0)
    for life in range(3):
        for _ in range(batches // 6):
            models.append(models[-1].copy())
            rows, deletes = batch(len(models) - 1)
            models[-1].update_batch(rows, deletes)
            assert ledger.update_batch(rows, deletes or None) == len(models) - 1
            files.mark("promised" if life == 2 or kind[0] == "sync" else "applied", len(models) - 1)
        files.dead = True
        ledger.__del__()
        files.dead = False
        # the last life is synced at each batch: what its headers name as durable has to be
        mode = ("sync", kind[1]) if life == 1 else kind
        ledger = GeometricLedger.open(folder, reopen_options(*mode, sync_interval_s=3600.0), files=files)
    files.dead = True
    ledger.__del__()


def forgetful_work(folder, kind, files, models, batches, options) -> None:
    """Write, with checkpoints, until a sync fails; then drop the handle, open again beside the page cache, go on."""
    options = small_options(*kind, sync_interval_s=3600.0, **options)
    ledger, again = None, False
    while True:
        try:
            there = (folder / "control.bin").exists()
            ledger = GeometricLedger.open(folder, reopen_options(*kind) if there else options, files=files)
            lsn = ledger.verify().lsn
            for word in ("image", "promised") if there else ("open",):
                files.mark(word, lsn)  # what is served after an opening stays
            while lsn < batches:
                lsn += 1
                rows, deletes = batch(lsn)
                if lsn == len(models):
                    models.append(models[-1].copy())
                    models[-1].update_batch(rows, deletes)
                assert ledger.update_batch(rows, deletes or None) == lsn
                files.mark("promised" if kind[0] == "sync" else "applied", lsn)
                if lsn % 5 == 0:
                    snapshot(ledger, files, lsn)
            files.mark("closing", lsn)
            ledger.close()
            files.mark("image", lsn)
            return
        except (FailStopError, OSError):
            if again or not files.failed:
                raise
            if ledger is not None:
                ledger.__del__()
            ledger, again = None, True


def snapshot(ledger, files, number) -> None:
    """Take a checkpoint, saying when it begins and what it holds."""
    files.mark("begin", number)
    files.mark("image", ledger.snapshot())


@dataclass(eq=False)
class Findings:
    """What came out of many cuts."""

    cuts: int = 0
    images: int = 0
    violations: list[str] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    keep: Path | None = None

    def violate(self, what: str, image: dict[str, bytes]) -> None:
        """Note a violation, and lay its image where it stays, if there is such a place."""
        if self.keep is not None:
            place = self.keep / digest_of(image).hex()
            lay(image, place)
            what += f" (kept: {place})"
        self.violations.append(what)


def survivors(trace: Trace, stop: int, interval_s: float) -> tuple[int, int]:
    """Return the least and the greatest LSN that may be there after a cut behind `stop` operations."""
    acknowledged = image = begun = late = promised = 0
    now = trace.times[stop - 1] if stop else 0.0
    for op, at in zip(trace.ops[:stop], trace.times, strict=False):
        if op.kind != "mark":
            continue
        if op.a == "acknowledged":
            acknowledged = max(acknowledged, int(op.b))
            if at < now - interval_s - SLACK_S:
                late = acknowledged
        elif op.a in ("promised", "applied"):
            acknowledged = int(op.b)
            promised = acknowledged if op.a == "promised" else promised
        elif op.a == "image":
            image = max(image, int(op.b))
        elif op.a in ("begin", "closing"):
            begun = max(begun, int(op.b))
    newest = min(acknowledged + 1, len(trace.models) - 1)
    if trace.kind[0] == "none":
        return image, newest  # a snapshot may hold what came up to its beginning
    return (acknowledged if trace.kind[0] == "sync" else max(image, late, promised)), newest


def cut(
    trace: Trace,
    folder: Path,
    findings: Findings,
    *,
    images: int,
    step: int = 1,
    first: int = 0,
    seed: int = 1,
    sector_bytes: int = 512,
    enough: int | None = None,
    after: int = 0,
    assured: bool = True,
) -> None:
    """Cut a trace behind every `step`-th operation and open what is left, `images` times each.

    Parameters
    ----------
    folder
        Where images are laid; best in memory.
    enough
        Violations after which to stop.
    after
        Operations before the first cut.
    assured
        Whether the disk is one that the ledger may assume. If not, only a wrong answer is a violation; losses and
        errors are counted in `Findings.outcomes`.
    """
    disk = Disk(trace.start)
    choose = random.Random(seed)
    # no image can be empty of news where nothing has changed since the last cut but a mark
    for stop in range(len(trace.ops) + 1):
        if stop:
            disk.do(trace.ops[stop - 1])
        if stop < after or stop % step != first or (stop and trace.ops[stop - 1].kind == "mark"):
            continue
        findings.cuts += 1
        low, high = survivors(trace, stop, 0.01)
        for _ in range(images):
            image = disk.survive(choose, sector_bytes=sector_bytes)
            digest = digest_of(image)
            if digest in findings.seen:
                continue
            findings.seen.add(digest)
            findings.images += 1
            outcome, text = judge(image, folder, trace, low, high, deep=assured and findings.images % 8 == 0)
            findings.outcomes[outcome] += 1
            if outcome == WRONG or (assured and outcome != KEPT):
                work = f"failed sync of {trace.failed}, " if trace.failed else ""
                findings.violate(f"{'-'.join(trace.kind)}, {work}seed {seed}, cut {stop}: {outcome}: {text}", image)
                if enough is not None and len(findings.violations) >= enough:
                    return


def digest_of(image: dict[str, bytes]) -> bytes:
    """Return a digest of names and contents."""
    digest = hashlib.blake2b(digest_size=16)
    for path, data in sorted(image.items()):
        digest.update(f"{path}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.digest()


KEPT, SHORTER, REFUSED, FAULTY, WRONG = "kept", "shorter", "refused", "found by verify", "wrong answer"


def check(image: dict[str, bytes], folder: Path, trace: Trace, low: int, high: int, *, deep: bool) -> str:
    """Open an image and compare it with what the mode promises; return what is wrong with it, or nothing."""
    outcome, text = judge(image, folder, trace, low, high, deep=deep)
    return "" if outcome == KEPT else f"{outcome}: {text}"


def judge(image: dict[str, bytes], folder: Path, trace: Trace, low: int, high: int, *, deep: bool) -> tuple[str, str]:
    """Open an image and return how it compares with what the mode promises, and why.

    An image is `KEPT` (LSN `low` to `high`, all of it right), `SHORTER` (the same at a lower LSN), `REFUSED` by an
    error with a name, `FAULTY` by the ledger's own account, or `WRONG`.
    """
    lay(image, folder)
    try:
        ledger = GeometricLedger.open(folder, reopen_options(*trace.kind), create=False)
    except LedgerNotFoundError:
        if "control.bin" in image:
            return WRONG, "a ledger is not found"
        return (REFUSED, "there is no ledger") if low > 0 else (KEPT, "")
    except LedgerError as error:
        return REFUSED, f"{type(error).__name__}: {error}"
    try:
        outcome = compare(ledger, trace, low, high)
        problem = go_on(ledger, folder, trace) if deep and outcome[0] == KEPT else ""
        return (WRONG, problem) if problem else outcome
    except LedgerError as error:
        return REFUSED, f"{type(error).__name__}: {error}"
    finally:
        ledger.__del__()


def compare(ledger: GeometricLedger, trace: Trace, low: int, high: int) -> tuple[str, str]:
    """Compare an open ledger with the state of its LSN."""
    report = ledger.verify()
    if not report.ok:
        return FAULTY, "; ".join(report.faults)
    if report.lsn > high:
        return WRONG, f"LSN {report.lsn}, not within {low} to {high}"
    model = trace.models[report.lsn]
    if ledger.state_hash() != model.state_hash():
        return WRONG, f"the state is not that of LSN {report.lsn}"
    if (report.live, report.supply) != (len(model.accounts), model.supply):
        return WRONG, f"live {report.live}, supply {report.supply}: not those of LSN {report.lsn}"
    if report.lsn < low:
        return SHORTER, f"LSN {report.lsn}, not within {low} to {high}"
    return KEPT, ""


def go_on(ledger: GeometricLedger, folder: Path, trace: Trace) -> str:
    """Write, checkpoint, forget and open again."""
    lsn = ledger.verify().lsn
    model = trace.models[lsn].copy()
    for number in (lsn + 1, lsn + 2):
        rows, deletes = batch(number)
        model.update_batch(rows, deletes)
        if ledger.update_batch(rows, deletes or None) != number:
            return f"the batch after LSN {number - 1} got another one"
        if number == lsn + 1 or trace.kind[0] == "none":
            ledger.snapshot()
    ledger.__del__()
    with GeometricLedger.open(folder, reopen_options(*trace.kind), create=False) as again:
        if again.state_hash() != model.state_hash() or not again.verify().ok:
            return "what was written after the recovery is not there"
    return ""


def cut_after_failed_syncs(
    folder: Path,
    kind: tuple[str, str],
    findings: Findings,
    *,
    every: int = 1,
    seed: int = 1,
    make_files: Callable[[Path], Recorder] = Recorder,
    patch: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    **cuts: object,
) -> None:
    """Let every so many-th sync of a workload fail, one a recording, and cut each recording from there on."""
    about = {"batches": 18, "make_files": make_files, "work": forgetful_work}
    total = record(folder / "book", kind, **about).syncs
    for number in range(seed % every, total, every):
        with patch():
            trace = record(folder / "book", kind, fail_at=number, **about)
        after = next((at for at, op in enumerate(trace.ops) if op.kind in ("forget", "lost")), len(trace.ops)) + 1
        cut(trace, folder / "image", findings, after=after, seed=seed + number, **cuts)
        if len(findings.violations) >= (cuts.get("enough") or 1 << 30):
            return
