"""What a notebook imports: plan, run, show, check, conclude.

>>> from experiments import workbench  # doctest: +SKIP
>>> plan = workbench.plan("capacity", accounts=[10_000], load_factors=[0.5, 0.9])  # doctest: +SKIP
>>> rows = workbench.run(plan)  # doctest: +SKIP

Lists may come as lists or as JSON text: ``papermill -p load_factors '[0.5, 0.9]'`` hands over text.
Rows are measured once: with equal parameters and equal code a stored run is read again, unless
``rerun=True``; ``run_id`` names a stored run to read, whatever it measured.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import sys
import weakref
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd

from experiments import progress, runs, spec, sweep, values
from experiments.errors import ParameterError, nearest
from experiments.stored import all_runs, one_run
from experiments.sweep import Plan
from experiments.tables import Table

if TYPE_CHECKING:
    from experiments.compare import Comparison
    from ledger import GeometricLedger, Options

__all__ = ["all_runs", "analysis", "checks", "compare", "conclusion", "one_run", "open_ledger", "plan", "run", "show"]

_opened: weakref.WeakValueDictionary[str, GeometricLedger] = weakref.WeakValueDictionary()


class Words:
    """A sentence that a notebook shows as text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_markdown_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


def plan(name: str, **parameters: Any) -> Plan:
    """Return the plan of an experiment from a notebook's parameters, all checked.

    Raises
    ------
    ParameterError
        A name is unknown (given here, or injected into the notebook by papermill), or a value is not of its kind.
    """
    chosen = spec.load(name)
    _check_injected(chosen.parameters)
    return sweep.plan(chosen, "smoke", parameters)


def run(plan: Plan, *, run_id: str = "", rerun: bool = False) -> pd.DataFrame:
    """Return the rows of a plan: from the run named, from a stored run that is the same, or measured now."""
    name = plan.spec.name
    values.match_kind("run_id", run_id, "")
    values.match_kind("rerun", rerun, False)
    if run_id and rerun:
        raise ParameterError("run_id names stored rows and rerun asks for new ones", hint="give one", name="rerun")
    if run_id:
        return _read(run_id, name)
    stored = None if rerun else runs.latest(plan.digest)
    if stored is not None:
        return _read(stored, name)
    teller = progress.Cell() if _in_notebook() else progress.for_stream()
    return runs.load(sweep.run([plan], teller).id, name)


def show(rows: pd.DataFrame | None, caption: str = "") -> Table | None:
    """Return a table that shows whole numbers exactly; None for None, which stands for what was not measured."""
    return None if rows is None else Table(rows, caption)


def checks(rows: pd.DataFrame) -> Table:
    """Return what must hold for the rows to count, and whether it does."""
    facts = runs.manifest(rows.attrs["run_id"])
    factors = facts["experiments"][rows.attrs["experiment"]]["factors"]
    failed = rows[rows["status"] == "failed"]
    unequal = sweep.unequal_hashes(rows, factors)
    planned, done = facts.get("planned"), facts.get("trials")
    missing = facts["state"] != "complete"
    return Table(
        [
            _check(
                "every planned trial was run",
                not missing,
                f"{done} of {planned}" if done is not None else facts["state"],
            ),
            _check("no trial failed", failed.empty, "; ".join(map(str, failed["error"])) or "none failed"),
            _check("equal settings left equal accounts", not unequal, str(unequal) if unequal else "all hashes equal"),
        ],
        "checks",
    )


def compare(a: str, b: str, *, threshold: float = 0.05) -> Comparison:
    """Return stored run B beside A, by ids or folders: ratios of times with intervals, and whether B is slower."""
    from experiments import compare

    return compare.compare(a, b, threshold=threshold)


def conclusion(rows: pd.DataFrame) -> Words:
    """Return the answer to the experiment's question, computed from its rows."""
    module = analysis(rows.attrs["experiment"])
    return Words(module.answer(module.figures(rows)))


def open_ledger(path: str | os.PathLike[str], options: Options | None = None, **arguments: Any) -> GeometricLedger:
    """Open a ledger as `GeometricLedger.open` does, in a cell that may run again.

    The handle that an earlier call opened at this path is closed first, so what it acknowledged is kept and who still
    holds it gets a ClosedError. Handles that were opened otherwise are left alone.
    """
    from ledger import FailStopError, GeometricLedger

    place = os.path.realpath(path)
    before = _opened.get(place)
    if before is not None:
        with contextlib.suppress(FailStopError):  # it had stopped before, and opening recovers what it acknowledged
            before.close()
    ledger = _opened[place] = GeometricLedger.open(path, options, **arguments)
    return ledger


def analysis(name: str) -> ModuleType:
    """Return the module that makes tables, figures and the answer of an experiment."""
    chosen = spec.load(name)
    return importlib.import_module(chosen.analysis or "experiments.analysis.plain")


def _check(what: str, holds: bool, found: str) -> dict[str, Any]:
    """Return one line of the checks."""
    return {"must hold": what, "holds": holds, "found": found}


def _read(run_id: str, name: str) -> pd.DataFrame:
    """Return stored rows and say where they are from."""
    rows = runs.load(run_id, name)
    when = runs.manifest(run_id)["started"]
    print(f"read from run {rows.attrs['run_id']}, measured {when}; rerun=True measures again")
    return rows


def _in_notebook() -> bool:
    """Return whether an IPython kernel runs us."""
    return "ipykernel" in sys.modules and "IPython" in sys.modules


def _check_injected(known: set[str]) -> None:
    """Refuse names that papermill injected and nothing reads: it warns of them only, and takes the default."""
    if not _in_notebook():
        return
    from IPython import get_ipython

    shell = get_ipython()
    for source in (shell.user_ns.get("In", []) if shell else [])[::-1]:
        if source.startswith("# Parameters\n"):
            for name in _assigned(source) - known:
                raise ParameterError(f"the notebook has no parameter {name}", hint=nearest(name, known), name=name)
            return


def _assigned(source: str) -> set[str]:
    """Return the names that a cell assigns."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
