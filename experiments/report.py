"""From a stored run to its executed notebooks, figures and one HTML page; measures nothing."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import json
import multiprocessing
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import nbformat

from experiments import machine, notebooks, page, runs, spec, sweep
from experiments.analysis import common
from experiments.errors import NotebookError, ParameterError
from experiments.tables import Table

_NOTEBOOKS_AT_ONCE: Final = 2


def build(run_id: str, *, with_notebooks: bool = True) -> tuple[Path, dict[str, float], list[str]]:
    """Execute the notebooks of a run, write its figures and its page.

    Parameters
    ----------
    run_id
        A stored run, complete or not.
    with_notebooks
        False makes the page from the summary alone.

    Returns
    -------
    tuple
        Path of the page, the summary's numbers by name (with the experiment before it where two share
        a name), and what went wrong.
    """
    path = runs.find(run_id)
    facts = runs.manifest(run_id)
    jobs = {
        name: item["notebook"] for name, item in facts["experiments"].items() if item["notebook"] and with_notebooks
    }
    faults: list[str] = []
    with _executor(jobs) as pool:
        waiting = {
            name: pool.submit(
                notebooks.execute,
                spec.notebook(notebook),
                path / "notebooks" / notebook,
                _parameters(facts, name),
                path / "logs" / f"{notebook}.log",
            )
            for name, notebook in jobs.items()
        }
        summaries = [_summary(path, name, item) for name, item in facts["experiments"].items()]
        for number, (name, future) in enumerate(waiting.items()):
            _say(f"notebook {number + 1} of {len(jobs)} · {jobs[name]}")
            try:
                future.result()
            except (NotebookError, ParameterError, OSError) as error:
                faults.append(f"{name}: {error}")
    for item in summaries:
        executed = path / "notebooks" / jobs.get(item["name"], "-")
        if executed.is_file():
            item["cells"] = list(page.notebook_cells(executed))
            _keep_figures(path / "figures", item["name"], page.notebook_figures(executed))
        item["warnings"] += [fault for fault in faults if fault.startswith(item["name"] + ":")]
    target = path / "report.html"
    runs.write_text(target, page.render(_context(facts, summaries)))
    return target, _join_figures(summaries), faults


def publish(run_id: str) -> Path:
    """Copy a run to ``results/published``, without what trials printed."""
    source = runs.find(run_id)
    target = runs.results_dir() / "published" / source.name
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("logs", "scratch", ".*"), dirs_exist_ok=True)
    for path in (target / "notebooks").glob("*.ipynb"):
        _forget_folders(path)
    return target


def _forget_folders(path: Path) -> None:
    """Leave the names of the files that papermill notes in a notebook, without the folders of this machine."""
    notebook = nbformat.read(path, as_version=4)
    noted = notebook.metadata.get("papermill", {})
    for name in ("input_path", "output_path"):
        if noted.get(name):
            noted[name] = Path(noted[name]).name
    nbformat.write(notebook, path)


def _parameters(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what the notebook of an experiment is run with: the run's own parameters, and its id."""
    return {**facts["experiments"][name]["parameters"], "run_id": facts["id"], "rerun": False}


def _summary(path: Path, name: str, item: dict[str, Any]) -> dict[str, Any]:
    """Return what the page says first about an experiment: answer, numbers, figures; figures are kept as files."""
    summary = {
        "name": name,
        "question": item["question"],
        "expectation": page.markdown(item["expectation"]),
        "warnings": [],
        "answer": "",
        "panels": [],
        "numbers": "",
        "figures": {},
        "cells": [],
    }
    rows = None
    with contextlib.suppress(LookupError):
        rows = runs.load(path.name if runs.find(path.name) == path else str(path), name)
    if rows is None or not (rows["status"] == "ok").any():
        summary["warnings"].append("No trial of this experiment ended well, so there is nothing to show.")
        return summary
    failed = rows[rows["status"] == "failed"]
    if len(failed):
        summary["warnings"].append(f"{len(failed)} trials failed; the first: {failed['error'].iloc[0]}")
    unequal = sweep.unequal_hashes(rows, item["factors"])
    if unequal:
        summary["warnings"].append(f"Repeats of the same settings left different accounts: {unequal[:3]}")
    module = importlib.import_module(spec.load(name).analysis or "experiments.analysis.plain")
    try:
        figures = module.figures(rows)
        panels = module.headline(rows)
        summary["answer"] = page.markdown(module.answer(figures))
    except Exception as error:
        if not len(failed) and runs.manifest(path.name)["state"] == "complete":
            raise
        summary["warnings"].append(f"Too few rows for the summary: {type(error).__name__}: {error}")
        return summary
    summary["figures"] = figures
    summary["numbers"] = page.table(Table(common.figure_rows(figures, spec.load(name).figures))._repr_html_())
    summary["panels"] = [page.figure(panel) for panel in panels]
    return summary


def _keep_figures(folder: Path, name: str, figures: Iterator[str]) -> None:
    """Write the figures of an executed notebook as files."""
    folder.mkdir(exist_ok=True)
    for number, svg in enumerate(figures, 1):
        runs.write_text(folder / f"{name}-{number}.svg", svg)


def _context(facts: dict[str, Any], summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the template shows."""
    done, planned, failed = (facts.get(key) for key in ("trials", "planned", "failed"))
    warnings = []
    if facts["state"] != "complete":
        warnings.append(
            f"This run is {facts['state']}: {done} of {planned} trials were done."
            if planned
            else "This run did not end."
        )
    usable = facts["machine"]["cpu"]["usable"]
    if facts["machine"]["load_1min"] > usable * 0.6:
        warnings.append(
            f"The machine was busy when the run began (load {facts['machine']['load_1min']:.1f} on {usable} CPUs): "
            "take the numbers with care."
        )
    return {
        "title": f"GeometricLedger: {', '.join(item['name'] for item in summaries)} ({facts['profile']})",
        "machine_line": machine.sentence(facts["machine"]),
        "trials_line": f"{done} of {planned} trials, {failed} failed" if planned else facts["state"],
        "run": facts,
        "warnings": warnings,
        "experiments": summaries,
        "noise": _noise(facts),
        "facts": _facts(facts),
    }


def _noise(facts: dict[str, Any]) -> dict[str, str]:
    """Return whether the machine was quiet; runs from before that was measured do not know."""
    noise = facts.get("noise") or {"words": "Whether the machine was quiet was not measured in this run."}
    return {"kind": "warning" if noise.get("disturbed") else "soft wide", "words": noise["words"]}


def _facts(facts: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return the manifest as headings, each with pairs of a name and text: the machine first, then the settings."""
    experiments = {f"Settings of {name}": list(_flat(item)) for name, item in facts["experiments"].items()}
    rest = {key: value for key, value in facts.items() if key not in ("machine", "experiments")}
    return {"Machine": list(_flat(facts["machine"])), "Run": list(_flat(rest)), **experiments}


def _flat(facts: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield the manifest as pairs of a dotted name and text; questions are on the page already."""
    for key, value in facts.items():
        if key in ("question", "expectation", "digests", "factors"):
            continue
        name = before + ("" if key == "parameters" else key.replace("_", " "))
        if isinstance(value, dict):
            yield from _flat(value, f"{name}: " if name else "")
        elif key.endswith("_bytes") and isinstance(value, int):
            yield name.removesuffix(" bytes"), machine.size_words(value)
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield name, "unknown" if value is None else text


def _join_figures(summaries: list[dict[str, Any]]) -> dict[str, float]:
    """Return all figures by name; where two experiments share a name, the experiment's goes before it."""
    names = [name for item in summaries for name in item["figures"]]
    return {
        name if names.count(name) == 1 else f"{item['name']}_{name}": value
        for item in summaries
        for name, value in item["figures"].items()
    }


@contextlib.contextmanager
def _executor(jobs: dict[str, str]) -> Iterator[concurrent.futures.Executor]:
    """Give processes for notebooks, a few at a time; none if there are no notebooks."""
    if not jobs:
        yield concurrent.futures.ThreadPoolExecutor(1)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(_NOTEBOOKS_AT_ONCE, len(jobs)), mp_context=context) as pool:
        yield pool


def _say(line: str) -> None:
    """Tell what is going on."""
    print(line, file=sys.stderr, flush=True)
