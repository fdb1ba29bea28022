"""Engines that are wrong in one place each. A harness that lets one of them pass does not look hard enough."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

from ledger.engine import checkpoint
from ledger.storage import log, log_reader, shard
from tests.crash.recorder import Recorder


class AcknowledgesUnwritten(Recorder):
    """Takes a log write for durable before it is."""

    def finish_write(self, handle):
        handle[2].finish()


class ForgetsFolders(Recorder):
    """Never syncs a folder."""

    def sync_directory(self, path):
        pass


class ForgetsImage(Recorder):
    """Never syncs records and indexes."""

    def _sync(self, fd, sync):
        name = next((name for name, number in self._inodes.items() if number == self._fds[fd]), "")
        if not name.startswith(("shard_", "index_")):
            super()._sync(fd, sync)


class ForgetsLogSync(Recorder):
    """Never syncs the log in mode "async"."""

    def _sync(self, fd, sync):
        name = next((name for name, number in self._inodes.items() if number == self._fds[fd]), "")
        if not name.endswith(".seg"):
            super()._sync(fd, sync)


class ForgetsControl(Recorder):
    """Never syncs the control block."""

    def _sync(self, fd, sync):
        name = next((name for name, number in self._inodes.items() if number == self._fds[fd]), "")
        if name != "control.bin":
            super()._sync(fd, sync)


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


@dataclass(frozen=True)
class Canary:
    """A wrong engine, and the mode in which it shows."""

    name: str
    kind: tuple[str, str]
    make_files: type[Recorder] = Recorder
    patch: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    patch_recovery: bool = False
    killed: bool = False


SYNC, ASYNC, NONE = ("sync", "private"), ("async", "private"), ("none", "private")
CANARIES = (
    Canary("acknowledges before the write is durable", SYNC, AcknowledgesUnwritten),
    Canary("syncs no folder", SYNC, ForgetsFolders),
    Canary("control block before the blocks are durable", SYNC, ForgetsImage),
    Canary("never syncs the log", ASYNC, ForgetsLogSync),
    Canary("never syncs the control block", SYNC, ForgetsControl),
    Canary("blocks before their frames are durable", SYNC, patch=image_before_log),
    Canary("log given back before the control block", SYNC, patch=log_given_back_early),
    Canary("believes torn frames", SYNC, patch=torn_frames_believed, patch_recovery=True),
    Canary("snapshot without a journal", NONE, patch=no_journal),
    Canary("does not rewrite the tail of a killed writer", ASYNC, patch=tail_not_rewritten, killed=True),
    Canary("checkpoint leaves out blocks", SYNC, patch=blocks_forgotten),
)
