"""A few hundred power cuts, and the wrong engines that the harness has to find; `make crash` does it at length."""

from __future__ import annotations

import pytest

from tests.crash import cuts
from tests.crash.canaries import CANARIES, catch
from tests.crash.disk import Disk, Op

KINDS = [("sync", "private"), ("async", "private"), ("none", "private"), ("sync", "memory")]


def cut(folder, kind, **work):
    """Cut the power at every fifth operation of a workload."""
    trace = cuts.record(folder / "book", kind, batches=40, **work)
    findings = cuts.Findings()
    cuts.cut(trace, folder / "image", findings, images=2, step=5)
    return findings


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_power_cut_leaves_what_the_mode_promises(tmp_path, kind):
    findings = cut(tmp_path, kind)
    assert [] == findings.violations
    assert findings.images > 60


@pytest.mark.parametrize("kind", KINDS[:2], ids="-".join)
def test_a_power_cut_after_a_kill_and_a_recovery_loses_nothing_that_was_promised(tmp_path, kind):
    findings = cut(tmp_path, kind, work=cuts.killed_work)
    assert [] == findings.violations
    assert findings.images > 30


@pytest.mark.parametrize("kind", KINDS[:2], ids="-".join)
def test_what_was_acknowledged_survives_a_sync_that_failed_and_forgot(tmp_path, kind):
    findings = cuts.Findings()
    cuts.cut_after_failed_syncs(tmp_path, kind, findings, every=3, images=1, step=15)
    assert [] == findings.violations
    assert findings.images > 40


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.name)
def test_a_wrong_engine_is_found_out(tmp_path, canary):
    assert catch(canary, tmp_path, rounds=30)[1]


def test_the_disk_keeps_what_was_synced_and_may_lose_or_tear_the_rest():
    import random

    disk = Disk({"old": b"o" * 1024})
    for op in (
        Op("name", "a", 1), Op("write", 1, 0, b"x" * 1024), Op("begin", 1, 7), Op("write", 1, 1024, b"y" * 1024),
        Op("end", 1, 7), Op("write", disk.inode_of("old"), 0, b"n" * 1024),
    ):  # fmt: skip
        disk.do(op)
    choose = random.Random(1)
    images = [disk.survive(choose) for _ in range(300)]
    assert {("old",), ("a", "old")} == {tuple(sorted(image)) for image in images}
    contents = {image["a"] for image in images if "a" in image}
    assert all(data[:1024] == b"x" * 1024 for data in contents)
    assert {b"x" * 1024, b"x" * 1024 + b"y" * 1024} <= contents
    olds = {image["old"] for image in images}
    assert {b"o" * 1024, b"n" * 1024, b"n" * 512 + b"o" * 512, b"o" * 512 + b"n" * 512} == olds
    for op in (Op("write", 1, 0, b"z" * 512), Op("begin", 1, 8), Op("forget", 1, 8)):
        disk.do(op)
    assert {b"x" * 1024} == {image["a"] for image in map(disk.survive, [choose] * 50) if "a" in image}
    disk.do(Op("folder", "", disk.count))
    disk.do(Op("rename", "a", "b"))
    assert {("a", "old"), ("b", "old")} == {tuple(sorted(disk.survive(choose))) for _ in range(100)}
