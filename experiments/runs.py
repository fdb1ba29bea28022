"""Runs on disk: rows, histograms and a manifest in one folder, valid after every trial.

::

    results/runs/<id>/
        manifest.json       what it is: specs, parameters, machine, versions, commit, state
        rows.parquet        one row for each operation of each trial, failed and not applicable ones too
        histograms.parquet  experiment, trial, operation, kind, bucket, count, max, sum
        logs/               what trials printed
        notebooks/  figures/  report.html

Every file is replaced whole, so an interruption leaves a run that can be read; its state then says
"interrupted" (or "running", when the process was killed).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from experiments import values
from experiments.errors import RunNotFoundError, nearest
from experiments.measure import Histogram

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS_VARIABLE: Final = "EXPERIMENTS_RESULTS"
_ALWAYS: Final = ("trial", "repeat", "status", "error", "reason", "state_hash", "operation")
_HISTOGRAMS: Final = pa.schema(
    [
        ("experiment", pa.string()),
        ("trial", pa.int64()),
        ("operation", pa.string()),
        ("kind", pa.string()),
        ("bucket", pa.int64()),
        ("count", pa.int64()),
        ("max", pa.int64()),
        ("sum", pa.int64()),
    ]
)


def results_dir() -> Path:
    """Return the folder of all runs: ``results`` beside the package, or $EXPERIMENTS_RESULTS."""
    return Path(os.environ.get(RESULTS_VARIABLE) or ROOT / "results")


class Run:
    """A run being written, by one process; other runs beside it do not meet it."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._rows: list[dict[str, Any]] = []
        self._histograms: list[dict[str, Any]] = []
        self.write_manifest()
        self.save()

    @classmethod
    def create(cls, experiments: Sequence[str], profile: str, manifest: Mapping[str, Any]) -> Run:
        """Make the folder of a new run; its id is what it is: experiments, profile, date and time."""
        now = datetime.datetime.now(datetime.UTC)
        base = f"{'_'.join(experiments)}-{profile}-{now:%Y%m%d-%H%M%S}"
        parent = results_dir() / "runs"
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            run_id = base if number == 1 else f"{base}-{number}"
            try:
                (parent / run_id).mkdir()
            except FileExistsError:
                continue
            started = now.isoformat(timespec="seconds")
            facts = {"id": run_id, "profile": profile, "state": "running", "started": started, **manifest}
            return cls(parent / run_id, facts)
        raise AssertionError("a thousand runs in one second")

    @property
    def id(self) -> str:
        """Return the name of the folder."""
        return self.path.name

    def add(self, rows: Iterable[Mapping[str, Any]], histograms: Iterable[Mapping[str, Any]] = ()) -> None:
        """Keep the rows and histograms of a trial, on disk before this returns."""
        self._rows.extend(dict(row) for row in rows)
        self._histograms.extend(dict(histogram) for histogram in histograms)
        self.save()

    def save(self) -> None:
        """Write rows and histograms."""
        _write_table(self.path / "rows.parquet", _to_table(self._rows))
        flat = [
            {**{key: item[key] for key in ("experiment", "trial", "operation", "kind", "max", "sum")}, **pair}
            for item in self._histograms
            for pair in item["pairs"]
        ]
        _write_table(self.path / "histograms.parquet", pa.Table.from_pylist(flat, schema=_HISTOGRAMS))

    def finish(self, state: str, **facts: Any) -> None:
        """Write the state in which the run ended."""
        finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.manifest.update(state=state, finished=finished, **facts)
        self.write_manifest()

    def write_manifest(self) -> None:
        """Write the manifest."""
        write_text(self.path / "manifest.json", values.dumps(self.manifest, indent=1))


def histogram_pairs(histogram: Histogram) -> dict[str, Any]:
    """Return a histogram as `Run.add` takes it, still without its place."""
    buckets, counts = histogram.sparse()
    pairs = [{"bucket": int(b), "count": int(c)} for b, c in zip(buckets, counts, strict=True)]
    return {"pairs": pairs, "max": histogram.max, "sum": min(histogram.sum, (1 << 63) - 1)}


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


def manifest(run_id: str) -> dict[str, Any]:
    """Return the manifest of a stored run."""
    found: dict[str, Any] = json.loads((find(run_id) / "manifest.json").read_text(encoding="utf-8"))
    return found


def load(run_id: str, experiment: str) -> pd.DataFrame:
    """Return the stored rows of one experiment of a run; ``attrs`` say where they are from."""
    path = find(run_id)
    table = pq.read_table(path / "rows.parquet")
    frame = _to_frame(table)
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
    table = pq.read_table(
        Path(rows.attrs["path"]) / "histograms.parquet",
        filters=[("experiment", "=", rows.attrs["experiment"]), ("kind", "=", kind)],
    ).to_pandas()
    return {
        (int(trial), operation): Histogram.from_sparse(
            group["bucket"].to_numpy(), group["count"].to_numpy(), int(group["max"].max()), int(group["sum"].iloc[0])
        )
        for (trial, operation), group in table.groupby(["trial", "operation"])
    }


def latest(digest: str) -> str | None:
    """Return the newest complete run of this machine that measured exactly this plan with exactly this code, if any."""
    found = []
    for path in _manifests("runs"):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if facts.get("state") == "complete" and digest in facts.get("digests", {}).values():
            found.append((facts["started"], path.parent.name))
    return max(found)[1] if found else None


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


def _write_table(path: Path, table: pa.Table) -> None:
    """Replace a Parquet file whole."""
    temporary = path.with_name("." + path.name + ".part")
    pq.write_table(table, temporary)
    os.replace(temporary, path)


def _to_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows as a table; a column whose values share no type becomes text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = []
    for name in names:
        columns.append(_to_column([row.get(name) for row in rows]))
    return pa.table(dict(zip(names, columns, strict=True)))


def _to_column(cells: list[Any]) -> pa.Array:
    """Return values as a column of the first type that holds them all; text holds everything."""
    for kind in (None, pa.uint64()):
        with contextlib.suppress(pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            return pa.array(cells, kind)
    return pa.array([None if cell is None else str(cell) for cell in cells])


def _to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table as a DataFrame in which whole numbers stay whole: a missing one makes no float of them."""
    frame = table.to_pandas(integer_object_nulls=True)
    for field in table.schema:
        if pa.types.is_integer(field.type) and table[field.name].null_count:
            frame[field.name] = frame[field.name].astype("UInt64" if field.type == pa.uint64() else "Int64")
    return frame
