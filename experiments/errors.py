"""Every error of the workbench.

::

    ExperimentError
    ├── SpecError (ValueError)          an experiment's file is not what it should be
    ├── ParameterError (ValueError)     a factor, level or notebook parameter is unknown or of the wrong kind
    ├── RunNotFoundError (LookupError)  no stored run has this id
    ├── RunBusyError                    another process is writing the run
    ├── ResumeError                     a run cannot go on: code, experiment or machine is another one
    ├── TrialError                      a trial failed, died or took too long; becomes a row, not an abort
    ├── NotApplicableError              this machine cannot measure a cell; becomes a row with the reason
    ├── BuildError                      a side of `bench` could not be built, or its process died
    └── NotebookError                   a notebook of a report did not run to its end

Each carries `hint`, one sentence about what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ExperimentError(Exception):
    """Base of all errors of the workbench; facts become attributes."""

    def __init__(self, message: str, *, hint: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.hint = hint
        for name, value in facts.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        """Return the message, and the hint behind it."""
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


class SpecError(ExperimentError, ValueError):
    """An experiment's file misses something, or holds something unknown."""


class ParameterError(ExperimentError, ValueError):
    """A factor, level or notebook parameter is unknown, or of a kind that it cannot be."""

    name: str = ""


class RunNotFoundError(ExperimentError, LookupError):
    """No stored run has this id."""


class RunBusyError(ExperimentError):
    """Another process is writing the run."""


class ResumeError(ExperimentError):
    """A run cannot go on: what would be measured now is not what was measured before."""


class TrialError(ExperimentError):
    """A trial failed, its process died, or it took too long."""


class NotApplicableError(ExperimentError):
    """A cell cannot be measured on this machine: it has too little memory or disk for it."""


class BuildError(ExperimentError):
    """A side of `bench` could not be built, or its process died."""


class NotebookError(ExperimentError):
    """A notebook of a report did not run to its end."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the nearest known name, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else "known: " + ", ".join(names)
