"""One side of `bench`, run by the interpreter of its own environment: of the project it imports `ledger` alone.

It answers lines of JSON on stdin with lines of JSON on stdout. The first process loads the kernels and never opens a
ledger; for each ``{"open": settings}`` it forks a child with ledgers of its own, which answers until ``{}``.
Latencies are in ns.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import ledger
from ledger import ACCOUNT, GeometricLedger, Options

LOG_SEGMENT_BYTES = 8 << 20


class Side:
    """The ledgers of one process, and the calls that are timed over them; keys and order follow from the seed."""

    def __init__(self, folder: str, settings: dict[str, Any]) -> None:
        self._random = np.random.Generator(np.random.Philox(settings["seed"]))
        rows, accounts, self._gets = settings["batch_rows"], settings["accounts"], settings["gets_per_call"]
        records = self._records(accounts)
        fast = Options(
            durability="none", storage="memory", hugepages="thp", capacity=accounts, threads=1, hash_key=bytes(32)
        )
        room = fast.with_values(capacity=settings["insert_rows_max"])
        safe = fast.with_values(durability="sync", log_segment_bytes=LOG_SEGMENT_BYTES)
        self._ledgers = {
            name: GeometricLedger.open(f"{folder}/{name}", options)
            for name, options in (("fast", fast), ("room", room), ("safe", safe))
        }
        for name in ("fast", "safe"):
            for first in range(0, accounts, 65_536):
                self._ledgers[name].update_batch(records[first : first + 65_536])
        chosen = self._random.integers(0, accounts, (32, rows))
        updates = [records[some] for some in chosen]
        keys = [np.ascontiguousarray(batch["pubkey"]) for batch in updates]
        singles = [[key.tobytes() for key in batch[: self._gets]] for batch in keys]
        small = [batch[: settings["sync_rows"]] for batch in updates]
        book, safe_book = self._ledgers["fast"], self._ledgers["safe"]

        def get_each(keys: list[bytes]) -> None:
            get = book.get
            for key in keys:
                get(key)

        assert book.get_batch(keys[0])[1].all(), "an account is missing"
        self._calls: dict[str, tuple[Callable[[Any], object], Iterator[Any]]] = {
            "update_batch": (book.update_batch, itertools.cycle(updates)),
            "get_batch": (book.get_batch, itertools.cycle(keys)),
            "get": (get_each, itertools.cycle(singles)),
            "insert": (self._ledgers["room"].update_batch, (self._records(rows) for _ in itertools.count())),
            "sync": (safe_book.update_batch, itertools.cycle(small)),
        }

    def _records(self, count: int) -> np.ndarray:
        """Return records with keys that no other record has."""
        records = np.zeros(count, ACCOUNT)
        records["pubkey"] = np.frombuffer(self._random.bytes(count * 32), np.uint8).reshape(count, 32)
        records["balance"] = self._random.integers(1 << 30, 1 << 31, count)
        return records

    def block(self, operation: str, calls: int, cpu: int) -> list[int]:
        """Return the time of each of so many calls on a CPU, after one that fetches what the other side drove out."""
        call, arguments = self._calls[operation]
        os.sched_setaffinity(0, {cpu})
        call(next(arguments))
        clock = time.perf_counter_ns
        found = []
        for argument in list(itertools.islice(arguments, calls)):
            start = clock()
            call(argument)
            found.append(clock() - start)
        return found


def slow_down(percent: float) -> None:
    """Have every `update_batch` busy for `percent` of its own time more: the regression that `bench` has to find."""
    real = GeometricLedger.update_batch
    clock = time.perf_counter_ns

    def update_batch(self: GeometricLedger, *arguments: Any, **named: Any) -> Any:
        start = clock()
        result = real(self, *arguments, **named)
        end = clock()
        until = end + (end - start) * percent / 100
        while clock() < until:
            pass
        return result

    GeometricLedger.update_batch = update_batch  # type: ignore[method-assign]


def serve() -> None:
    """Answer until stdin ends."""
    settings = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this by closing its stdin
    ledger.warm_up()
    if settings["plant_percent"]:
        slow_down(settings["plant_percent"])
    gc.collect()
    gc.freeze()
    gc.disable()
    answer({"ready": ledger.__file__})
    while request := ask():
        child = os.fork()
        if child == 0:
            try:
                side = Side(request["folder"], {**settings, "seed": request["seed"]})
                answer({})
                while request := ask():
                    answer(side.block(**request))
            except BaseException as error:
                answer({"error": f"{type(error).__name__}: {error}"})
                os._exit(1)
            os._exit(0)
        os.waitpid(child, 0)
        answer({})


def ask() -> Any:
    """Return the next request, None at the end; read byte by byte, since a forked child shares stdin."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return json.loads(line) if line else None


def answer(value: Any) -> None:
    """Write one line; where nobody reads any more, stdin has ended too."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(value).encode() + b"\n")


if __name__ == "__main__":
    serve()
