"""The rows of a run on disk: a line a trial while it is being written, two Parquet files when it has ended.

::

    rows.jsonl          {"rows": [...], "histograms": [...]}, one line a trial, as Python's json writes it
    rows.parquet        one row for each operation of each trial
    histograms.parquet  experiment, trial, operation, kind, bucket, count, max, sum

A line is appended by one call, so a killed run loses the trial under way and no other; what is behind the last
line break does not count. Where there is a journal it holds everything, and the Parquet files are older.
One process at a time writes: it holds the kernel's lock on ``.lock``, which goes with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.errors import RunBusyError
from experiments.measure import Histogram

JOURNAL: Final = "rows.jsonl"
ROWS: Final = "rows.parquet"
HISTOGRAMS: Final = "histograms.parquet"
_PLACE: Final = ("experiment", "trial", "operation", "kind")
_SCHEMA: Final = pa.schema(
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

Mappings = Sequence[Mapping[str, Any]]


class Journal:
    """The rows of a run that this process writes.

    Parameters
    ----------
    path
        The run's folder. What an earlier process left in it is kept.

    Raises
    ------
    RunBusyError
        Another process is writing the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise RunBusyError(f"another process is writing run {path.name}", hint="wait for it, or end it") from None
        self._file: int | None = None

    def keep(self, rows: Mappings, histograms: Mappings) -> None:
        """Begin the journal with these rows and histograms, in place of all that is there."""
        _replace(self.path / JOURNAL, lambda part: part.write_bytes(_line(rows, histograms)))
        self._file = os.open(self.path / JOURNAL, os.O_WRONLY | os.O_APPEND)

    def add(self, rows: Mappings, histograms: Mappings) -> None:
        """Append a trial; it is with the operating system when this returns."""
        assert self._file is not None
        line = _line(rows, histograms)
        if os.write(self._file, line) != len(line):
            raise OSError(f"{self.path / JOURNAL} took a part of a line only")

    def pack(self) -> None:
        """Put all together into the Parquet files, in place of the journal; do nothing if none was begun."""
        if self._file is None:
            return
        rows, histograms = read(self.path)
        _replace(self.path / ROWS, lambda part: pq.write_table(_to_table(rows), part))
        _replace(self.path / HISTOGRAMS, lambda part: pq.write_table(_flat(histograms), part))
        os.close(self._file)
        self._file = None
        os.unlink(self.path / JOURNAL)

    def close(self) -> None:
        """Let others write."""
        os.close(self._lock)


def read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows and histograms of a run's folder, ended or not."""
    rows: list[dict[str, Any]] = []
    histograms: list[dict[str, Any]] = []
    for trial in _lines(path):
        rows += trial["rows"]
        histograms += trial["histograms"]
    if not (path / JOURNAL).exists():
        rows = pq.read_table(path / ROWS).to_pylist()
        for place, group in pq.read_table(path / HISTOGRAMS).to_pandas().groupby([*_PLACE, "max", "sum"]):
            ends = dict(zip((*_PLACE, "max", "sum"), place, strict=True))
            histograms.append({**ends, "buckets": group["bucket"].tolist(), "counts": group["count"].tolist()})
    return rows, histograms


def read_rows(path: Path) -> pa.Table:
    """Return the rows of a run's folder as a table."""
    if (path / JOURNAL).exists():
        return _to_table([row for trial in _lines(path) for row in trial["rows"]])
    return pq.read_table(path / ROWS)


def read_histograms(path: Path, experiment: str, kind: str) -> pa.Table:
    """Return the histograms of one experiment and kind as a table, a row a bucket."""
    if (path / JOURNAL).exists():
        found = [item for trial in _lines(path) for item in trial["histograms"]]
        return _flat([item for item in found if (item["experiment"], item["kind"]) == (experiment, kind)])
    return pq.read_table(path / HISTOGRAMS, filters=[("experiment", "=", experiment), ("kind", "=", kind)])


def histogram_pairs(histogram: Histogram) -> dict[str, Any]:
    """Return a histogram as `Journal.add` takes it, still without its place."""
    buckets, counts = histogram.sparse()
    total = min(histogram.sum, (1 << 63) - 1)
    return {"buckets": buckets.tolist(), "counts": counts.tolist(), "max": histogram.max, "sum": total}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of the journal."""
    with contextlib.suppress(FileNotFoundError), open(path / JOURNAL, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def _line(rows: Mappings, histograms: Mappings) -> bytes:
    """Return a line of the journal; numbers of numpy become Python's."""
    content = {"rows": list(rows), "histograms": list(histograms)}
    return json.dumps(content, ensure_ascii=False, default=lambda number: number.item()).encode() + b"\n"


def _replace(path: Path, write: Any) -> None:
    """Replace a file whole by what `write` puts into a file beside it."""
    part = path.with_name("." + path.name + ".part")
    write(part)
    os.replace(part, path)


def _flat(histograms: Mappings) -> pa.Table:
    """Return histograms as a table, a row a bucket."""
    places = pa.table({name: [item[name] for item in histograms] for name in (*_PLACE, "max", "sum")})
    found = places.take(np.repeat(np.arange(len(histograms)), [len(item["buckets"]) for item in histograms]))
    for name in ("bucket", "count"):
        numbers = np.array([number for item in histograms for number in item[name + "s"]], np.int64)
        found = found.append_column(name, pa.array(numbers))
    return found.select(_SCHEMA.names).cast(_SCHEMA)


def _to_table(rows: Mappings) -> pa.Table:
    """Return rows as a table; a column whose values share no type becomes text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _to_column([row.get(name) for row in rows]) for name in names})


def _to_column(cells: list[Any]) -> pa.Array:
    """Return values as a column of the first type that holds them all; text holds everything."""
    for kind in (None, pa.uint64()):
        with contextlib.suppress(pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            return pa.array(cells, kind)
    return pa.array([None if cell is None else str(cell) for cell in cells])
