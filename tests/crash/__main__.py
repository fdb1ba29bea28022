"""The long lane: power cuts, failing syncs, kills, failing calls, damage, and the wrong engines it has to find out.

``python -m tests.crash`` prints a table, and as its last line the sums as JSON; its status is 1 if a promise was
broken or a wrong engine passed. Images of broken promises are kept in `.cache/crash`.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import click

import ledger
from tests.crash import canaries, cuts, damage, failing, kills, syscalls
from tests.crash.disk import memory_folder
from tests.model import LOGGED_MODES, MODES

KEPT = Path(__file__).resolve().parents[2] / ".cache" / "crash"
WORKERS = 2
UNMAPPED = [mode for mode in MODES if mode[1] != "shared"]
SUMS = ("images", "cuts", "kills", "faults", "flips", "canaries", "canaries_caught")


@dataclass(eq=False)
class Result:
    """What a task has to say: `sums` by the names of `SUMS`."""

    part: str
    what: str
    sums: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, findings: cuts.Findings) -> None:
        """Take in what came out of cuts."""
        self.sums.update(images=findings.images, cuts=findings.cuts)
        self.outcomes.update(findings.outcomes)
        self.violations += findings.violations


# ---------------------------------------------------------------- the parts
def cut_work(result: Result, folder: Path, kind: tuple[str, str], work: str, images: int, seed: int) -> None:
    """Record a workload and cut it, again and again."""
    findings = cuts.Findings(keep=KEPT)
    for number in itertools.count(seed):
        trace = cuts.record(folder / "book", kind, work=getattr(cuts, work))
        cuts.cut(trace, folder / "image", findings, images=2, step=8, first=number % 8, seed=number, enough=5)
        if findings.images >= images or findings.violations:
            break
    result.add(findings)


def fail_syncs(result: Result, folder: Path, kind: tuple[str, str], every: int, seed: int) -> None:
    """Let syncs fail and forget, then cut."""
    findings = cuts.Findings(keep=KEPT)
    cuts.cut_after_failed_syncs(folder, kind, findings, every=every, images=2, step=4, seed=seed, enough=5)
    result.add(findings)


def take_assumption_away(result: Result, folder: Path, kind: tuple[str, str], about: str, images: int) -> None:
    """Tear sectors into pieces of so many bytes, or lie about the syncs of some files, and cut."""
    findings = cuts.Findings(keep=KEPT)
    for number in itertools.count():
        torn = about.isdecimal()
        trace = cuts.record(folder / "book", kind, **({} if torn else {"make_files": canaries.lying(about)}))
        cuts.cut(
            trace, folder / "image", findings, images=2, step=8, first=number % 8, seed=number, assured=False,
            **({"sector_bytes": int(about)} if torn else {}),
        )  # fmt: skip
        if findings.images >= images:
            break
    result.add(findings)


def kill(result: Result, folder: Path, kind: tuple[str, str], cycles: int, seed: int) -> None:
    """Kill writers."""
    found = kills.Kills()
    kills.run(folder, kind, found, cycles=cycles, seed=seed)
    result.sums["kills"] = found.struck.total()
    result.outcomes, result.violations = found.struck, found.violations


def fail_calls(result: Result, folder: Path, kind: tuple[str, str], start: str, step: int) -> None:
    """Let every call fail that changes the disk, with each error, and once as a short write."""
    found = failing.Faults()
    for error, half in (*((error, False) for error in failing.ERRORS), (failing.ERRORS[0], True)):
        failing.fail_everywhere(folder, kind, start, error, half, found, step=step)
    result.sums["faults"] = found.count
    result.violations = found.violations


def do_damage(result: Result, folder: Path, name: str, seed: int, step: int) -> None:
    """Flip every field of every format, and do worse."""
    found = damage.Damage()
    damage.run(folder, name, found, seed=seed, step=step)
    result.sums["flips"] = found.count
    result.outcomes, result.violations = found.outcomes, found.violations


def trace_calls(result: Result, folder: Path, images: int) -> None:
    """Cut what strace saw of the system calls."""
    findings = syscalls.run(folder, images, 1)
    if isinstance(findings, str):
        result.outcomes[findings] += 1
    else:
        result.add(findings)


def find_out(result: Result, folder: Path, number: int, rounds: int) -> None:
    """Look whether a wrong engine is found out."""
    canary = canaries.CANARIES[number]
    images, how = canaries.catch(canary, folder, rounds)
    result.sums.update(canaries=1, canaries_caught=int(bool(how)))
    result.outcomes[f"found out after {images} images" if how else f"NOT FOUND OUT in {images} images"] += 1


Task = tuple[str, str, Callable[..., None], tuple[object, ...]]


def tasks(quick: bool) -> Iterator[Task]:
    """Yield part, what it is about, a function and its arguments."""
    less = 10 if quick else 1
    for number, canary in enumerate(canaries.CANARIES):
        yield "canaries", canary.name, find_out, (number, 30)
    works = [*((kind, "steady_work") for kind in UNMAPPED), *((kind, "killed_work") for kind in LOGGED_MODES)]
    for seed, (kind, work) in itertools.product(range(1 if quick else 4), works):
        yield "cuts", f"{'-'.join(kind)} {work.partition('_')[0]}", cut_work, (kind, work, 200 if quick else 600, seed)
    yield "syscalls", "as strace sees them", trace_calls, (600 // less,)
    for kind in UNMAPPED:
        for seed in range(1 if quick else 2):
            yield "syncs", "-".join(kind), fail_syncs, (kind, 20 if quick else 2, seed)
    for kind, about in itertools.product((("sync", "private"), ("async", "private"), ("none", "private")), ABOUT):
        yield "assumptions", f"{'-'.join(kind)}, {ABOUT[about]}", take_assumption_away, (kind, about, 400 // less)
    for seed, kind in itertools.product(range(1 if quick else 2), MODES):
        yield "kills", "-".join(kind), kill, (kind, 8 if quick else 40, seed)
    for kind, start in itertools.product(MODES, failing.STARTS):
        yield "faults", f"{'-'.join(kind)}, {start}", fail_calls, (kind, start, less)
    for seed, name in itertools.product(range(1 if quick else 2), damage.KINDS):
        yield "damage", name, do_damage, (name, seed, less)


ABOUT = {
    "8": "sectors torn", "/$": "folders not synced", r"\.seg$": "log not synced", "^(shard|index)_": "image not synced",
    "control": "control block not synced", "": "nothing synced",
}  # fmt: skip


def run(task: Task, root: Path) -> Result:
    """Do one task, in a worker."""
    part, what, function, arguments = task
    result, start = Result(part, what), time.monotonic()
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        function(result, folder, *arguments)
    except Exception:
        result.violations.append(f"{part}, {what}, {arguments}: {traceback.format_exc()}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result.seconds = time.monotonic() - start
    return result


# ---------------------------------------------------------------- what is shown
def table(results: list[Result]) -> Iterator[str]:
    """Yield the lines of the table: one for each thing that several tasks were about."""
    yield f"{'part':12} {'what':48} {'cases':>7} {'wrong':>6} {'s':>6}  outcomes"
    for (part, what), group in itertools.groupby(
        sorted(results, key=lambda r: (r.part, r.what)), key=lambda r: (r.part, r.what)
    ):
        whole = Result(part, what)
        for result in group:
            whole.sums += result.sums
            whole.outcomes += result.outcomes
            whole.violations += result.violations
            whole.seconds += result.seconds
        cases = next((whole.sums[name] for name in ("images", *SUMS[2:]) if whole.sums[name]), 0)
        outcomes = ", ".join(f"{name} {count:,}" for name, count in whole.outcomes.most_common())
        yield f"{part:12} {what:48} {cases:7,} {len(whole.violations):6} {whole.seconds:6.0f}  {outcomes}"


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of everything.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(dict.fromkeys(task[0] for task in tasks(True)))),
    help="This part; may be given several times.",
)  # fmt: skip
def main(quick: bool, only: tuple[str, ...]) -> None:
    """Break the ledger in every way that it says it withstands."""
    start = time.monotonic()
    ledger.warm_up(lambda what, done, of: say(f"kernels: {what}"))
    todo = [task for task in tasks(quick) if not only or task[0] in only]
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="gl-crash-", dir=memory_folder()) as root:
        # forked with loaded kernels, before this process has threads
        with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as workers:
            futures = [workers.submit(run, task, Path(root)) for task in todo]
            for done, future in enumerate(as_completed(futures), 1):
                result = future.result()
                results.append(result)
                sums = ", ".join(f"{count:,} {name}" for name, count in result.sums.items())
                say(f"{time.monotonic() - start:5.0f} s  {done}/{len(todo)}  {result.part}, {result.what}: {sums}")
                for violation in result.violations:
                    say(f"VIOLATION {violation}")
    print(*table(results), sep="\n")
    violations = [violation for result in results for violation in result.violations]
    print(*(f"VIOLATION {violation}" for violation in violations), sep="\n")
    total = sum((result.sums for result in results), Counter())
    sums = {name: total[name] for name in SUMS} | {"violations": len(violations)}
    print(json.dumps(sums | {"seconds": round(time.monotonic() - start, 1)}))
    sys.exit(int(bool(violations) or sums["canaries"] != sums["canaries_caught"]))


if __name__ == "__main__":
    main()
