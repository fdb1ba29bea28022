"""What is assumed of a disk: taken away, batches are lost, and no wrong answer is given all the same."""

from __future__ import annotations

import pytest

from tests.crash import cuts
from tests.crash.canaries import lying


def cut(folder, make_files=cuts.Recorder, *, step=4, **disk):
    """Cut a workload on a disk that is not as assumed; return what came of the images."""
    findings = cuts.Findings()
    trace = cuts.record(folder / "book", ("sync", "private"), batches=40, make_files=make_files)
    cuts.cut(trace, folder / "image", findings, images=3, step=step, assured=False, **disk)
    assert [] == findings.violations
    return findings.outcomes


def test_a_disk_that_tears_sectors_costs_openings_and_gives_no_wrong_answer(tmp_path):
    outcomes = cut(tmp_path, step=2, sector_bytes=8)  # few cuts meet the stamp of a header
    assert outcomes[cuts.REFUSED] and outcomes[cuts.KEPT]
    assert {cuts.KEPT, cuts.REFUSED} == set(outcomes)


@pytest.mark.parametrize("about", [r"\.seg$", ""], ids=["of the log", "of everything"])
def test_a_disk_that_lies_about_syncs_costs_batches_and_gives_no_wrong_answer(tmp_path, about):
    outcomes = cut(tmp_path, lying(about))
    assert outcomes[cuts.REFUSED] + outcomes[cuts.SHORTER] and outcomes[cuts.KEPT]
