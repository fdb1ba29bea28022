"""Traces: streams that somebody recorded, as Parquet.

A trace has one row an operation, in their order: ``key`` (32 bytes, or 64 hexadecimal digits), ``op`` (see `NAMES`)
and, if it was recorded, ``time`` (seconds as a float, nanoseconds as a whole number, or a timestamp). What was written
is not in it: fields are made from a seed. A key whose first operation is no insert is there from the start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from experiments import streams
from experiments.errors import ParameterError, nearest
from experiments.streams import DELETE, INSERT, MODIFY, OPERATIONS, READ, UPDATE, Stream

NAMES: Final = {
    "get": READ, "read": READ, "update": UPDATE, "put": UPDATE, "insert": INSERT, "delete": DELETE,
    "modify": MODIFY, "read-modify-write": MODIFY,
}  # fmt: skip
"""What a trace may call its operations."""


def read(path: Path, seed: int) -> Stream:
    """Return the stream of a trace.

    Raises
    ------
    ParameterError
        There is no such file, or it is no trace; the message names column and row.
    """
    table = _table(path)
    keys, numbers = _keys(table["key"])
    operations = _operations(table["op"])
    due_ns = _times(table["time"]) if "time" in table.column_names else None
    random = np.random.Generator(np.random.Philox(key=[seed, 1 << 33]))
    first = np.unique(numbers, return_index=True)[1]
    loaded = streams.loaded_records(keys[operations[first] != INSERT], random)
    return Stream(operations, numbers, streams.random_values(random, operations), keys, loaded, due_ns)


def write(path: Path, stream: Stream, seconds: float) -> None:
    """Write a stream as a trace whose operations come evenly within some seconds."""
    codes = np.array(["get" if name == "read" else name for name in OPERATIONS])
    keys = pa.array([key.tobytes() for key in stream.keys[stream.numbers]], pa.binary(32))
    times = np.arange(len(stream)) * (seconds / len(stream))
    pq.write_table(pa.table({"key": keys, "op": codes[stream.operations], "time": times}), path)


def _table(path: Path) -> Any:
    """Read the columns of a trace."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ParameterError(f"trace {path} cannot be read: {error}", name="trace") from None
    for name in ("key", "op"):
        if name not in table.column_names:
            hint = nearest(name, table.column_names)
            raise ParameterError(f"trace {path} has no column {name}", hint=hint, name="trace")
    if not table.num_rows:
        raise ParameterError(f"trace {path} has no rows", name="trace")
    for name in {"key", "op", "time"} & set(table.column_names):
        _refuse(name, pc.is_null(table[name]).to_numpy(), "is missing")
    return table


def _refuse(column: str, wrong: np.ndarray, what: str, hint: str = "") -> None:
    """Name the first row that is wrong, if there is one."""
    if wrong.any():
        raise ParameterError(f"{column} in row {int(np.argmax(wrong))} of the trace {what}", hint=hint, name="trace")


def _keys(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the different keys (uint8[m, 32]) and the row of each operation's among them (int64[n])."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    numbers = encoded.indices.to_numpy().astype(np.int64)
    different = encoded.dictionary.to_pylist()
    if different and isinstance(different[0], str):
        different = [_from_hex(text) for text in different]
    wrong = np.array([not isinstance(key, bytes) or len(key) != 32 for key in different])
    _refuse("key", wrong[numbers], "is not 32 bytes", "give binary(32), or 64 hexadecimal digits")
    return np.frombuffer(bytearray(b"".join(different)), np.uint8).reshape(-1, 32), numbers


def _from_hex(text: str) -> bytes:
    """Return the bytes of hexadecimal digits, none if they are not."""
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        return b""


def _operations(column: Any) -> np.ndarray:
    """Return the operations as places in `OPERATIONS`."""
    names, places = np.unique(np.array(column.to_pylist(), object).astype(str), return_inverse=True)
    for place, name in enumerate(names):
        if name.lower() not in NAMES:
            _refuse("op", places == place, f"is {name}", nearest(name.lower(), NAMES))
    return np.array([NAMES[name.lower()] for name in names], np.uint8)[places]


def _times(column: Any) -> np.ndarray:
    """Return times as nanoseconds from the first on (int64[n])."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("ns")).cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ParameterError(
            f"time in the trace is {kind}", hint="give seconds, nanoseconds or timestamps", name="trace"
        )
    times = column.to_numpy()
    if pa.types.is_floating(kind):
        _refuse("time", ~np.isfinite(times), "is no time")
        times = np.rint((times - times[0]) * 1e9)
    times = times.astype(np.int64) - np.int64(times[0])
    _refuse(
        "time", np.diff(times, prepend=times[:1]) < 0, "is before the one of the row above", "sort the rows by time"
    )
    return times
