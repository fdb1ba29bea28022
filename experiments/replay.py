"""A stream of operations put to a store: one by one, or in windows that are read and written as batches.

A window has the same answers and leaves the same accounts as its operations one by one: keys that are read before they
are written are got in one batch, what an operation of the window needs of an earlier one is worked out beside the
store, and what each key comes to is written in one batch. `expected` is the naive twin of both.

A closed loop sends the next when the last is done. An open loop sends each when it is due; its latency counts from
then, so that a stall counts for everything that it held up, and a window is whatever is due when the last one is done.
"""

from __future__ import annotations

import bisect
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from experiments import measure
from experiments.baselines import Store, blank_records, field_words, key_list
from experiments.streams import DELETE, MODIFY, READ, SCAN, Stream

_MASK: Final = (1 << 64) - 1
_NOTHING: Final = (0, 0, 0, 0)


@dataclass
class Answers:
    """What was read: the fields (uint64[n, 4]; of a scan their sums) and whether something was found (bool[n])."""

    fields: np.ndarray
    found: np.ndarray

    @classmethod
    def of(cls, got: Sequence[Any], stream: Stream) -> Answers:
        """Return the answers of operations that were made one by one."""
        empty = cls.none(len(stream))
        for row in np.flatnonzero(stream.operations == READ).tolist():
            if got[row] is not None:
                empty.fields[row], empty.found[row] = got[row][-4:], True
        for row in np.flatnonzero(stream.operations == SCAN).tolist():
            if got[row]:
                empty.fields[row] = [sum(column) & _MASK for column in zip(*got[row], strict=True)]
                empty.found[row] = True
        return empty

    @classmethod
    def none(cls, count: int) -> Answers:
        """Return answers that nobody gave yet."""
        return cls(np.zeros((count, 4), np.uint64), np.zeros(count, bool))

    def differences(self, other: Answers) -> int:
        """Return how many answers differ."""
        return int(((self.fields != other.fields).any(axis=1) | (self.found != other.found)).sum())


@dataclass
class Done:
    """What a replay gave: its answers, the latencies and what they are of, the seconds, and those inside the store.

    In an open loop (`is_open`) each operation has its latency, in a closed one each call.
    """

    answers: Answers
    latencies: np.ndarray
    kinds: np.ndarray
    seconds: float
    calls: int
    store_s: float
    is_open: bool


def run(store: Store, stream: Stream, window: int = 1, speed: float = 0.0) -> Done:
    """Put a stream to a store.

    Parameters
    ----------
    window
        Most operations that go together; 1 sends each by itself.
    speed
        How many times as fast as it was recorded; 0 is a closed loop.
    """
    client = Single(store, stream) if window == 1 else Windows(store, stream)
    due_ns = None if speed <= 0 or stream.due_ns is None else stream.due_ns / speed
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter_ns()
        spans, ends = _closed(client, window) if due_ns is None else _open(client, window, start, due_ns)
        seconds = (time.perf_counter_ns() - start) / 1e9
    finally:
        gc.enable()
    firsts, stops = np.array(spans, np.int64).T
    if due_ns is None:
        begun = np.concatenate([[start], ends[:-1]])
        latencies, kinds = np.asarray(ends) - begun, stream.operations[firsts]
    else:
        latencies = np.repeat(ends, stops - firsts) - start - due_ns.astype(np.int64)
        kinds = stream.operations
    return Done(client.answers(), latencies, kinds, seconds, len(spans), client.store_ns / 1e9, due_ns is not None)


def _closed(client: Single | Windows, window: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Send window after window; return their rows and when each was done."""
    step = client.step(window)
    spans = [(first, min(first + step, client.count)) for first in range(0, client.count, step)]
    ends = []
    for first, stop in spans:
        client.send(first, stop)
        ends.append(time.perf_counter_ns())
    return spans, ends


def _open(
    client: Single | Windows, window: int, start: int, due_ns: np.ndarray
) -> tuple[list[tuple[int, int]], list[int]]:
    """Send what is due, and wait where nothing is; return the rows of each window and when it was done."""
    due, step = due_ns.astype(np.int64), client.step(window)
    spans, ends, first = [], [], 0
    while first < client.count:
        measure.wait_until(start + int(due[first]))
        ready = int(np.searchsorted(due, time.perf_counter_ns() - start, "right"))
        stop = min(max(ready, first + 1), first + step)
        client.send(first, stop)
        ends.append(time.perf_counter_ns())
        spans.append((first, stop))
        first = stop
    return spans, ends


class Single:
    """Operations sent by themselves, each as the store's own users send it; transfers as a batch of two."""

    def __init__(self, store: Store, stream: Stream) -> None:
        self.count, self.store_ns = len(stream), 0
        self._store, self._stream = store, stream
        keys = key_list(stream.keys)
        self._keys = [keys[number] for number in stream.numbers.tolist()]
        self._values = stream.values.tolist()
        self._got: list[Any] = [None] * len(stream)
        self._records = blank_records(stream.keys[stream.numbers] if stream.pairs else stream.keys[:0])
        self._fields = field_words(self._records)
        get, put, scan = store.get, store.put, getattr(store, "scan", None)
        calls = [
            lambda row: get(self._keys[row]),
            lambda row: put(self._keys[row], self._values[row]),
            lambda row: put(self._keys[row], self._values[row]),
            lambda row: put(self._keys[row], self._changed(row)),
            lambda row: store.delete_batch(stream.keys[stream.numbers[row : row + 1]]),
            lambda row: scan(self._keys[row], self._values[row][0]),
        ]
        self._calls = [calls[operation] for operation in stream.operations.tolist()]

    def step(self, window: int) -> int:
        """Return how many operations go together."""
        return 2 if self._stream.pairs else 1

    def send(self, first: int, stop: int) -> None:
        """Do one operation, or the two of a transfer."""
        if not self._stream.pairs:
            self._got[first] = self._calls[first](first)
            return
        self._fields[first:stop] = [self._changed(row) for row in range(first, stop)]
        self._store.update_batch(self._records[first:stop])

    def _changed(self, row: int) -> list[int]:
        """Read an account and return its fields with those of the operation added."""
        found = self._store.get(self._keys[row]) or _NOTHING
        return [(old + more) & _MASK for old, more in zip(found[-4:], self._values[row], strict=True)]

    def answers(self) -> Answers:
        """Return what was read."""
        return Answers.of(self._got, self._stream)


class Windows:
    """Operations sent together: one batch of reads, one of writes."""

    def __init__(self, store: Store, stream: Stream) -> None:
        self.count, self.store_ns = len(stream), 0
        self._store, self._stream = store, stream
        self._answers = Answers.none(len(stream))

    def step(self, window: int) -> int:
        """Return how many operations go together; a transfer is never cut in two."""
        return window + window % 2 if self._stream.pairs else window

    def answers(self) -> Answers:
        """Return what was read."""
        return self._answers

    def send(self, first: int, stop: int) -> None:
        """Do the operations of a window, sorted by key and, of one key, in their order."""
        stream = self._stream
        order = np.argsort(stream.numbers[first:stop], kind="stable") + first
        numbers, operations, values = stream.numbers[order], stream.operations[order], stream.values[order]
        begins = np.diff(numbers, prepend=-1) != 0
        heads = np.flatnonzero(begins)
        group = np.cumsum(begins) - 1
        keys = stream.keys[numbers[heads]]
        base, there = self._read(keys, (operations[heads] == READ) | (operations[heads] == MODIFY))

        reads, adds = operations == READ, operations == MODIFY
        sets, writes, rows = ~(reads | adds), ~reads, np.arange(len(order))
        added = np.where(adds[:, None], values, np.uint64(0))
        sums = np.cumsum(added, axis=0, dtype=np.uint64)
        values[operations == DELETE] = 0
        at = np.maximum.accumulate(np.where(sets | begins, rows, 0))
        after = np.where(sets[at][:, None], values[at], base[group]) + sums - (sums[at] - added[at])
        wrote = np.maximum.accumulate(np.where(writes | begins, rows, 0))
        alive = np.where(writes[wrote], operations[wrote] != DELETE, there[group])

        self._answers.fields[order[reads]] = after[reads]
        self._answers.found[order[reads]] = alive[reads]
        last = np.append(heads[1:], len(order)) - 1
        changed = np.logical_or.reduceat(writes, heads)
        self._write(keys, after[last], changed & alive[last], changed & ~alive[last])

    def _read(self, keys: np.ndarray, needed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return fields and presence of keys before the window; only those are asked for that it needs."""
        base, there = np.zeros((len(keys), 4), np.uint64), np.zeros(len(keys), bool)
        if needed.any():
            start = time.perf_counter_ns()
            records, there[needed] = self._store.get_batch(keys[needed])
            self.store_ns += time.perf_counter_ns() - start
            base[needed] = field_words(records)
        return base, there

    def _write(self, keys: np.ndarray, fields: np.ndarray, kept: np.ndarray, gone: np.ndarray) -> None:
        """Write what the window leaves of each key."""
        records = blank_records(keys[kept])
        field_words(records)[:] = fields[kept]
        start = time.perf_counter_ns()
        if len(records):
            self._store.update_batch(records)
        if gone.any():
            self._store.delete_batch(keys[gone])
        self.store_ns += time.perf_counter_ns() - start


def expected(stream: Stream) -> tuple[Answers, dict[bytes, Sequence[int]]]:
    """Return what a stream has to read, and the accounts that it has to leave: by a dict, one by one."""
    fields = map(tuple, field_words(stream.loaded).tolist())
    accounts: dict[bytes, Sequence[int]] = dict(zip(key_list(stream.loaded["pubkey"]), fields, strict=True))
    ordered = bool((stream.operations == SCAN).any())
    order = sorted(accounts) if ordered else []
    keys = key_list(stream.keys)
    got: list[Any] = [None] * len(stream)
    steps = zip(stream.operations.tolist(), stream.numbers.tolist(), stream.values.tolist(), strict=True)
    for row, (operation, number, value) in enumerate(steps):
        key = keys[number]
        if operation == READ:
            got[row] = accounts.get(key)
        elif operation == SCAN:
            first = bisect.bisect_left(order, key)
            got[row] = [accounts[found] for found in order[first : first + value[0]]]
        elif operation == DELETE:
            if accounts.pop(key, None) is not None and ordered:
                order.remove(key)
        else:
            if ordered and key not in accounts:
                bisect.insort(order, key)
            old = accounts.get(key, _NOTHING) if operation == MODIFY else _NOTHING
            accounts[key] = tuple((a + b) & _MASK for a, b in zip(old, value, strict=True))
    return Answers.of(got, stream), accounts
