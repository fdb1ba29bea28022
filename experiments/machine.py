"""What a run was measured on: machine, kernel, file system, versions, commit. Read, never guessed."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("numpy", "numba", "llvmlite", "blake3", "pandas", "pyarrow", "matplotlib", "papermill", "lmdb")

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
        "file_system": _file_system(path),
        "load_1min": os.getloadavg()[0],
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
    base = Path("/sys/devices/system/cpu")
    return {
        "model": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "family_model_stepping": "-".join(_cpuinfo(key) for key in ("cpu family", "model", "stepping")),
        "online": os.cpu_count(),
        "usable": len(os.sched_getaffinity(0)),
        "caches": data_cache_bytes(),
        "tlb_entries_4k": tlb_entries(),
        "avx2": "avx2" in _cpuinfo("flags").split(),
        "avx512": "avx512f" in _cpuinfo("flags").split(),
        "numa_nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1,
        "governor": _read(base / "cpu0/cpufreq/scaling_governor") or None,
        "turbo_off": _read(base / "intel_pstate/no_turbo") or None,
    }


def memory() -> dict[str, int]:
    """Return total and available memory."""
    table = {}
    for line in _read(Path("/proc/meminfo")).splitlines():
        name, _, rest = line.partition(":")
        table[name] = int(rest.split()[0]) * 1024 if rest.split()[1:] == ["kB"] else int(rest.split()[0])
    return {"total_bytes": table.get("MemTotal", 0), "available_bytes": table.get("MemAvailable", 0)}


def _huge_pages() -> dict[str, Any]:
    """Return the settings of transparent huge pages and what hugetlb holds."""
    thp = Path("/sys/kernel/mm/transparent_hugepage")
    small = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    return {
        "thp_enabled": _chosen(_read(thp / "enabled")),
        "thp_defrag": _chosen(_read(thp / "defrag")),
        "hugetlb_2m_total": int(_read(small / "nr_hugepages") or 0),
        "hugetlb_2m_free": int(_read(small / "free_hugepages") or 0),
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
    queue = Path("/sys/class/block") / Path(best["device"]).name / "queue"
    return {
        **best,
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
    return found or ("hypervisor" if "hypervisor" in _cpuinfo("flags").split() else "none seen")


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
