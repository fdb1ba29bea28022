"""Published claims: one file each, read and checked; what they are held to is in `experiments.claims.verdict`.

``ID.toml`` says who published which figure where and under which conditions, and how it is tested here: by a
trial function of its own, by the rows of another claim's test, or not at all, with what is missing for it.
"""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from experiments import spec, values
from experiments.errors import ParameterError, SpecError, nearest

CLAIMS: Final = Path(__file__).parent
KINDS: Final = {
    "absolute": "the figure itself, which belongs to its machine",
    "ratio": "a ratio or a share, which travels better",
    "shape": "on which side of 1 a ratio lies, whatever its size",
}
EXPECTATIONS: Final = ("at least", "at most", "equal")
_KEYS: Final = {"who", "where", "sentence", "kind", "figure", "unit", "conditions", "origin", "missing", "test"}
_REQUIRED: Final = {"who", "where", "sentence", "kind", "conditions"}
_TEST_KEYS: Final = {
    "trial", "rows_of", "how", "expect", "tolerance", "operations", "elsewhere", "quantity", "scale", "workload",
}  # fmt: skip
_TEST_REQUIRED: Final = {"how", "expect", "operations", "quantity"}


@dataclass(frozen=True)
class Test:
    """How a claim is tested.

    Attributes
    ----------
    measured_by
        The claim whose trial gives the rows: this one, or another.
    trial
        Its trial function, as ``module:function``; empty where the rows are another claim's.
    how
        What is measured, and how the conditions differ from the published ones.
    expect, tolerance
        "at least", "at most" or "equal" to the figure, give or take a share of it.
    operations
        Names of the rows that stand for the published condition: all of them must hold.
    elsewhere
        Names of rows under other conditions, under one of which the claim may hold as well.
    quantity, scale
        The column, and what makes it the figure's unit.
    workload
        What the trial gets, by profile.
    """

    measured_by: str
    trial: str
    how: str
    expect: str
    tolerance: float
    operations: tuple[str, ...]
    elsewhere: tuple[str, ...]
    quantity: str
    scale: float
    workload: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Claim:
    """One published claim; `missing` says what a test here would need that is not there."""

    id: str
    who: str
    where: str
    sentence: str
    kind: str
    low: float
    high: float
    unit: str
    conditions: str
    origin: str
    missing: str
    test: Test | None

    @property
    def bounds(self) -> tuple[float, float]:
        """Return what an interval has to lie in for the claim to hold."""
        assert self.test is not None
        if self.kind == "shape":
            return (1.0, math.inf) if self.low >= 1 else (-math.inf, 1.0)
        low, high = self.low * (1 - self.test.tolerance), self.high * (1 + self.test.tolerance)
        expect = self.test.expect
        return -math.inf if expect == "at most" else low, math.inf if expect == "at least" else high


def names() -> list[str]:
    """Return the ids of all claims, sorted."""
    return sorted(path.stem for path in CLAIMS.glob("*.toml"))


def tested() -> list[str]:
    """Return the ids of the claims that have a test of their own."""
    return [name for name in names() if (test := load(name).test) and test.trial]


def load(name: str) -> Claim:
    """Read a claim by its id.

    Raises
    ------
    ParameterError
        There is no such claim.
    SpecError
        Its file is not valid; the message names the key.
    """
    path = CLAIMS / f"{name}.toml"
    if not path.is_file():
        raise ParameterError(f"there is no claim {name}", hint=nearest(name, names()), name="claim")
    return read(path)


@functools.cache
def read(path: Path) -> Claim:
    """Read the file of a claim, checked key by key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path.name}: {error}") from None
    name = path.stem
    spec.check_keys(name, table, _KEYS)
    _complete(name, table, _REQUIRED)
    if "missing" not in table and "test" not in table:
        raise SpecError(f"{name}: neither a test nor what is missing for one", hint="write [test], or missing = ...")
    _one_of(name, "kind", table["kind"], KINDS)
    if "test" in table:
        _complete(name, table, {"figure", "unit"})
    table.setdefault("figure", math.nan)
    figures = table["figure"] if isinstance(table["figure"], list) else [table["figure"]]
    if not 1 <= len(figures) <= 2 or figures[0] > figures[-1]:
        raise SpecError(f"{name}: figure is {table['figure']}", hint="write a number, or [low, high]")
    low, high = (values.match_kind(f"{name}: figure", value, 0.0) for value in (figures[0], figures[-1]))
    texts = {key: _text(name, key, table.get(key, "")) for key in _KEYS - {"figure", "test"}}
    return Claim(id=name, low=low, high=high, test=_test(name, table.get("test")), **texts)


def _test(name: str, table: dict[str, Any] | None) -> Test | None:
    """Check how a claim is tested."""
    if table is None:
        return None
    where = f"{name}: test"
    spec.check_keys(where, table, _TEST_KEYS)
    _complete(where, table, _TEST_REQUIRED)
    _one_of(where, "expect", table["expect"], EXPECTATIONS)
    if ("trial" in table) == ("rows_of" in table):
        raise SpecError(f"{where} needs a trial of its own or the rows of another claim", hint="trial or rows_of")
    if "rows_of" in table and not (CLAIMS / f"{table['rows_of']}.toml").is_file():
        raise SpecError(f"{where}: there is no claim {table['rows_of']}", hint=nearest(table["rows_of"], names()))
    for key in ("operations", "elsewhere"):
        if not all(isinstance(item, str) for item in table.get(key, [])) or (key in table and not table[key]):
            raise SpecError(f"{where}: {key} is {table[key]!r}", hint="write a list of names of rows")
    return Test(
        measured_by=table.get("rows_of", name),
        trial=table.get("trial", ""),
        how=_text(where, "how", table["how"]),
        expect=table["expect"],
        tolerance=values.match_kind(f"{where}: tolerance", table.get("tolerance", 0.0), 0.0),
        operations=tuple(table["operations"]),
        elsewhere=tuple(table.get("elsewhere", [])),
        quantity=_text(where, "quantity", table["quantity"]),
        scale=values.match_kind(f"{where}: scale", table.get("scale", 1.0), 0.0),
        workload=spec.workload_of(where, table.get("workload", {})),
    )


def _complete(where: str, table: Mapping[str, Any], keys: set[str]) -> None:
    """Refuse a table without a key that it needs."""
    if keys - set(table):
        raise SpecError(f"{where}: {', '.join(sorted(keys - set(table)))} missing")


def _one_of(where: str, key: str, value: Any, known: Any) -> None:
    """Refuse a value that is none of those known."""
    if value not in known:
        raise SpecError(f"{where}: {key} is {value!r}", hint=nearest(str(value), known))


def _text(where: str, key: str, value: Any) -> str:
    """Return text without the line ends of the file."""
    return " ".join(str(values.match_kind(f"{where}: {key}", value, "")).split())
