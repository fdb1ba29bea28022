"""Every sixth call that changes the disk fails; `make crash` takes every one."""

from __future__ import annotations

import errno

import pytest

from tests.crash import failing

KINDS = [("none", "private"), ("msync", "shared"), ("async", "memory"), ("sync", "private")]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize(("error", "half"), [(errno.ENOSPC, False), (errno.EIO, True)], ids=["full", "short"])
def test_a_call_that_fails_loses_nothing_that_was_acknowledged(tmp_path, kind, error, half):
    found = failing.Faults()
    for start in failing.STARTS:
        failing.fail_everywhere(tmp_path, kind, start, error, half, found, step=6)
    assert [] == found.violations
    assert found.count > 10
