"""From a spec to its trials, and the trials to rows.

All levels of all factors are crossed; rules name the cells that cannot exist. Each repeat passes through
all cells once, in a random order of its own with a fixed seed: what drifts on the machine hits all levels
alike, and repeats lie far apart.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from experiments import machine, noise, runs, values
from experiments import trial as trials
from experiments.errors import ResumeError
from experiments.journal import histogram_pairs
from experiments.progress import Progress
from experiments.spec import Spec, load, own_folders
from experiments.trial import Outcome, Trial

_SHOWING: Final = {
    "plots", "report", "page", "tables", "progress", "workbench", "__main__", "summary", "estimate", "compare",
    "bench", "bench_worker", "reproduce", "panel", "doctor", "dashboard", "stored", "samples",
}  # fmt: skip
"""Modules that show what was measured and cannot change it."""


@dataclass(frozen=True)
class Cell:
    """One level of each factor; `reason` says why it cannot exist, if so."""

    number: int
    factors: dict[str, Any]
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """What one experiment will measure: its cells, how often, in which order."""

    spec: Spec
    profile: str
    parameters: dict[str, Any]
    cells: tuple[Cell, ...]

    @property
    def repeats(self) -> int:
        """Return how often each cell is measured."""
        return int(self.parameters["repeats"])

    @property
    def seed(self) -> int:
        """Return the seed of keys, records and order."""
        return int(self.parameters["seed"])

    @property
    def workload(self) -> dict[str, Any]:
        """Return the parameters that are no factors and do not name the run."""
        return {name: self.parameters[name] for name in self.spec.workload[self.profile]}

    @property
    def possible(self) -> list[Cell]:
        """Return the cells that can exist."""
        return [cell for cell in self.cells if not cell.reason]

    @property
    def trials(self) -> int:
        """Return the number of trials."""
        return len(self.possible) * self.repeats

    @property
    def digest(self) -> str:
        """Return what tells this plan, and the code that measures it, from any other."""
        settings = {name: value for name, value in self.parameters.items() if name not in ("run_id", "rerun")}
        text = values.dumps([self.spec.name, self.spec.digest, settings, code_digest()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def order(self) -> Iterator[tuple[int, Cell]]:
        """Yield (repeat, cell) in the order in which they are measured."""
        for repeat in range(self.repeats):
            cells = self.possible
            for i in np.random.default_rng([self.seed, repeat]).permutation(len(cells)):
                yield repeat, cells[i]

    def _repr_html_(self) -> str:
        """Show the plan in a notebook."""
        from experiments.tables import to_html

        return to_html(self.table(), caption=f"{self.spec.name}: {self.trials} trials")

    def table(self) -> list[dict[str, Any]]:
        """Return one row a factor: its levels."""
        rows = []
        for factor in self.spec.factors.values():
            levels = ", ".join(str(level) for level in self.parameters[factor.parameter])
            rows.append({"factor": factor.name, "unit": factor.unit, "levels": levels, "meaning": factor.text})
        return rows


def plan(spec: Spec, profile: str = "smoke", changes: Mapping[str, Any] | None = None) -> Plan:
    """Cross the levels of a profile, with changes, into cells.

    Raises
    ------
    ParameterError
        A change names no parameter, or gives it what it cannot be.
    """
    parameters = spec.choose(profile, changes or {})
    factors = list(spec.factors.values())
    cells = []
    for levels in itertools.product(*(parameters[factor.parameter] for factor in factors)):
        chosen = dict(zip((factor.name for factor in factors), levels, strict=True))
        if any(rule.matches(chosen) for rule in spec.skip):
            continue
        reason = next((rule.reason for rule in spec.not_applicable if rule.matches(chosen)), "")
        cells.append(Cell(len(cells), chosen, reason))
    return Plan(spec, profile, parameters, tuple(cells))


def run(plans: Sequence[Plan], progress: Progress, resumed: runs.Run | None = None) -> runs.Run:
    """Measure all plans into one new run, or what is missing of a `resumed` one; an interruption leaves it valid.

    Raises
    ------
    KeyboardInterrupt
        Passed on after the run is closed as "interrupted"; its ``args[0]`` is the run's id.
    """
    if resumed is None:
        run_ = runs.Run.create([item.spec.name for item in plans], plans[0].profile, _manifest(plans))
    else:
        run_ = resumed
    planned = sum(item.trials for item in plans)
    try:
        if resumed is not None:
            shutil.rmtree(run_.path / "scratch", ignore_errors=True)
            run_.go_on()
        todo = missing(plans, run_)
        if todo:
            progress.prepare("loading the kernels; the first time they are compiled, which takes a minute")
            trials.start_server([item.spec.trial for item in plans])
            _check_noise(run_, ended=False)
        run_.add([row for item in plans for row in _absent_rows(item)])
        progress.start(len(todo))
        for index, item, repeat, cell in todo:
            trial = _trial(item, run_, index, repeat, cell)
            log = f"logs/{item.spec.name}-{index:04d}.log"
            progress.begin(f"{item.spec.name} {trial.label}")
            outcome = trials.run(trial, run_.path / log)
            run_.add(*_rows(trial, outcome, log))
            error = outcome.error and f"{outcome.error} (log: {run_.path / log})"
            progress.end(outcome.seconds, error, outcome.state_hash)
        if todo:
            _check_noise(run_, ended=True)
    except BaseException as error:
        run_.finish("interrupted", planned=planned)
        progress.close()
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(run_.id) from None
        raise
    finally:
        shutil.rmtree(run_.path / "scratch", ignore_errors=True)
    run_.finish("complete", planned=planned)
    progress.close()
    return run_


def missing(plans: Sequence[Plan], run_: runs.Run | None = None) -> list[tuple[int, Plan, int, Cell]]:
    """Return (number, plan, repeat, cell) of each trial that a run has not measured well, in their order."""
    order = ((item, *trial) for item in plans for trial in item.order())
    return [(index, *job) for index, job in enumerate(order) if run_ is None or run_.lacks(index)]


def plans_of(facts: Mapping[str, Any]) -> list[Plan]:
    """Return the plans of a stored run from its manifest, if the same would be measured now.

    There is no way around a refusal: rows of two codes or machines in one run could not be told apart.

    Raises
    ------
    ResumeError
        The code, an experiment's file or the machine is not what it was; the error names what differs.
    """
    faults = machine.differences(facts["machine"], machine.describe(runs.results_dir()))
    digest = code_digest()
    if facts["code"]["digest"] != digest:
        faults.append(f"the code was {facts['code']['digest']} (commit {facts['code']['commit']}) and is {digest}")
    plans = []
    for name, item in facts["experiments"].items():
        spec = load(name)
        if spec.digest != item["spec_digest"]:
            faults.append(f"the file of experiment {name} was {item['spec_digest']} and is {spec.digest}")
        else:
            plans.append(plan(spec, facts["profile"], item["parameters"]))
    if faults:
        raise ResumeError(f"run {facts['id']} cannot go on: {'; '.join(faults)}", hint="begin a new run")
    return plans


def code_digest() -> str:
    """Return a digest of the sources that decide a measurement: the ledger's and the trials'."""
    digest = hashlib.sha256()
    for package in ("ledger", "experiments"):
        for path in sorted((runs.ROOT / package).rglob("*.py")):
            if "analysis" not in path.parts and path.stem not in _SHOWING:
                digest.update(path.relative_to(runs.ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    for path in sorted(path for folder in own_folders() for path in folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def unequal_hashes(rows: Any, factors: Sequence[str]) -> list[dict[str, Any]]:
    """Return the cells whose repeats did not all leave the same accounts: there should be none."""
    measured = rows[rows["status"] == "ok"]
    if "state_hash" not in measured:
        return []
    grouped = measured.groupby(list(factors))["state_hash"].nunique()
    found = grouped[grouped > 1]
    return [dict(zip(factors, key if isinstance(key, tuple) else (key,), strict=True)) for key in found.index]


def _check_noise(run_: runs.Run, *, ended: bool) -> None:
    """Check how steady the machine is, and write it into the manifest with what was found before."""
    found = noise.check(run_.path, noise.SECONDS[run_.manifest["profile"]])
    checks = [*run_.manifest.get("noise", {}).get("checks", []), found]
    run_.manifest["noise"] = noise.judge(checks, ended=ended)
    run_.write_manifest()


def _manifest(plans: Sequence[Plan]) -> dict[str, Any]:
    """Return what a run's manifest says before its first trial."""
    results = runs.results_dir()
    results.mkdir(parents=True, exist_ok=True)
    return {
        "experiments": {
            item.spec.name: {
                "question": item.spec.question,
                "expectation": item.spec.expectation,
                "notebook": item.spec.notebook,
                "spec_digest": item.spec.digest,
                "factors": list(item.spec.factors),
                "parameters": {k: v for k, v in item.parameters.items() if k not in ("run_id", "rerun")},
            }
            for item in plans
        },
        "digests": {item.spec.name: item.digest for item in plans},
        "machine": machine.describe(results),
        "code": {**machine.code(runs.ROOT), "digest": code_digest()},
    }


def _trial(item: Plan, run_: runs.Run, index: int, repeat: int, cell: Cell) -> Trial:
    """Return the trial of a cell."""
    return Trial(
        experiment=item.spec.name,
        function=item.spec.trial,
        index=index,
        cell=cell.number,
        repeat=repeat,
        factors=cell.factors,
        workload=item.workload,
        seed=item.seed,
        timeout_s=item.spec.timeout_s,
        scratch=run_.path / "scratch" / f"{index:04d}",
    )


def _rows(trial: Trial, outcome: Outcome, log: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows and histograms of a trial; one that failed has one row with its error and its log."""
    place = {"experiment": trial.experiment, "trial": trial.index, "cell": trial.cell, "repeat": trial.repeat}
    common = {
        **place,
        **trial.factors,
        "status": outcome.status,
        "error": outcome.error,
        "log": log if outcome.status == "failed" else None,
        "reason": outcome.reason,
        "trial_s": outcome.seconds,
        "state_hash": outcome.state_hash,
        **{name: value for name, value in outcome.facts.items() if name not in trial.factors},
    }
    rows = [{**common, "operation": operation.name, **operation.numbers} for operation in outcome.operations]
    found = [
        {"experiment": trial.experiment, "trial": trial.index, "operation": operation.name, "kind": kind}
        | histogram_pairs(histogram)
        for operation in outcome.operations
        for kind, histogram in operation.histograms.items()
    ]
    return rows or [{**common, "operation": None}], found


def _absent_rows(item: Plan) -> list[dict[str, Any]]:
    """Return a row for each cell that cannot exist."""
    return [
        {
            "experiment": item.spec.name,
            "trial": None,
            "cell": cell.number,
            "repeat": None,
            **cell.factors,
            "status": "not applicable",
            "error": None,
            "reason": cell.reason,
        }
        for cell in item.cells
        if cell.reason
    ]
