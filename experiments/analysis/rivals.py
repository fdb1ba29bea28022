"""Rivals: what each store does of the same work in each durability class, and how it compares with ours.

A ratio is made within a repeat, between cells that differ in the store alone. Where no class is named it is the
strongest that the store has: ``sync``, and ``none`` for those that promise nothing.
"""

from __future__ import annotations

from typing import Final

import pandas as pd

from experiments import plots
from experiments.analysis import common
from experiments.baselines import CLASSES, STORES
from experiments.plots import Panel

OURS: Final = "ledger"
OTHERS: Final = tuple(name for name in STORES if name != OURS)
MEASURES: Final = {"update": "update_batch", "put": "put", "get_batch": "get_batch", "get": "get"}
WORDS: Final = {
    "update": "Batches of updates, durable where there is such a class",
    "put": "Single durable writes",
    "get_batch": "Batches of reads",
    "get": "Single reads",
}
NAMES: Final = {"lmdb": "LMDB", "rocksdb": "RocksDB", "sqlite": "SQLite", "duckdb": "DuckDB", "numpy": "numpy"}
_BATCHED: Final = ("update_batch", "get_batch")
_PLACE: Final = ["repeat", "accounts", "batch_rows", "durability"]


def largest(rows: pd.DataFrame, operation: str) -> pd.DataFrame:
    """Return the rows of an operation with most accounts; of calls with batches the largest ones."""
    found = common.select(rows, operation)
    for column in ("accounts", "batch_rows") if operation in _BATCHED else ("accounts",):
        found = found[found[column] == found[column].max()]
    return found


def classes(rows: pd.DataFrame) -> dict[str, str]:
    """Return the strongest durability class of each store that was measured in the same class as ours."""
    found = common.select(rows, "load")
    ours = set(found.loc[found["store"] == OURS, "durability"])
    measured = {store: set(group["durability"]) & ours for store, group in found.groupby("store")}
    return {store: max(having, key=CLASSES.index) for store, having in measured.items() if having}


def ratios(rows: pd.DataFrame, operation: str, column: str = "rows_per_s") -> pd.DataFrame:
    """Return each other store's number over ours, a row for each repeat and cell: store, durability and ratio."""
    found = largest(rows, operation).dropna(subset=[column]).astype({column: float})
    table = found.pivot_table(column, _PLACE, "store")
    if OURS not in table:
        return pd.DataFrame(columns=["store", "durability", "ratio"])
    over = table.drop(columns=OURS).div(table[OURS], axis=0)
    return over.melt(ignore_index=False, var_name="store", value_name="ratio").dropna().reset_index()


def figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of the summary, each with the ends of its 95 % interval."""
    found: dict[str, float] = {}
    strongest = classes(rows)
    if OURS not in strongest:
        return found
    own = strongest[OURS]

    def ours(name: str, operation: str, column: str, scale: float, durability: str = own, **levels: str) -> None:
        chosen = common.select(largest(rows, operation), store=OURS, durability=durability, **levels)
        if column in chosen:
            common.add_interval(found, name, chosen[column].astype(float) * scale)

    ours("ledger_load_mops", "load", "rows_per_s", 1e-6)
    ours("ledger_update_mops", "update_batch", "rows_per_s", 1e-6)
    ours("ledger_update_none_mops", "update_batch", "rows_per_s", 1e-6, "none")
    ours("ledger_put_us", "put", "latency_ns_p50", 1e-3)
    ours("ledger_get_batch_mops", "get_batch", "rows_per_s", 1e-6)
    ours("ledger_get_us", "get", "latency_ns_p50", 1e-3)
    ours("ledger_bytes_per_update", "update_batch", "settled_bytes_per_row", 1)
    ours("ledger_disk_bytes_per_account", "close", "disk_bytes_per_account", 1, after="update")
    ours("ledger_ready_ms", "open", "ready_ms", 1, after="update")
    for measure, operation in MEASURES.items():
        over = ratios(rows, operation)
        for store in OTHERS:
            chosen = over[(over["store"] == store) & (over["durability"] == strongest.get(store))]
            common.add_interval(found, f"{store}_{measure}_over_ours", chosen["ratio"])
    return found


def answer(found: dict[str, float]) -> str:
    """Return the answer in computed numbers."""
    ours = {
        "update": "{ledger_update_mops} M a second", "put": "{ledger_put_us} µs each",
        "get_batch": "{ledger_get_batch_mops} M a second", "get": "{ledger_get_us} µs each",
    }  # fmt: skip
    lines = []
    for measure, words in WORDS.items():
        over = [
            f"{NAMES.get(store, store)} {{{name}}} [{{{name}_lo}}, {{{name}_hi}}]"
            for store in OTHERS
            if (name := f"{store}_{measure}_over_ours") in found
        ]
        lines.append(f"{words}: the ledger {ours[measure]}; of its rate {', '.join(over) or 'nobody was measured'}.")
    lines.append(
        "For a durable update in a batch it writes {ledger_bytes_per_update} B, for an account it takes "
        "{ledger_disk_bytes_per_account} B on disk with its log, and it is open again after {ledger_ready_ms} ms."
    )
    return " ".join(lines).format_map(common.Said(found))


def headline(rows: pd.DataFrame) -> list[Panel]:
    """Return the figures of the summary; the notebook has the others."""
    return [rate_panel(rows, "update_batch"), rate_panel(rows, "get")]


# ---------------------------------------------------------------- tables
def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what each store came to in each class: medians over repeats, latencies from merged histograms."""
    by = ["accounts", "batch_rows", "store", "durability"]
    chosen = common.select(rows)

    def column(operation: str, name: str, **levels: str) -> pd.Series:
        return common.select(chosen, operation, **levels).astype({name: float}).groupby(by)[name].median()

    found = {
        "load, rows/s": column("load", "rows_per_s"),
        "update_batch, rows/s": column("update_batch", "rows_per_s"),
        "get_batch, rows/s": column("get_batch", "rows_per_s"),
        "put, calls/s": column("put", "rows_per_s"),
        "get, calls/s": column("get", "rows_per_s"),
        "B written for an update": column("update_batch", "settled_bytes_per_row"),
        "B on disk for an account": column("close", "disk_bytes_per_account", after="update"),
        "open and get, ms": column("open", "ready_ms", after="update"),
    }
    return _in_order(pd.DataFrame(found).reset_index())


def latencies(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the latencies of every kind of call; a percentile needs ten calls beyond it."""
    chosen = common.select(rows)
    chosen = chosen[chosen["operation"].isin([*MEASURES.values()])]
    found = common.table(chosen, ["accounts", "batch_rows", "store", "durability"], [])
    return _in_order(found.sort_values("operation", kind="stable"), first=["operation", "accounts", "batch_rows"])


def growth(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what an update in a batch wrote: during the calls, with the closing, and what the files grew by."""
    columns = ["bytes_written_per_row", "settled_bytes_per_row", "growth_bytes_per_row"]
    found = common.select(rows, "update_batch").astype(dict.fromkeys(columns, float))
    return _in_order(found.groupby(["batch_rows", "store", "durability"], as_index=False)[columns].median())


def set_up(rows: pd.DataFrame) -> pd.DataFrame:
    """Return which version of each store was measured, and how its durability was set."""
    found = common.select(rows, "load")[["store", "version", "durability", "durability_by"]]
    return _in_order(found.drop_duplicates(["store", "durability"]))


def absent(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what was not measured, and why."""
    return common.not_applicable(rows, ["store", "durability"]).drop_duplicates()


def _in_order(found: pd.DataFrame, first: list[str] | None = None) -> pd.DataFrame:
    """Sort by store and class as they are listed everywhere."""
    by = [*(first or [name for name in ("accounts", "batch_rows") if name in found]), "store", "durability"]
    places = {name: {level: place for place, level in enumerate(levels)} for name, levels in _ORDER.items()}
    return found.sort_values(by, key=lambda column: column.map(places.get(column.name, lambda level: level)))


_ORDER: Final = {"store": tuple(STORES), "durability": CLASSES}


# ---------------------------------------------------------------- figures
def _bars(rows: pd.DataFrame, column: str, title: str, xlabel: str) -> Panel:
    """Draw medians of a column: a row for each store, a mark for each class."""
    found = rows.astype({column: float}).pivot_table(column, "store", "durability", "median")
    found = found.reindex(index=[name for name in STORES if name in found.index], columns=list(CLASSES))
    found = found.dropna(axis="columns", how="all").rename(index=NAMES)
    return plots.bars(found, rows, title=title, xlabel=xlabel, log=True)


def rate_panel(rows: pd.DataFrame, operation: str) -> Panel:
    """Draw rows a second of an operation in each class."""
    found = largest(rows, operation)
    size = f"{int(found['batch_rows'].max()):,}"
    titles = {
        "load": "Load", "update_batch": f"Updates in batches of {size}", "get_batch": f"Reads in batches of {size}",
        "put": "Single writes", "get": "Single reads",
    }  # fmt: skip
    return _bars(found, "rows_per_s", titles[operation], "accounts a second")


def bytes_panel(rows: pd.DataFrame) -> Panel | None:
    """Draw the bytes written for an update in a batch, with what the closing writes."""
    found = largest(rows, "update_batch")
    found = found[found["settled_bytes_per_row"].astype(float) > 0]
    title = "Bytes written for an update in a batch, until the store is closed"
    return None if found.empty else _bars(found, "settled_bytes_per_row", title, "bytes")


def disk_panel(rows: pd.DataFrame) -> Panel:
    """Draw the room on disk for an account at the end."""
    found = largest(common.select(rows, after="update"), "close")
    return _bars(found, "disk_bytes_per_account", "Room on disk for an account", "bytes, logs included")


def open_panel(rows: pd.DataFrame) -> Panel:
    """Draw the time to open a closed store and read one account."""
    found = largest(common.select(rows, after="update"), "open")
    return _bars(found, "ready_ms", "Opened again, and one account read", "ms")


def latency_panel(rows: pd.DataFrame, operation: str) -> Panel:
    """Draw the percentile curves of a single call, each store in its strongest class."""
    strongest = classes(rows)
    found = common.merged(largest(rows, operation), ["store", "durability"])
    curves = {
        NAMES.get(store, store): found[store, strongest[store]]
        for store in STORES
        if (store, strongest.get(store)) in found
    }
    title = {"put": "Latency of a single write, strongest class of each", "get": "Latency of a single read"}[operation]
    return plots.percentiles(curves, rows, title=title)


def size_panel(rows: pd.DataFrame) -> Panel | None:
    """Draw updates a second against the size of the batch, each store in its strongest class; one size is no curve."""
    strongest = classes(rows)
    found = common.select(rows, "update_batch")
    found = found[
        (found["durability"] == found["store"].map(strongest)) & (found["accounts"] == found["accounts"].max())
    ]
    if found["batch_rows"].nunique() < 2:
        return None
    return plots.lines(
        _in_order(found, first=[]).replace({"store": NAMES}), x="batch_rows", y="rows_per_s", by="store", logx=True,
        logy=True, title="Updates a second by size of the batch, strongest class of each",
        xlabel="updates of one batch", ylabel="updates a second",
    )  # fmt: skip
