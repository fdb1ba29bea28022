"""Power cuts of what strace saw, and whether the recorder tells the same."""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
from collections import Counter, defaultdict

import pytest

from ledger.storage.files import Files
from tests.crash import cuts, syscalls
from tests.crash.recorder import Recorder
from tests.model import Model


class ForgetsFolders(syscalls.Marked):
    def sync_directory(self, path):
        pass


class ForgetsLogSyncs(syscalls.Marked):
    def fdatasync(self, fd):
        if not os.readlink(f"/proc/self/fd/{fd}").endswith(".seg"):
            super().fdatasync(fd)


class TakesCachedForDurable(syscalls.Marked):
    def start_write(self, fd, buffer, offset, direct):
        return super().start_write(fd, buffer, offset, True)


def traced(function, *arguments, **options):
    try:
        return function(*arguments, **options)
    except syscalls.Unavailable as why:
        pytest.skip(str(why))


def test_a_power_cut_between_system_calls_leaves_what_the_mode_promises(tmp_path):
    findings = syscalls.run(tmp_path, 60, 1)
    if isinstance(findings, str):
        pytest.skip(findings)
    assert [] == findings.violations
    assert findings.images >= 60


@pytest.mark.parametrize(
    ("make_files", "kind", "way"),
    [
        (ForgetsFolders, ("sync", "private"), syscalls.as_it_is),
        (ForgetsLogSyncs, ("async", "private"), syscalls.as_it_is),
        (TakesCachedForDurable, ("sync", "private"), syscalls.without_direct),
    ],
)
def test_a_wrong_engine_is_found_out_by_its_system_calls(tmp_path, make_files, kind, way):
    findings = cuts.Findings()
    for seed in range(20):
        trace = traced(syscalls.record, tmp_path / "book", kind, way, make_files=make_files)
        cuts.cut(trace, tmp_path / "image", findings, images=2, step=5, first=seed % 5, seed=seed, enough=1)
        if findings.violations:
            return
    pytest.fail(f"{make_files.__name__} passed in {findings.images} images")


@pytest.mark.parametrize("kind", [("sync", "private"), ("none", "private")], ids="-".join)
def test_the_recorder_tells_what_the_kernel_was_told(tmp_path, kind):
    folder = tmp_path / "book"
    folder.mkdir()

    def work(say):
        recorder = Recorder(folder)
        cuts.steady_work(folder, kind, recorder, [Model()], 40, cuts.SMALL)
        (tmp_path / "told").write_bytes(pickle.dumps(recorder.ops))

    seen, _ = syscalls.operations(traced(syscalls.watch, work), folder)
    told = pickle.loads((tmp_path / "told").read_bytes())
    assert names_of(seen) == names_of(told)
    in_files, promised = files_of(seen)
    in_recorder, recorded = files_of(told)
    assert in_files == in_recorder
    assert recorded <= promised and recorded.total() >= 40 * (kind[0] == "sync")


def names_of(ops):
    """Return what happened to names and folders, each with how often."""
    kinds = ("name", "rename", "unlink", "folder")
    return Counter((op.kind, op.a, op.b if op.kind == "rename" else "") for op in ops if op.kind in kinds)


def files_of(ops):
    """Return, by name and number of its use, what a file was told in order; and the writes that were syncs."""
    keys, files, durable, uses = {}, defaultdict(list), Counter(), Counter()
    for op in ops:
        if op.kind == "name":
            keys[op.b] = (op.a, uses[op.a])
            uses[op.a] += 1
        elif op.kind == "durable":
            durable[keys[op.a], ops[op.b - 1].b, len(ops[op.b - 1].c)] += 1
        elif op.kind in ("begin", "end"):
            files[keys[op.a]].append(op.kind)
        elif op.kind in ("write", "truncate", "allocate"):
            files[keys[op.a]].append((op.kind, op.b, len(op.c), hashlib.blake2b(op.c).hexdigest()))
    return files, durable


def append(fd):
    os.write(fd, b"x")


def store(fd):
    os.ftruncate(fd, 4096)
    mmap.mmap(fd, 4096)[0] = 1


def gather(fd):
    os.pwritev(fd, [b"x"], 0)


@pytest.mark.parametrize("change", [append, store, gather])
def test_a_change_that_the_model_does_not_know_is_an_error(tmp_path, change):
    def work(say):
        change(Files().open(tmp_path / "file", os.O_RDWR | os.O_CREAT))

    calls = traced(syscalls.watch, work)
    with pytest.raises(syscalls.Unmodelled):
        syscalls.operations(calls, tmp_path)


def test_calls_of_several_threads_are_put_together():
    calls = syscalls.parse([
        r'7 1.0 pwrite64(3</a>, "\x61", 1, 0 <unfinished ...>',
        r"8 2.0 fdatasync(3</a>) = -1 EIO (Input/output error)",
        r"9 3.0 exit_group(0) = ?",
        r"7 4.0 <... pwrite64 resumed>) = 1",
    ])  # fmt: skip
    assert [("pwrite64", 0, 3, 1), ("fdatasync", 1, 1, -1), ("exit_group", 2, None, None)] == [
        (call.name, call.entry, call.exit, call.result) for call in calls
    ]


def test_a_sync_covers_only_writes_that_had_returned(tmp_path):
    root = str(tmp_path)
    calls = syscalls.parse([
        f'7 1.0 openat(AT_FDCWD</>, "{root}/a", O_RDWR|O_CREAT, 0640) = 3<{root}/a>',
        rf'7 2.0 pwrite64(3<{root}/a>, "\x61", 1, 0) = 1',
        rf'7 3.0 pwrite64(3<{root}/a>, "\x62", 1, 1 <unfinished ...>',
        f"8 4.0 fdatasync(3<{root}/a>) = 0",
        "7 5.0 <... pwrite64 resumed>) = 1",
    ])  # fmt: skip
    ops, _ = syscalls.operations(calls, tmp_path)
    disk = cuts.Disk()
    for op in ops:
        disk.do(op)
    assert b"a" == disk.inodes[disk.inode_of("a")].durable


def test_without_strace_a_run_says_why_it_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "skipped: strace is not installed" == syscalls.run(tmp_path / "cuts", 1, 1)
    (tmp_path / "strace").write_text("#!/bin/sh\necho 'strace: attach: Operation not permitted' >&2; exit 1\n")
    (tmp_path / "strace").chmod(0o755)
    assert "skipped: strace: attach: Operation not permitted" == syscalls.run(tmp_path / "cuts", 1, 1)
