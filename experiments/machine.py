"""What a run was measured on: machine, kernel, file system, versions, commit. Read, never guessed.

What cannot be read is None, which pages and `doctor` call unknown.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = (
    "numpy", "numba", "llvmlite", "blake3", "pandas", "pyarrow", "scipy", "matplotlib", "papermill", "jupyterlab",
    "lmdb", "rocksdict", "duckdb",
)  # fmt: skip
_CPUS: Final = Path("/sys/devices/system/cpu")

_IDENTITY: Final = {
    "cpu.model": "the CPU", "cpu.usable": "the number of CPUs", "memory.total_bytes": "memory in bytes",
    "kernel": "the kernel", "virtualisation": "virtualisation", "huge_pages.thp_enabled": "the THP setting",
    "file_system.type": "the file system", "file_system.device": "the disk", "python": "Python",
    "packages": "the set of packages",
}  # fmt: skip


def describe(path: Path) -> dict[str, Any]:
    """Return the facts of this machine and of the file system that holds `path`, as plain values."""
    return {
        "cpu": cpu(),
        "memory": memory(),
        "huge_pages": _huge_pages(),
        "kernel": platform.release(),
        "system": _system(),
        "virtualisation": _virtualisation(),
        "hypervisor": _command(["systemd-detect-virt", "--vm"]) or ("hypervisor" if _flag("hypervisor") else None),
        "product": _read(Path("/sys/class/dmi/id/product_name")) or None,
        "clock_source": _read(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")) or None,
        "file_system": _file_system(path),
        "on_battery": _on_battery(),
        "load_1min": os.getloadavg()[0],
        "steal_share": steal_share(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return in words what tells two machines, or their software, from each other; nothing if they measure alike."""
    found = []
    for name, what in _IDENTITY.items():
        first, second = one, other
        for key in name.split("."):
            first, second = first.get(key), second.get(key)
        if first != second:
            found.append(f"{what} was {first} and is {second}")
    return found


def code(root: Path) -> dict[str, Any]:
    """Return commit and dirty flag of the working tree, None where git cannot tell."""
    commit = _command(["git", "-C", str(root), "rev-parse", "HEAD"])
    dirty = _command(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"]) if commit else None
    return {"commit": commit or None, "dirty": bool(dirty) if commit else None}


def sentence(facts: dict[str, Any]) -> str:
    """Return the machine in one line, for captions."""
    processor, memory, files = facts["cpu"], facts["memory"], facts["file_system"]
    caches = processor.get("caches", {})
    last = caches.get("L3") or caches.get("L2")
    parts = [
        f"{processor['model']}, {processor['usable']} CPUs" + (f", L3 {size_words(last)}" if last else ""),
        f"{size_words(memory['total_bytes'])} memory",
        f"Linux {facts['kernel'].split('-')[0]}",
        f"{files['type']} on {files['device']}",
    ]
    return " · ".join(parts)


def size_words(size: float) -> str:
    """Return a size with a binary unit, as people write it."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError


def data_cache_bytes() -> dict[str, int]:
    """Return the size of each level of data cache that one CPU sees."""
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if _read(index / "type") in ("Data", "Unified"):
            text = _read(index / "size")
            factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
            sizes["L" + _read(index / "level")] = int(text.rstrip("KMG") or 0) * factor
    return sizes


def tlb_entries() -> int | None:
    """Return the entries of the last TLB level for 4 KiB pages, where /proc/cpuinfo tells (AMD does)."""
    text = _cpuinfo("TLB size").split()
    return int(text[0]) if text else None


def cpu() -> dict[str, Any]:
    """Return model, counts, caches, TLB, frequency policy."""
    return {
        "model": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "family_model_stepping": "-".join(_cpuinfo(key) for key in ("cpu family", "model", "stepping")),
        "online": os.cpu_count(),
        "usable": len(os.sched_getaffinity(0)),
        "caches": data_cache_bytes(),
        "tlb_entries_4k": tlb_entries(),
        "avx2": _flag("avx2"),
        "avx512": _flag("avx512f"),
        "numa_nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or None,
        "numa_balancing": _read(Path("/proc/sys/kernel/numa_balancing")) or None,
        "threads_share_cores": {"1": True, "0": False}.get(_read(_CPUS / "smt/active")),
        "governor": _read(_CPUS / "cpu0/cpufreq/scaling_governor") or None,
        "turbo": _turbo(),
        "quota_cpus": _quota_cpus(),
    }


def _turbo() -> bool | None:
    """Return whether cores may run faster than their nominal frequency."""
    off, on = _read(_CPUS / "intel_pstate/no_turbo"), _read(_CPUS / "cpufreq/boost")
    return off == "0" if off else on == "1" if on else None


def _quota_cpus() -> float | None:
    """Return the CPUs' worth of time that a control group grants, None without such a bound."""
    quota, _, period = _read(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def steal_share(since: tuple[int, int] = (0, 0)) -> float | None:
    """Return the share of CPU time that the host gave to others, since the start or since some `cpu_ticks`."""
    stolen, total = cpu_ticks()
    return (stolen - since[0]) / (total - since[1]) if total > since[1] else None


def cpu_ticks() -> tuple[int, int]:
    """Return (stolen, all) ticks of all CPUs since the start; zeros where they cannot be read."""
    ticks = [int(word) for word in _read(Path("/proc/stat")).partition("\n")[0].split()[1:9]]
    return (ticks[7], sum(ticks)) if len(ticks) == 8 else (0, 0)


def memory() -> dict[str, int]:
    """Return total and available memory, and swap in use."""
    table = {}
    for line in _read(Path("/proc/meminfo")).splitlines():
        name, _, rest = line.partition(":")
        table[name] = int(rest.split()[0]) * 1024 if rest.split()[1:] == ["kB"] else int(rest.split()[0])
    swapped = table.get("SwapTotal", 0) - table.get("SwapFree", 0)
    total, available = table.get("MemTotal", 0), table.get("MemAvailable", 0)
    return {"total_bytes": total, "available_bytes": available, "swapped_bytes": swapped}


def _huge_pages() -> dict[str, Any]:
    """Return the settings of transparent huge pages and what hugetlb holds."""
    thp = Path("/sys/kernel/mm/transparent_hugepage")
    small = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    return {
        "thp_enabled": _chosen(_read(thp / "enabled")) or None,
        "thp_defrag": _chosen(_read(thp / "defrag")) or None,
        "thp_shmem": _chosen(_read(thp / "shmem_enabled")) or None,
        "hugetlb_2m_total": _number(small / "nr_hugepages"),
        "hugetlb_2m_free": _number(small / "free_hugepages"),
    }


def _file_system(path: Path) -> dict[str, Any]:
    """Return mount, type and device under a path, and what the disk says of itself."""
    path = path.resolve()
    best: dict[str, Any] = {"mount": "?", "type": "?", "device": "?", "options": ""}
    for line in _read(Path("/proc/self/mounts")).splitlines():
        device, mount, kind, options = line.split()[:4]
        mount = mount.encode().decode("unicode_escape")
        inside = path.is_relative_to(mount)
        if inside and (best["mount"] == "?" or len(mount) >= len(best["mount"])):
            best = {"mount": mount, "type": kind, "device": device, "options": options}
    usage = os.statvfs(path)
    disk = Path("/sys/class/block", Path(best["device"]).resolve().name).resolve()
    disk = disk.parent if (disk / "partition").exists() else disk
    queue = disk / "queue"
    return {
        **best,
        "disk": _read(disk / "device/model") or None,
        "free_bytes": usage.f_bavail * usage.f_frsize,
        "write_cache": _read(queue / "write_cache") or None,
        "scheduler": _chosen(_read(queue / "scheduler")) or None,
        "rotational": _read(queue / "rotational") or None,
    }


def _system() -> str:
    """Return the distribution's own name."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _virtualisation() -> str:
    """Return what systemd-detect-virt says, or whether the CPU knows of a hypervisor."""
    found = _command(["systemd-detect-virt"])
    return found or ("hypervisor" if _flag("hypervisor") else "none seen")


def _flag(name: str) -> bool:
    """Return whether /proc/cpuinfo has a flag."""
    return name in _cpuinfo("flags").split()


def _number(path: Path) -> int | None:
    """Return a file's whole number, None where it cannot be read."""
    text = _read(path)
    return int(text) if text.isdigit() else None


def _on_battery() -> bool | None:
    """Return whether no mains supply is connected, None where the machine knows of none."""
    online = [_read(path) for path in Path("/sys/class/power_supply").glob("A*/online")]
    return "1" not in online if online else None


def _version(name: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpuinfo(key: str) -> str:
    """Return the first value of a key of /proc/cpuinfo."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _chosen(text: str) -> str:
    """Return the word in brackets: the setting that holds."""
    return text.partition("[")[2].partition("]")[0] or text


def _read(path: Path) -> str:
    """Return a file's text, empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _command(command: list[str]) -> str:
    """Return the first line that a command prints, empty where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().partition("\n")[0] if done.returncode == 0 else ""
