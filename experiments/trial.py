"""One trial: one fresh process that measures one cell once.

A fork server imports the ledger and loads its kernels; each trial is a fork of it, so that a clean
process costs milliseconds. The server has no threads (BLAS is told to make none): a fork of a process
with threads may hang. A trial that fails, dies or takes too long is an outcome with its error; it
never stops the run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from experiments.children import die_with_parent
from experiments.errors import NotApplicableError
from experiments.measure import Histogram
from experiments.spec import resolve

MODULES_VARIABLE: Final = "EXPERIMENTS_TRIAL_MODULES"
_PRELOAD: Final = "experiments.preload"


@dataclass(frozen=True)
class Trial:
    """What a trial function gets: one level of each factor, the workload, a seed, an empty directory."""

    experiment: str
    function: str
    index: int
    cell: int
    repeat: int
    factors: dict[str, Any]
    workload: dict[str, Any]
    seed: int
    timeout_s: float
    scratch: Path

    @property
    def label(self) -> str:
        """Return the levels in one line, for progress."""
        return " ".join(f"{name}={value}" for name, value in self.factors.items())


@dataclass
class Operation:
    """What one kind of call did in a trial: numbers by column name, and histograms."""

    name: str
    numbers: dict[str, Any] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a trial gives back.

    `facts` (what was asked and got) go into every row of the trial; `state_hash` is the order-free hash of
    the accounts that it left, equal for equal settings. A trial that raises `NotApplicableError` has a `reason`.
    """

    operations: list[Operation] = field(default_factory=list)
    state_hash: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    status: str = "ok"
    error: str | None = None
    reason: str | None = None
    seconds: float = 0.0


def start_server(functions: list[str]) -> None:
    """Start the fork server and wait until it has loaded everything, so that no trial pays for it.

    Parameters
    ----------
    functions
        Trial functions as ``module:function``. A module may define ``warm_up()`` to load kernels of
        its own, and ``USES_LEDGER = False`` if it needs none of the ledger's.
    """
    modules = sorted({name.partition(":")[0] for name in functions})
    os.environ[MODULES_VARIABLE] = ",".join(modules)
    multiprocessing.set_forkserver_preload([_PRELOAD])
    process = multiprocessing.get_context("forkserver").Process(target=_nothing, daemon=True)
    with _server_environment():
        process.start()
    process.join()


def run(trial: Trial, log: Path) -> Outcome:
    """Run a trial in a process of its own; its output goes to `log`."""
    trial.scratch.mkdir(parents=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, trial, str(log)), daemon=True)
    started = time.monotonic()
    try:
        with _server_environment():
            process.start()
        sender.close()
        outcome = _receive(receiver, process, trial.timeout_s)
    finally:
        if process.is_alive():
            process.kill()
        process.join(10)
        receiver.close()
        shutil.rmtree(trial.scratch, ignore_errors=True)
    outcome.seconds = time.monotonic() - started
    return outcome


def _receive(receiver: Any, process: Any, timeout_s: float) -> Outcome:
    """Wait for the child's answer, its death or the end of its time."""
    ready = multiprocessing.connection.wait([receiver, process.sentinel], timeout_s)
    if not ready:
        return Outcome(status="failed", error=f"took more than {timeout_s:g} s")
    try:
        outcome: Outcome = receiver.recv()
    except (EOFError, OSError):
        process.join(5)
        return Outcome(status="failed", error=f"the process died: {_exit_words(process.exitcode)}")
    process.join(5)
    return outcome


def _child(sender: Any, trial: Trial, log: str) -> None:
    """Run the trial function and send what it measured, or its error."""
    die_with_parent()  # the fork server, which ends with the run: no orphan disturbs the run that goes on
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    try:
        outcome = resolve(trial.function)(trial)
        if not isinstance(outcome, Outcome):
            raise TypeError(f"{trial.function} returned {type(outcome).__name__}, not an Outcome")
        print(f"state {outcome.state_hash}", flush=True)
    except NotApplicableError as error:
        outcome = Outcome(status="not applicable", reason=str(error))
    except BaseException as error:
        traceback.print_exc()
        outcome = Outcome(status="failed", error=f"{type(error).__name__}: {error}")
    sys.stdout.flush()
    sender.send(outcome)
    sender.close()


def _nothing() -> None:
    """Do nothing: the answer comes when the server has loaded everything."""


def _exit_words(code: int | None) -> str:
    """Say how a process ended."""
    if code is None or code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


@contextlib.contextmanager
def _server_environment() -> Iterator[None]:
    """Give a starting fork server our import path and one BLAS thread, which is no thread at all."""
    changes = {
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path if not entry.endswith(".zip")),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
