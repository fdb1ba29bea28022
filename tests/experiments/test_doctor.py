"""What the doctor says of machines that are good, bad, or cannot be read."""

from __future__ import annotations

import copy
import json

import pytest

from experiments import __main__ as cli
from experiments import doctor, machine, runs

GOOD = {
    "cpu": {
        "usable": 8, "online": 8, "numa_nodes": 1, "governor": "performance", "turbo": False,
        "threads_share_cores": False, "quota_cpus": None,
    },
    "memory": {"total_bytes": 64 << 30, "available_bytes": 60 << 30, "swapped_bytes": 0},
    "huge_pages": {"thp_enabled": "madvise", "thp_defrag": "madvise", "hugetlb_2m_total": 512},
    "file_system": {
        "type": "ext4", "device": "/dev/nvme0n1", "mount": "/", "options": "rw,relatime", "free_bytes": 1 << 40,
        "write_cache": "write back", "rotational": "0", "disk": "a disk",
    },
    "clock_source": "tsc", "hypervisor": None, "load_1min": 0.1, "steal_share": 0.0, "on_battery": False,
    "code": {"commit": "0123456789abcdef", "dirty": False},
}  # fmt: skip


def judged(environment=(), which=lambda tool: f"/usr/bin/{tool}", **changes):
    """Return the findings of a good machine with changes, written a__b for ["a"]["b"]."""
    facts = copy.deepcopy(GOOD)
    for name, value in changes.items():
        *path, last = name.split("__")
        place = facts
        for step in path:
            place = place[step]
        place[last] = value
    return {finding.what: finding for finding in doctor.judge(facts, environment, which)}


def test_a_good_machine_has_nothing_to_mend():
    assert {"ok"} == {finding.mark for finding in judged().values()}
    assert {""} == {finding.mend for finding in judged().values()}


@pytest.mark.parametrize(
    ("change", "what", "mark", "mend"),
    [
        ({"load_1min": 7.0}, "load", "bad", "top"),
        ({"load_1min": 3.0}, "load", "mind", "top"),
        ({"cpu__usable": 1}, "CPUs", "bad", "four CPUs"),
        ({"cpu__quota_cpus": 1.5}, "CPU quota", "bad", "--cpus"),
        ({"cpu__governor": "powersave"}, "governor", "bad", "cpupower"),
        ({"cpu__turbo": True}, "turbo", "mind", "boost"),
        ({"cpu__threads_share_cores": True}, "cores", "mind", "smt/control"),
        ({"cpu__numa_nodes": 2}, "NUMA", "mind", "numactl"),
        ({"clock_source": "hpet"}, "clock", "bad", "echo tsc"),
        ({"hypervisor": "kvm", "steal_share": 0.05}, "virtual machine", "bad", "its own"),
        ({"hypervisor": "kvm"}, "virtual machine", "mind", "its own"),
        ({"memory__available_bytes": 1 << 30}, "memory", "bad", "top"),
        ({"memory__swapped_bytes": 1 << 20}, "swap", "mind", "swapoff"),
        ({"huge_pages__thp_enabled": "never"}, "huge pages", "bad", "echo madvise"),
        ({"huge_pages__thp_enabled": "always"}, "huge pages", "mind", "echo madvise"),
        ({"huge_pages__thp_defrag": "never"}, "huge page defrag", "bad", "echo madvise"),
        ({"huge_pages__hugetlb_2m_total": 0}, "hugetlb", "mind", "nr_hugepages"),
        ({"file_system__type": "tmpfs"}, "file system", "bad", runs.RESULTS_VARIABLE),
        ({"file_system__type": "overlay"}, "file system", "bad", runs.RESULTS_VARIABLE),
        ({"file_system__type": "fuse.sshfs"}, "file system", "bad", runs.RESULTS_VARIABLE),
        ({"file_system__type": "btrfs"}, "file system", "mind", "ext4"),
        ({"file_system__options": "rw,nobarrier"}, "mount options", "bad", "remount"),
        ({"file_system__free_bytes": 1 << 30}, "free disk", "bad", "old runs"),
        ({"file_system__write_cache": None}, "disk", "mind", "hdparm"),
        ({"environment": {"NUMBA_DISABLE_JIT": "1"}}, "numba", "bad", "unset NUMBA_DISABLE_JIT"),
        ({"code": {"commit": None, "dirty": None}}, "code", "mind", "git"),
        ({"code__dirty": True}, "code", "mind", "git commit"),
        ({"which": lambda tool: None}, "strace", "mind", "apt-get install strace"),
        ({"on_battery": True}, "power", "bad", "plug"),
    ],
    ids=lambda value: None if callable(value) or isinstance(value, dict) else str(value),
)
def test_each_trouble_is_named_with_what_mends_it(change, what, mark, mend):
    found = judged(**change)
    assert (mark, True) == (found[what].mark, mend in found[what].mend), found[what]
    assert {what} == {finding.what for finding in found.values() if finding.mark != "ok"}
    assert what == next(iter(found)), "the worst comes first"


def test_what_cannot_be_read_is_unknown_and_not_wrong(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_read", lambda path: "")
    monkeypatch.setattr(machine, "_command", lambda command: "")
    facts = machine.describe(tmp_path)
    unread = {
        "cpu": ("governor", "turbo", "numa_balancing"),
        "huge_pages": ("hugetlb_2m_total", "thp_enabled", "thp_shmem"),
        "file_system": ("write_cache", "disk"),
    }
    assert {None} == {facts[place][name] for place, names in unread.items() for name in names}
    assert facts["steal_share"] is None and facts["clock_source"] is None
    found = {finding.what: finding for finding in doctor.judge(facts, {}, lambda tool: None)}
    for what in ("governor", "turbo", "clock", "huge pages"):
        assert ("mind", "unknown: it cannot be read here") == (found[what].mark, found[what].found)


def test_the_command_tells_a_line_each_and_ends_well(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_SAMPLE_S", 0.05)
    assert 0 == cli.main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 10 and {line.split()[0] for line in lines} <= {"ok", "mind", "bad"}
    assert 0 == cli.main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    told = {line[4:].split(":")[0].strip() for line in lines}
    assert told == {item["what"] for item in found}, "what is looked at does not depend on what is found"
