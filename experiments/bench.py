"""The working tree against a commit: both are built, and measured in turn on this machine.

Each side gets a virtual environment of its own, with the project installed as a user would have it; other packages are
those of this interpreter. What is timed is some 100 ms of each operation in each pair of processes, with the same keys.

What differs between two runs of the same code, and what is done about it:

- The machine's speed drifts, and other guests take its time: the sides take turns every few ms, which one
  begins is left to chance, and a block of calls counts by a quick one.
- Two processes of the same code differ for as long as they live, by where their memory lies. With small pages such
  ratios of `update_batch` scattered by 13 % on a 2-core virtual machine, whatever was averaged within them; with
  huge pages by 1 %, so the ledgers ask for these. What is left is in the interval, since a ratio is made within a pair
  of processes and the interval of the ratios of many pairs.
- The CPUs of a busy machine are not alike: both sides run on the same one, each round on the next one, and
  with one thread, so that nobody else's work is waited for.
- Compiled kernels, hash seeds, first calls: loaded before, fixed, left out.

The estimate of an operation is the median of the means of any two pairs, its interval that of Wilcoxon's signed-rank
test (Hodges and Lehmann, Annals of Mathematical Statistics 34, 1963): a few disturbed pairs move neither. Pairs are
added until each interval lies on one side of the threshold, or there are `pairs_max`, or `seconds_max` are over.
Equal code is called only if an interval leaves 1 by the whole threshold, and the confidence is high because there
are several operations and looks.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from experiments import compare, machine, runs, values
from experiments.compare import Comparison, Line
from experiments.errors import BuildError, ParameterError

THRESHOLD: Final = 0.05
CONFIDENCE: Final = 0.998
"""Of each interval. Where an operation scatters by more than the threshold, nothing else keeps chance from a call."""
SIZES: Final = {
    "accounts": 100_000, "batch_rows": 4_096, "gets_per_call": 200, "sync_rows": 256, "insert_rows_max": 400_000,
    "pairs_min": 12, "pairs_max": 32, "pairs_a_start": 4, "rounds": 6, "calls_divisor": 1, "seconds_max": 120,
}  # fmt: skip
QUANTILE: Final = 0.25
"""A block counts by so quick a call: what interrupts calls hits many of them on a busy machine, the quickest seldom."""
CALLS: Final = {"update_batch": 20, "get_batch": 30, "get": 40, "insert": 6, "sync": 12}
"""Calls of a block."""
_WORKER: Final = Path(__file__).with_name("bench_worker.py")


class Worker:
    """The process of one side; it is asked in lines of JSON."""

    def __init__(self, python: Path, settings: Mapping[str, Any]) -> None:
        self.process = subprocess.Popen(
            [python, "-P", "-s", _WORKER, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )

    def ask(self, request: Any = None) -> Any:
        """Send a request (None ends a ledger's process), and return the answer."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request).encode() * (request is not None) + b"\n")
            self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        """Return the next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = json.loads(line) if line else {"error": "its process died"}
        if isinstance(found, dict) and "error" in found:
            raise BuildError(f"{self.process.args[0]}: {found['error']}")  # type: ignore[index]
        return found

    def close(self) -> None:
        """End the process and what it forked: their stdin ends."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def measure(
    pythons: tuple[Path, Path], plant_percent: float, folder: Path, sizes: Mapping[str, int]
) -> Generator[dict[str, float]]:
    """Yield for each pair of processes the logarithms of time of B over A by operation, without end."""
    chance = random.Random()
    while True:
        with contextlib.ExitStack() as stack:
            sides = [
                stack.enter_context(contextlib.closing(Worker(python, {**sizes, "plant_percent": plant})))
                for python, plant in zip(pythons, (0.0, plant_percent), strict=True)
            ]
            for side in sides:
                side.answer()
            for _ in range(sizes["pairs_a_start"]):
                yield _pair(sides, folder, chance, sizes)


def _pair(sides: list[Worker], folder: Path, chance: random.Random, sizes: Mapping[str, int]) -> dict[str, float]:
    """Fork a process of each side, let them take turns, and return the median ratio of each operation."""
    seed = chance.getrandbits(32)
    for number in chance.sample((0, 1), 2):
        path = folder / str(number)
        path.mkdir()
        sides[number].ask({"folder": str(path), "seed": seed})
    ratios: dict[str, list[float]] = {name: [] for name in CALLS}
    cpus = sorted(os.sched_getaffinity(0))
    for turn in range(-1, sizes["rounds"]):
        for name in CALLS:
            order = chance.sample((0, 1), 2)
            times: tuple[list[float], list[float]] = [], []
            for number in order + order[::-1]:
                block = sides[number].ask(
                    {"operation": name, "calls": CALLS[name] // sizes["calls_divisor"], "cpu": cpus[turn % len(cpus)]}
                )
                times[number].append(math.log(np.quantile(block, QUANTILE)))
            if turn >= 0:  # the first passes are the warm-up
                ratios[name].append(float(np.mean(times[1]) - np.mean(times[0])))
    for number, side in enumerate(sides):
        side.ask()
        shutil.rmtree(folder / str(number))
    return {name: float(np.median(found)) for name, found in ratios.items()}


def estimate(ratios: list[float], confidence: float) -> tuple[float, float | None, float | None]:
    """Return (middle, low, high) of logarithms by Wilcoxon's signed ranks; no interval where there are too few.

    Examples
    --------
    >>> estimate([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], 0.95)
    (0.25, 0.0, 0.5)
    """
    sample = np.asarray(ratios)
    first, second = np.triu_indices(sample.size)
    means = np.sort((sample[first] + sample[second]) / 2)
    ways = np.ones(1)
    for rank in range(1, sample.size + 1):
        ways = np.convolve(ways, np.bincount([0, rank]))
    below = int((np.cumsum(ways) / ways.sum() <= (1 - confidence) / 2 + 1e-12).sum())
    middle = float(np.median(means))
    return (middle, float(means[below - 1]), float(means[-below])) if below else (middle, None, None)


def judge(ratios: Mapping[str, list[float]], a: str, b: str, threshold: float) -> Comparison:
    """Return the verdict over all operations, from the logarithms of their ratios by pair."""
    lines = []
    for name, sample in ratios.items():
        found = estimate(sample, CONFIDENCE)
        ratio, lo, hi = (None if number is None else math.exp(number) for number in found)
        assert ratio is not None
        lines.append(Line("bench", {}, name, "ns_per_call", ratio, lo, hi, *compare.verdict(lo, hi, threshold)))
    return Comparison(a, b, threshold, [], lines, confidence=CONFIDENCE)


@contextlib.contextmanager
def built(commit: str) -> Iterator[tuple[tuple[Path, Path], Path, str]]:
    """Build the commit and the working tree; give their interpreters, a folder for ledgers, and the commit's full name.

    Raises
    ------
    ParameterError
        There is no such commit, or no git.
    BuildError
        A side cannot be installed; the message ends with what the installer said.
    """
    name = _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").strip()
    if not name:
        raise ParameterError(
            f"there is no commit {commit} in {runs.ROOT}", hint="see git log --oneline", name="against"
        )
    cache = runs.ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache) as temporary:
        folder = Path(temporary)
        for side in "ab":
            (folder / side / "source").mkdir(parents=True)
        archive = subprocess.Popen(
            ["git", "-C", runs.ROOT, "archive", name, "--", ".", ":!results"], stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "-xC", folder / "a" / "source"], stdin=archive.stdout, check=True)
        archive.communicate()
        for path in _git("ls-files", "-coz", "--exclude-standard", "--", ".", ":!results").split("\0"):
            if path and (runs.ROOT / path).is_file():
                target = folder / "b" / "source" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(runs.ROOT / path, target)
        pythons = _install(folder / "a"), _install(folder / "b")
        yield pythons, folder, name


def _install(folder: Path) -> Path:
    """Install a source into a virtual environment that sees the packages of this one; return its interpreter."""
    environment = folder / "venv"
    python = environment / "bin" / "python"
    inside = "import sysconfig; print(sysconfig.get_path('purelib'))"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--quiet"]
    uv = [sys.executable, "-m", "uv", "pip", "install", "--python", python, "--offline", "--quiet"]
    settings = {"cwd": folder, "env": _environment(), "capture_output": True, "text": True, "check": False}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    packages = Path(subprocess.run([python, "-c", inside], **{**settings, "check": True}).stdout.strip())
    seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    # Packages in these folders are seen, their .pth files are not: an editable install of the project stays out.
    (packages / "seen.pth").write_text("\n".join(seen), encoding="utf-8")
    said = []
    for installer in (uv, pip):
        done = subprocess.run([*installer, "--no-deps", "--no-build-isolation", folder / "source"], **settings)
        if done.returncode == 0:
            return python
        said.append(done.stderr.strip())
    raise BuildError(
        f"side {folder.name} cannot be installed: {said[0] or said[1]}",
        hint="building needs hatchling: pip install '.[dev]'" if "hatchling" in "".join(said) else "",
    )


def _environment() -> dict[str, str]:
    """Return the environment of a side: of this project it sees nothing but what is installed in it."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {**{name: value for name, value in os.environ.items() if name not in hidden}, "PYTHONHASHSEED": "0"}


def _git(*arguments: str) -> str:
    """Return what git prints, empty where it fails."""
    try:
        done = subprocess.run(["git", "-C", runs.ROOT, *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ParameterError(f"git cannot be run: {error}", hint="install git", name="git") from None
    return done.stdout if done.returncode == 0 else ""


def run(
    against: str = "HEAD",
    *,
    tries: int = 1,
    plant_percent: float = 0.0,
    threshold: float = THRESHOLD,
    sizes: Mapping[str, int] = SIZES,
) -> list[Comparison]:
    """Compare the working tree with a commit, as often as asked; `plant_percent` slows the tree's `update_batch` down.

    Raises
    ------
    ParameterError
        Something asked for cannot be.
    """
    compare.check_threshold(threshold)
    if tries < 1:
        raise ParameterError(f"tries is {tries}", hint="give 1 or more", name="tries")
    if not 0 <= plant_percent <= 1000:
        raise ParameterError(f"plant is {plant_percent:g}", hint="give percent, 0 to 1000", name="plant")
    found = []
    if machine.describe(runs.ROOT)["huge_pages"]["thp_enabled"] == "never":
        _say("this machine gives no transparent huge pages: processes of the same code will differ by more")
    _say("building both sides, and compiling their kernels where that was not done before")
    with built(against) as (pythons, folder, commit):
        planted = f", update_batch slowed down by {plant_percent:g} %" if plant_percent else ""
        for number in range(tries):
            pairs = measure(pythons, plant_percent, folder, sizes)
            found.append(_decide(pairs, f"commit {commit[:12]}", f"working tree{planted}", threshold, sizes))
            if tries > 1:
                called = " ".join(line.operation for line in found[-1].lines if line.verdict == "regression")
                _say(f"try {number + 1} of {tries}: {found[-1].verdict} {called} ({found[-1].notes[0]})")
    return found


def _decide(
    pairs: Generator[dict[str, float]], a: str, b: str, threshold: float, sizes: Mapping[str, int]
) -> Comparison:
    """Take pairs until the interval of every operation lies on one side of the threshold, or there are enough."""
    started = time.monotonic()
    ratios: dict[str, list[float]] = {name: [] for name in CALLS}
    with contextlib.closing(pairs):
        for number, pair in enumerate(pairs, 1):
            for name, ratio in pair.items():
                ratios[name].append(ratio)
            if number < sizes["pairs_min"] or number % sizes["pairs_a_start"]:
                continue
            found = judge(ratios, a, b, threshold)
            seconds = time.monotonic() - started
            if number >= sizes["pairs_max"] or seconds > sizes["seconds_max"] or found.decided:
                break
    found.notes.append(f"{number} pairs of processes, {seconds:.0f} s")
    return found


def print_result(found: list[Comparison], *, as_json: bool) -> int:
    """Print one comparison, or what came out of many; return 1 if any is a regression, else 2 if any cannot tell."""
    if len(found) == 1:
        return compare.print_result(found[0], as_json=as_json, cells=True)
    counts = {word: sum(item.verdict == word for item in found) for word in compare.EXIT}
    operations = {
        name: {
            **{word: sum(line.verdict == word for line in lines) for word in compare.EXIT},
            "ratios": [round(line.ratio, 4) for line in lines],
            "half_widths": [
                round((line.hi - line.lo) / 2, 4) for line in lines if line.lo is not None and line.hi is not None
            ],
        }
        for name in CALLS
        if (lines := [line for item in found for line in item.lines if line.operation == name])
    }
    if as_json:
        print(values.dumps({"tries": len(found), **counts, "operations": operations}), flush=True)
    else:
        rows = [
            {"operation": name, **{word: item[word] for word in compare.EXIT}, "least B / A": min(item["ratios"]),
             "greatest": max(item["ratios"]), "median half width": float(np.median(item["half_widths"] or [math.nan]))}
            for name, item in operations.items()
        ]  # fmt: skip
        print(f"{len(found)} tries: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
        print(compare.aligned(pd.DataFrame(rows, dtype=object)), flush=True)
    return next(compare.EXIT[word] for word in ("regression", "cannot tell", "none") if counts[word])


def _say(line: str) -> None:
    """Tell what is going on."""
    print(line, file=sys.stderr, flush=True)
