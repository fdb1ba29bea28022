"""Notebooks: their parameters cell, and running one by papermill. Imported by the processes that run them."""

from __future__ import annotations

import ast
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments import runs, spec, values
from experiments.errors import NotebookError, ParameterError, SpecError, nearest

# jsonschema, which nbformat imports, takes this one if it is there and needs it for nothing here; its
# import compiles a grammar for three seconds.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def execute(source: Path, target: Path, given: dict[str, Any], log: Path | None = None) -> None:
    """Execute a notebook by papermill, away from the user's own Jupyter settings.

    Parameters
    ----------
    source, target
        The notebook, and where its executed copy goes.
    given
        Parameters by name.
    log
        Takes what the kernel writes on standard error.

    Raises
    ------
    ParameterError
        A parameter is not in the notebook's parameters cell.
    NotebookError
        A cell failed or the kernel died; the notebook as far as it came is at `target`.
    """
    import nbformat
    import papermill

    _check_parameters(source, nbformat.read(source, as_version=4), given)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _own_jupyter(), _errors_to(log):
        try:
            papermill.execute_notebook(
                _literal(source), _literal(target), parameters=given, cwd=str(runs.ROOT), progress_bar=False,
                log_output=False, start_timeout=120, kernel_manager_class="experiments.kernel.LocalKernelManager",
            )  # fmt: skip
        except Exception as error:  # whatever stops a notebook is told in one line, and the others go on
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise NotebookError(f"{source.name} stopped: {reason}", path=target) from None


def parameters(notebook: Any) -> dict[str, Any]:
    """Return names and values of a notebook's parameters cell, which holds literals only.

    Raises
    ------
    SpecError
        There is no such cell, or one of its lines is not ``name: type = literal``.
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise SpecError("a notebook needs one cell with the tag parameters")
    found = {}
    for node in ast.parse(cells[0].source).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise SpecError(f"line {node.lineno} of the parameters cell is not name: type = literal")
        try:
            found[node.target.id] = ast.literal_eval(node.value)
        except ValueError:
            raise SpecError(f"{node.target.id} in the parameters cell is no literal") from None
    return found


def _check_parameters(source: Path, notebook: Any, given: dict[str, Any]) -> None:
    """Refuse what the parameters cell does not have: papermill only warns and takes the default."""
    known = parameters(notebook)
    for name, value in given.items():
        if name not in known:
            raise ParameterError(f"{source.name} has no parameter {name}", hint=nearest(name, known), name=name)
        values.check(name, value)


@contextlib.contextmanager
def _errors_to(log: Path | None) -> Iterator[None]:
    """Send standard error, the kernel's too, to a file: kernels write there what concerns nobody."""
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(2)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(target, 2)
    os.close(target)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _own_jupyter() -> Iterator[None]:
    """Keep Jupyter's files out of the user's home, which may be read-only or hold settings of its own."""
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        changes = {
            "IPYTHONDIR": f"{folder}/ipython",
            "JUPYTER_RUNTIME_DIR": f"{folder}/runtime",
            "JUPYTER_CONFIG_DIR": f"{folder}/config",
            "JUPYTER_DATA_DIR": f"{folder}/data",
            "PYTHONPATH": os.pathsep.join([str(runs.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            runs.RESULTS_VARIABLE: str(runs.results_dir().resolve()),
            spec.SPECS_VARIABLE: "".join(map(str, spec.own_folders())),
        }
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


def _literal(path: Path) -> str:
    """Return a path in which papermill, which takes it for a format string, finds nothing to fill in."""
    return str(path).replace("{", "{{").replace("}", "}}")
