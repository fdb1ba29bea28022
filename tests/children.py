"""Forked children that write and are killed, see `experiments.children`, and scripts in new processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from experiments.children import Child, run

__all__ = ["Child", "run", "run_python"]
ROOT = Path(__file__).resolve().parent.parent


def run_python(script: str, *arguments: object, **changes: str) -> str:
    """Run a script in a new process with changed environment, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], env=os.environ | {"PYTHONPATH": str(ROOT)} | changes,
        capture_output=True, text=True,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    return done.stdout
