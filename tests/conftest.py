"""Fixtures that several test modules share."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import HealthCheck, settings

from ledger import GeometricLedger
from tests.model import LOGGED_MODES, MODES, small_options

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def mode_name(mode):
    return "-".join(mode)


@pytest.fixture(params=MODES, ids=mode_name)
def mode(request):
    """Every valid pair of durability and storage."""
    return request.param


@pytest.fixture(params=LOGGED_MODES, ids=mode_name)
def logged_mode(request):
    """Every pair with a log."""
    return request.param


@pytest.fixture
def book(tmp_path):
    """Return a function that opens ledgers below a temporary folder; each one still open is verified at the end.

    ``book()`` opens the ledger "book" with small options; a name, options and the arguments of `open` may be given.
    """
    opened = []

    def open_(options=None, *, name="book", **arguments):
        ledger = GeometricLedger.open(tmp_path / name, options or small_options(), **arguments)
        opened.append(ledger)
        return ledger

    yield open_
    faults = []
    for ledger in opened:
        if not ledger._status and (ledger._committer is None or ledger._committer.writable):
            faults += ledger.verify().faults
            ledger.close()
    assert [] == faults


@pytest.fixture
def mounted(tmp_path):
    """Return a function that mounts something, by arguments of `mount`, below a temporary folder."""
    paths = []

    def mount(*arguments):
        path = tmp_path / f"mount-{len(paths)}"
        path.mkdir()
        done = subprocess.run(["mount", *arguments, str(path)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        paths.append(path)
        return path

    yield mount
    for path in paths:
        subprocess.run(["umount", "-l", str(path)], check=True)
