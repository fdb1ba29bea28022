"""What on this machine will spoil measurements, and the command that mends it; changes nothing itself."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from experiments import machine, runs
from experiments.machine import size_words

_SAMPLE_S: Final = 1.0
_THP: Final = "/sys/kernel/mm/transparent_hugepage"
_IN_MEMORY: Final = ("tmpfs", "ramfs")
_ELSEWHERE: Final = ("nfs", "nfs4", "cifs", "9p", "overlay", "virtiofs", "fuse", "sshfs")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `mark` is ok, mind or bad; `mend` is a command, or what to do."""

    mark: str
    what: str
    found: str
    mend: str = ""

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.mark:<4}  {self.what}: {self.found}" + (f"; mend: {self.mend}" if self.mend else "")


def examine() -> list[Finding]:
    """Look at this machine, for a second, and return what was found, the worst first."""
    before = machine.cpu_ticks()
    results = runs.results_dir()
    place = next(path for path in [results, *results.resolve().parents] if path.exists())
    facts = {**machine.describe(place), "code": machine.code(runs.ROOT)}
    time.sleep(_SAMPLE_S)
    facts["steal_share"] = machine.steal_share(before)
    return judge(facts, os.environ, shutil.which)


def judge(
    facts: dict[str, Any], environment: Any = (), which: Callable[[str], str | None] = shutil.which
) -> list[Finding]:
    """Return what facts of a machine, as `machine.describe` gives them, mean for measurements; the worst first."""
    found = [*_processor(facts), *_memory(facts), *_disk(facts["file_system"]), *_software(facts, environment, which)]
    return sorted(found, key=lambda finding: ("bad", "mind", "ok").index(finding.mark))


def as_dicts(findings: list[Finding]) -> list[dict[str, str]]:
    """Return findings as plain values."""
    return [asdict(finding) for finding in findings]


def _processor(facts: dict[str, Any]) -> Iterator[Finding]:
    """Judge load, frequency, sharing and clock."""
    cpu = facts["cpu"]
    usable, load = cpu["usable"], facts["load_1min"]
    mark = _grade(load / usable, 0.25, 0.6)
    yield Finding(mark, "load", f"{load:.2f} on {usable} CPUs", _if(mark, "wait, or stop what `top -o %CPU` shows"))
    mark = "bad" if usable < 2 else "mind" if usable < 4 else "ok"
    more = "a machine with four CPUs or more; threads of one ledger, and the disk's interrupts, share these"
    yield Finding(mark, "CPUs", f"{usable} of {cpu['online']} usable", _if(mark, more))
    quota = cpu.get("quota_cpus")
    if quota is not None:
        mark = "bad" if quota < usable else "ok"
        yield Finding(mark, "CPU quota", f"{quota:g} CPUs' worth", _if(mark, "start the container without --cpus"))
    yield _told(
        "governor", cpu["governor"], {"performance": "ok"}, "bad",
        "sudo cpupower frequency-set --governor performance",
    )  # fmt: skip
    off = "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost (Intel: echo 1 | sudo tee .../intel_pstate/no_turbo)"
    turbo = cpu.get("turbo")
    yield _told("turbo", None if turbo is None else "on" if turbo else "off", {"off": "ok"}, "mind", off)
    if cpu.get("threads_share_cores"):
        off = "echo off | sudo tee /sys/devices/system/cpu/smt/control"
        yield Finding("mind", "cores", "two threads share each core", off)
    if (cpu["numa_nodes"] or 1) > 1:
        mend = "numactl --cpunodebind=0 --membind=0 python -m experiments ..."
        yield Finding("mind", "NUMA", f"{cpu['numa_nodes']} nodes", mend)
    clocks = {"tsc": "ok", "kvm-clock": "ok", "arch_sys_counter": "ok", "hyperv_clocksource_tsc_page": "ok"}
    mend = "echo tsc | sudo tee /sys/devices/system/clocksource/clocksource0/current_clocksource"
    yield _told("clock", facts.get("clock_source"), clocks, "bad", mend)
    steal = facts.get("steal_share") or 0.0
    if facts.get("hypervisor"):
        mark = "bad" if steal > 0.01 else "mind"
        mend = "a machine of its own; else --profile standard, whose intervals show what the neighbours do"
        yield Finding(mark, "virtual machine", f"{facts['hypervisor']}, {steal:.1%} of the time stolen", mend)
    else:
        yield Finding("ok", "virtual machine", "none seen")


def _memory(facts: dict[str, Any]) -> Iterator[Finding]:
    """Judge memory, swap and huge pages."""
    memory, pages = facts["memory"], facts["huge_pages"]
    available = memory["available_bytes"]
    mark = "bad" if available < 2 << 30 else "mind" if available < 8 << 30 else "ok"
    yield Finding(mark, "memory", f"{size_words(available)} available", _if(mark, "stop what `top -o %MEM` shows"))
    swapped = memory.get("swapped_bytes", 0)
    mark = "bad" if swapped > memory["total_bytes"] / 50 else "mind" if swapped else "ok"
    yield Finding(mark, "swap", f"{size_words(swapped)} in use", _if(mark, "sudo swapoff -a && sudo swapon -a"))
    marks = {"madvise": "ok", "always": "mind"}
    yield _told("huge pages", pages["thp_enabled"], marks, "bad", f"echo madvise | sudo tee {_THP}/enabled")
    marks = {"madvise": "ok", "defer+madvise": "ok", "defer": "mind", "always": "mind"}
    yield _told("huge page defrag", pages["thp_defrag"], marks, "bad", f"echo madvise | sudo tee {_THP}/defrag")
    reserved = pages["hugetlb_2m_total"]
    mend = "" if reserved else "echo 1024 | sudo tee /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    yield Finding("ok" if reserved else "mind", "hugetlb", f"{_or_unknown(reserved)} pages of 2 MiB reserved", mend)


def _disk(files: dict[str, Any]) -> Iterator[Finding]:
    """Judge the file system that results and trials are written to."""
    kind, where = files["type"], f"{files['type']} on {files['device']}, at {files['mount']}"
    elsewhere = f"{runs.RESULTS_VARIABLE}=/a/folder/on/a/local/disk"
    if kind in _IN_MEMORY:
        yield Finding("bad", "file system", f"{where}: in memory, so syncs cost nothing and promise nothing", elsewhere)
    elif kind.partition(".")[0] in _ELSEWHERE:
        yield Finding("bad", "file system", f"{where}: another layer or machine is measured with it", elsewhere)
    else:
        mark = "mind" if kind in ("btrfs", "zfs", "bcachefs", "?") else "ok"
        yield Finding(mark, "file system", where, _if(mark, f"{elsewhere}, with ext4 or xfs"))
    unsafe = {"nobarrier", "barrier=0", "sync", "data=writeback"} & set(files["options"].split(","))
    if unsafe:
        mend = f"sudo mount -o remount,defaults {files['mount']}"
        yield Finding("bad", "mount options", f"{', '.join(sorted(unsafe))} change what a sync costs", mend)
    free = files["free_bytes"]
    mark = "bad" if free < 5 << 30 else "mind" if free < 20 << 30 else "ok"
    yield Finding(mark, "free disk", size_words(free), _if(mark, f"remove old runs, or {elsewhere}"))
    spins = {"1": "spinning, or virtual and said to be", "0": "does not spin"}.get(files["rotational"], "unknown")
    said = f"{_or_unknown(files.get('disk'))}, write cache {_or_unknown(files['write_cache'])}, {spins}"
    mark = "ok" if files["write_cache"] and files["rotational"] == "0" else "mind"
    mend = "name the disk when you publish; sudo hdparm -W /dev/NAME tells its cache"
    yield Finding(mark, "disk", said, _if(mark, mend))


def _software(facts: dict[str, Any], environment: Any, which: Callable[[str], str | None]) -> Iterator[Finding]:
    """Judge switches of numba, the working tree, and tools."""
    switches = [name for name in ("NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK", "NUMBA_OPT") if name in environment]
    if switches:
        yield Finding("bad", "numba", f"{', '.join(switches)} set", f"unset {' '.join(switches)}")
    code = facts.get("code") or {}
    if code.get("commit") is None:
        yield Finding("mind", "code", "no commit can be named", "apt-get install git, and work in a clone")
    else:
        mark = "mind" if code["dirty"] else "ok"
        words = f"commit {code['commit'][:12]}" + (" and changes that are in no commit" if code["dirty"] else "")
        yield Finding(mark, "code", words, _if(mark, "git commit, or git stash"))
    there = which("strace")
    said = there or "missing: make crash cannot cut between system calls"
    yield Finding("ok" if there else "mind", "strace", said, "" if there else "apt-get install strace")
    if facts.get("on_battery"):
        yield Finding("bad", "power", "on battery", "plug it in")


def _told(what: str, value: str | None, marks: dict[str, str], other: str, mend: str) -> Finding:
    """Judge a setting by its word; one that cannot be read is to be minded, and needs no mending."""
    if value is None:
        return Finding("mind", what, "unknown: it cannot be read here")
    mark = marks.get(value, other)
    return Finding(mark, what, value, _if(mark, mend))


def _grade(value: float, mind: float, bad: float) -> str:
    """Return the mark of a number."""
    return "bad" if value > bad else "mind" if value > mind else "ok"


def _if(mark: str, mend: str) -> str:
    """Return how to mend what is not ok."""
    return "" if mark == "ok" else mend


def _or_unknown(value: Any) -> str:
    """Return a value, or that it cannot be read."""
    return "unknown" if value is None else str(value)
