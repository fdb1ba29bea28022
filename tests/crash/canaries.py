"""Engines that are wrong in one place each. A harness that lets one of them pass does not look hard enough."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from ledger.engine import checkpoint
from ledger.storage import control, log, log_reader, shard
from tests.crash import cuts
from tests.crash.recorder import Lying, Recorder, Retrying


@contextlib.contextmanager
def image_before_log() -> Iterator[None]:
    """Write blocks whose frames are not durable."""
    with mock.patch.object(checkpoint.Checkpointer, "_settle", lambda self: None):
        yield


@contextlib.contextmanager
def log_given_back_early() -> Iterator[None]:
    """Reuse log segments before the control block names the new checkpoint."""

    original = checkpoint.Checkpointer._write

    def write(self, begun, paced):
        self._log.recycle(begun.mark)
        self._pause(self._log.prepare)
        self._log.wait_prepared()
        original(self, begun, paced)

    with mock.patch.object(checkpoint.Checkpointer, "_write", write):
        yield


@contextlib.contextmanager
def torn_frames_believed() -> Iterator[None]:
    """Take a frame by its header alone."""
    with mock.patch.object(log_reader, "payload_agrees", lambda header, frame: True):
        yield


@contextlib.contextmanager
def no_journal() -> Iterator[None]:
    """Write a snapshot without a log straight over the image."""
    original = Recorder.unlink

    def unlink(self, path, *, missing_ok=False):
        original(self, path, missing_ok=True)

    with mock.patch.object(checkpoint, "write_journal", lambda *arguments: None):
        with mock.patch.object(Recorder, "unlink", unlink):
            yield


@contextlib.contextmanager
def tail_not_rewritten() -> Iterator[None]:
    """Go on behind frames that a killed writer left in the page cache only."""
    with mock.patch.object(log.Log, "_rewrite", lambda self, scan: None):
        yield


@contextlib.contextmanager
def blocks_forgotten() -> Iterator[None]:
    """Let a checkpoint leave out every other dirty block of records."""
    original = shard.Shards.take_dirty

    def take_dirty(self):
        dirty = original(self)
        dirty.records[1::2] = 0
        return dirty

    with mock.patch.object(shard.Shards, "take_dirty", take_dirty):
        yield


@contextlib.contextmanager
def totals_left_behind() -> Iterator[None]:
    """Write blocks whose frames are durable, before totals as of those frames are."""

    def settle(self):
        newest = self._log.lsn
        while self._log.sync() < newest:
            self._check()

    with mock.patch.object(checkpoint.Checkpointer, "_settle", settle):
        yield


@contextlib.contextmanager
def control_in_place() -> Iterator[None]:
    """Write the control block over the copy that counts."""
    original = control.Control.write

    def write(self, files, path):
        self._copy = 1 - self._copy
        original(self, files, path)

    with mock.patch.object(control.Control, "write", write):
        yield


@dataclass(frozen=True)
class Canary:
    """A wrong engine, and the mode and the workload in which it shows; no workload: each sync fails once."""

    name: str
    kind: tuple[str, str]
    make_files: Callable[[Path], Recorder] = Recorder
    patch: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    patch_recovery: bool = False
    work: Callable[..., None] | None = cuts.steady_work


def lying(about: str) -> Callable[[Path], Recorder]:
    """Return what makes a disk that lies about syncs of some paths."""
    return functools.partial(Lying, about=about)


SYNC, ASYNC, NONE = ("sync", "private"), ("async", "private"), ("none", "private")
CANARIES = (
    Canary("acknowledges before the write is durable", SYNC, lying(r"\.seg$")),
    Canary("syncs no folder", SYNC, lying("/$")),
    Canary("control block before the blocks are durable", SYNC, lying("^(shard|index)_")),
    Canary("never syncs the log", ASYNC, lying(r"\.seg$")),
    Canary("names a log segment before it is durable", SYNC, lying(r"\.seg\.tmp$")),
    Canary("never syncs the control block", SYNC, lying("^control.bin$")),
    Canary("control block over the copy that counts", SYNC, patch=control_in_place),
    Canary("blocks before their frames are durable", SYNC, patch=image_before_log),
    Canary("blocks before totals are durable", SYNC, patch=totals_left_behind),
    Canary("log given back before the control block", SYNC, patch=log_given_back_early),
    Canary("believes torn frames", SYNC, patch=torn_frames_believed, patch_recovery=True),
    Canary("snapshot without a journal", NONE, patch=no_journal),
    Canary("names a journal before it is durable", NONE, lying(r"^journal\.bin\.tmp$")),
    Canary("does not rewrite the tail of a killed writer", ASYNC, patch=tail_not_rewritten, work=cuts.killed_work),
    Canary("checkpoint leaves out blocks", SYNC, patch=blocks_forgotten),
    Canary("tries a failed write again", SYNC, Retrying, work=None),
    Canary("tries a failed sync again", ASYNC, Retrying, work=None),
    Canary("does not rewrite the tail of a failed sync", ASYNC, patch=tail_not_rewritten, work=None),
)


def catch(canary: Canary, folder: Path, rounds: int) -> tuple[int, str]:
    """Return the images that were looked at until a wrong engine was found out, and by what; "" if it was not."""
    findings = cuts.Findings()
    for number in range(rounds):
        about = {"images": 2, "first": number % 3, "step": 3, "seed": number, "enough": 1}
        if canary.work is None:
            cuts.cut_after_failed_syncs(
                folder, canary.kind, findings, every=4, make_files=canary.make_files, patch=canary.patch, **about
            )
        else:
            with canary.patch():
                trace = cuts.record(folder / "book", canary.kind, make_files=canary.make_files, work=canary.work)
            with canary.patch() if canary.patch_recovery else contextlib.nullcontext():
                cuts.cut(trace, folder / "image", findings, **about)
        if findings.violations:
            return findings.images, findings.violations[0]
    return findings.images, ""
