"""A few kills among several writers; `make crash` does it at length."""

from __future__ import annotations

import pytest

from tests.crash import kills


@pytest.mark.parametrize("kind", [("sync", "private"), ("async", "memory")], ids="-".join)
def test_kills_among_several_writers_lose_and_tear_no_acknowledged_batch(tmp_path, kind):
    found = kills.Kills()
    kills.run(tmp_path, kind, found, cycles=10, seed=1)
    assert [] == found.violations
    assert {"opening", "writing", "checkpoint", "recovery"} & set(found.struck)
