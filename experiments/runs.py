"""Runs on disk: rows, histograms and a manifest in one folder, valid after every trial.

::

    results/runs/<id>/
        manifest.json       what it is: specs, parameters, machine, versions, commit, state, noise
        rows.parquet        one row for each operation of each trial, failed and not applicable ones too
        histograms.parquet  the counts of their latencies (see `journal`, also for a run that has not ended)
        logs/               what trials printed
        notebooks/  figures/  report.html

The state is "complete" or "interrupted"; "running" is also what a killed run says. Either goes on by
``run --resume``.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from experiments import journal, values
from experiments.errors import RunNotFoundError, nearest
from experiments.measure import Histogram

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS_VARIABLE: Final = "EXPERIMENTS_RESULTS"
_NAMES_MAX: Final = 120
"""Characters that the names of experiments may take in the name of a folder."""
_ALWAYS: Final = ("trial", "repeat", "status", "error", "reason", "state_hash", "operation")


def results_dir() -> Path:
    """Return the folder of all runs: ``results`` beside the package, or $EXPERIMENTS_RESULTS."""
    return Path(os.environ.get(RESULTS_VARIABLE) or ROOT / "results")


class Run:
    """A run being written, by one process; other runs beside it do not meet it.

    Attributes
    ----------
    statuses
        What became of each trial that ended, by its number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = {}
        self.statuses: dict[int, str] = {}
        self._journal = journal.Journal(path)

    @classmethod
    def create(cls, experiments: Sequence[str], profile: str, facts: Mapping[str, Any]) -> Run:
        """Make the folder of a new run; its id is what it is: experiments, profile, digest of the plans, date, time."""
        now = datetime.datetime.now(datetime.UTC)
        names = "_".join(experiments)
        names = names if len(names) <= _NAMES_MAX else f"{experiments[0]}_and_{len(experiments) - 1}_more"
        digest = hashlib.sha256(values.dumps(facts.get("digests", {})).encode()).hexdigest()[:6]
        base = f"{names}-{profile}-{digest}-{now:%Y%m%d-%H%M%S}"
        parent = results_dir() / "runs"
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            run_id = base if number == 1 else f"{base}-{number}"
            try:
                (parent / run_id).mkdir()
            except FileExistsError:
                continue
            run = cls(parent / run_id)
            started = now.isoformat(timespec="seconds")
            run.manifest = {"id": run_id, "profile": profile, "state": "running", "started": started, **facts}
            run._journal.keep([], [])
            run.write_manifest()
            return run
        raise AssertionError("a thousand runs in one second")

    @classmethod
    def reopen(cls, run_id: str) -> Run:
        """Take a stored run to look at and then, by `go_on`, to write on.

        Raises
        ------
        RunNotFoundError
            There is none.
        RunBusyError
            Another process is writing it.
        """
        run = cls(find(run_id))
        run.manifest = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
        run._count(journal.read_rows(run.path).to_pylist())
        return run

    @property
    def id(self) -> str:
        """Return the name of the folder."""
        return self.path.name

    @property
    def counts(self) -> dict[str, int]:
        """Return how many trials ended, and how many of them failed."""
        return {"trials": len(self.statuses), "failed": list(self.statuses.values()).count("failed")}

    def lacks(self, trial: int) -> bool:
        """Return whether a trial has not ended, or failed."""
        return self.statuses.get(trial, "failed") == "failed"

    def go_on(self) -> None:
        """Write on: rows of trials that ended well stay, those of failed trials and of no trial go."""
        rows, histograms = journal.read(self.path)
        rows = [row for row in rows if row["trial"] is not None and not self.lacks(row["trial"])]
        self._journal.keep(rows, [item for item in histograms if not self.lacks(item["trial"])])
        self.statuses = {trial: status for trial, status in self.statuses.items() if status != "failed"}
        resumed = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        before = {"at": resumed, "after_trials": len(self.statuses)}
        self.manifest.update(state="running", resumed=[*self.manifest.get("resumed", []), before])
        self.write_manifest()

    def add(self, rows: Sequence[Mapping[str, Any]], histograms: Sequence[Mapping[str, Any]] = ()) -> None:
        """Keep the rows and histograms of a trial, in the journal before this returns."""
        self._journal.add(rows, histograms)
        self._count(rows)

    def finish(self, state: str, **facts: Any) -> None:
        """Write the state in which the run ended, and let others write."""
        self._journal.pack()
        finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.manifest.update(state=state, finished=finished, **self.counts, **facts)
        self.write_manifest()
        self.close()

    def close(self) -> None:
        """Let others write; nothing is changed."""
        self._journal.close()

    def write_manifest(self) -> None:
        """Write the manifest."""
        write_text(self.path / "manifest.json", values.dumps(self.manifest, indent=1))

    def _count(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Note what became of the trials of some rows."""
        self.statuses |= {row["trial"]: row.get("status", "ok") for row in rows if row.get("trial") is not None}

    def _repr_html_(self) -> str:
        from experiments import stored

        return stored.one_run(str(self.path))._repr_html_()


def find(run_id: str) -> Path:
    """Return the folder of a stored run, published or not; a path to one is taken too.

    Raises
    ------
    RunNotFoundError
        There is none.
    """
    folders = {path.parent.name: path.parent for path in _manifests("published", "runs")}
    if run_id in folders:
        return folders[run_id]
    path = Path(run_id)
    if run_id and (path / "manifest.json").is_file():
        return path
    raise RunNotFoundError(f"there is no run {run_id!r}", hint=nearest(run_id, folders))


def ids() -> list[str]:
    """Return the ids of all stored runs, published or not."""
    return sorted({path.parent.name for path in _manifests("published", "runs")})


def manifest(run_id: str) -> dict[str, Any]:
    """Return the manifest of a stored run."""
    found: dict[str, Any] = json.loads((find(run_id) / "manifest.json").read_text(encoding="utf-8"))
    return found


def load(run_id: str, experiment: str) -> pd.DataFrame:
    """Return the stored rows of one experiment of a run; ``attrs`` say where they are from."""
    path = find(run_id)
    frame = _to_frame(journal.read_rows(path))
    if "experiment" in frame:
        frame = frame[frame["experiment"] == experiment]
        empty = [name for name in frame if name not in _ALWAYS and frame[name].isna().all()]
        frame = frame.drop(columns=empty).reset_index(drop=True)
    if frame.empty:
        raise RunNotFoundError(f"run {run_id} has no rows of {experiment}")
    frame.attrs = {"run_id": path.name, "path": str(path), "experiment": experiment}
    return frame


def histograms(rows: pd.DataFrame, kind: str = "latency") -> dict[tuple[int, str], Histogram]:
    """Return the histograms of stored rows by (trial, operation)."""
    table = journal.read_histograms(Path(rows.attrs["path"]), rows.attrs["experiment"], kind).to_pandas()
    return {
        (int(trial), operation): Histogram.from_sparse(
            group["bucket"].to_numpy(), group["count"].to_numpy(), int(group["max"].max()), int(group["sum"].iloc[0])
        )
        for (trial, operation), group in table.groupby(["trial", "operation"])
    }


def latest(digest: str) -> str | None:
    """Return the newest complete run of this machine that measured exactly this plan with exactly this code, if any."""
    complete = (facts for facts in stored("runs") if facts.get("state") == "complete")
    return next((facts["id"] for facts in complete if digest in facts.get("digests", {}).values()), None)


def stored(*places: str) -> list[dict[str, Any]]:
    """Return the manifests of the stored runs of some places ("runs", "published"), the newest first."""
    found = []
    for path in _manifests(*places):
        with contextlib.suppress(ValueError, OSError):
            found.append({**json.loads(path.read_text(encoding="utf-8")), "id": path.parent.name})
    return sorted(found, key=lambda facts: (facts.get("started", ""), facts["id"]), reverse=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file whole, as UTF-8."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix="." + path.name)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _manifests(*places: str) -> list[Path]:
    """Return the manifests of stored runs."""
    return [path for place in places for path in (results_dir() / place).glob("*/manifest.json")]


def _to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table as a DataFrame in which whole numbers stay whole: a missing one makes no float of them."""
    frame = table.to_pandas(integer_object_nulls=True)
    for field in table.schema:
        if pa.types.is_integer(field.type) and table[field.name].null_count:
            frame[field.name] = frame[field.name].astype("UInt64" if field.type == pa.uint64() else "Int64")
    return frame
