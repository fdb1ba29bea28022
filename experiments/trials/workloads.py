"""Workloads: one stream of operations put to one store, one by one or in windows, and every answer checked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments import baselines, replay, streams
from experiments.baselines import Store, field_words
from experiments.errors import NotApplicableError
from experiments.measure import Histogram, rss_bytes
from experiments.replay import Done
from experiments.streams import OPERATIONS, SCAN, Stream
from experiments.trial import Operation, Outcome, Trial
from experiments.trials import common
from experiments.workload import Workload

WARM_UP: Final = 3


def measure(trial: Trial) -> Outcome:
    """Load what has to be there, replay the stream, and compare answers and accounts with those of a dict."""
    chosen = trial.workload
    kind = baselines.find(trial.factors["store"], chosen["durability"])
    stream, window = stream_of(trial), trial.factors["batch_rows"]
    if (stream.operations == SCAN).any():
        _check_scans(kind, window)
    path = trial.scratch / "store"
    path.mkdir()
    store = kind.open(path, len(stream.keys), chosen["durability"])
    store.load(np.array_split(stream.loaded, max(1, len(stream.loaded) // common.FILL_ROWS)))
    _warm_up(store, stream, window)
    done = replay.run(store, stream, window, chosen["trace_speed"] if trial.factors["workload"] == "trace" else 0.0)
    state = check(store, stream, done)
    facts = {
        "version": kind.version(),
        "keys": len(stream.keys),
        "loop": "open" if done.is_open else "closed",
    }
    return Outcome(operations(stream, done, window), state, facts)


def stream_of(trial: Trial) -> Stream:
    """Return the stream of a trial; a trace that nobody names is written here, from the seed, and read again."""
    chosen, name = trial.workload, trial.factors["workload"]
    work = Workload(chosen["accounts"], trial.seed, "zipf")
    if name != "trace":
        return streams.make(name, work, chosen["operations"])
    from experiments import traces  # pyarrow takes half a second to import, which only a trace needs

    path = Path(chosen["trace"]).expanduser() if chosen["trace"] else trial.scratch / "trace.parquet"
    if not chosen["trace"]:
        traces.write(path, streams.make("mixed", work, chosen["trace_operations"]), chosen["trace_s"])
    return traces.read(path, trial.seed)


def operations(stream: Stream, done: Done, window: int) -> list[Operation]:
    """Return a row for the whole and one for each kind of operation whose latency was taken by itself."""
    count = len(stream) // 2 if stream.pairs else len(stream)
    numbers: dict[str, Any] = {
        "calls": done.calls, "rows": count, "seconds": done.seconds, "rows_per_s": count / done.seconds,
        "operations_per_call": count / done.calls, "rss_bytes": rss_bytes(),
    }  # fmt: skip
    if window > 1:
        numbers["store_share"] = done.store_s / done.seconds
    histogram = Histogram.of(done.latencies)
    found = [Operation("all", numbers | histogram.quantiles(), {"latency": histogram})]
    if window > 1 and not done.is_open:
        return found  # what a call took is the latency of each operation in it
    for code in np.unique(done.kinds).tolist():
        histogram = Histogram.of(done.latencies[done.kinds == code])
        name = "transfer" if stream.pairs else OPERATIONS[code]
        found.append(Operation(name, {"calls": histogram.n, **histogram.quantiles()}, {"latency": histogram}))
    return found


def check(store: Store, stream: Stream, done: Done) -> str:
    """Compare every answer and all accounts with the naive twin's, and return the digest of the accounts."""
    answers, accounts = replay.expected(stream)
    wrong = done.answers.differences(answers)
    if wrong:
        raise AssertionError(f"{wrong} of {len(stream)} operations read something else than was written")
    keys = [key in accounts for key in baselines.key_list(stream.keys)]
    wanted = np.array([accounts.get(key, (0, 0, 0, 0)) for key in baselines.key_list(stream.keys)], np.uint64)
    records, found = store.get_batch(stream.keys)
    if not (np.array_equal(found, keys) and np.array_equal(field_words(records), wanted)):
        raise AssertionError("the accounts are not those that the operations leave")
    if stream.pairs and records["balance"].sum() != stream.loaded["balance"].sum():
        raise AssertionError("transfers made or lost money")
    return hashlib.blake2b(records.tobytes() + found.tobytes(), digest_size=16).hexdigest()


def _warm_up(store: Store, stream: Stream, window: int) -> None:
    """Make each kind of call some times; what is written is there already."""
    for _ in range(WARM_UP):
        records = stream.loaded[:window]
        if len(records):
            store.update_batch(records)
            store.get_batch(records["pubkey"])
            store.get(records["pubkey"][0].tobytes())


def _check_scans(kind: type[Store], window: int) -> None:
    """Refuse scans where they have no meaning."""
    if not kind.ordered:
        raise NotApplicableError(f"{kind.name} keeps no order of keys, so a scan from a key on has no meaning there")
    if window > 1:
        raise NotApplicableError("a scan must see what was written before it, so it cannot wait for a batch of others")
