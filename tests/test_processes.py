"""Processes: who may write, forks, interrupts, and kills in the middle of everything."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from ledger import ForkedError, GeometricLedger, LockedError
from ledger.engine import requests
from tests import children
from tests.children import Child
from tests.faults import FaultyFiles
from tests.model import MODES, Model, make_accounts, make_key, make_keys, reopen_options, small_options

ROWS = 60
ABOUT = {"capacity": 400, "log_bytes_max": 256 * 1024}
TO_IMAGE = (("none", "private"), ("none", "memory"))  # a kill goes back to the last snapshot
modes = pytest.mark.parametrize("kind", MODES, ids="-".join)


# ---------------------------------------------------------------- one writer
def test_a_second_writer_is_refused_by_every_path_and_the_first_keeps_its_lock(tmp_path, monkeypatch):
    home = tmp_path / "book"
    ledger = GeometricLedger.open(home, small_options())
    (tmp_path / "link").symlink_to(home)
    monkeypatch.chdir(tmp_path)
    paths = [home, "book", tmp_path / "link", home / ".." / "book", "./link/."]
    for path in paths:
        for arguments in ({}, {"read_only": True}, {"create": False}):
            with pytest.raises(LockedError) as caught:
                GeometricLedger.open(path, reopen_options(), **arguments)
            assert os.getpid() == caught.value.pid
    code = """
import sys
from ledger import GeometricLedger, LockedError
for path in sys.argv[1:]:
    for read_only in (False, True):
        try:
            GeometricLedger.open(path, read_only=read_only)
        except LockedError as error:
            print(error.pid)
"""
    assert [str(os.getpid())] * 10 == children.run_python(code, *paths).split()
    ledger.update_batch(make_accounts(1, 3))
    ledger.close()
    GeometricLedger.open(home, reopen_options()).close()


def test_readers_share_a_ledger_and_keep_writers_out(tmp_path):
    GeometricLedger.open(tmp_path, small_options()).close()
    readers = [GeometricLedger.open(tmp_path, read_only=True) for _ in range(2)]
    with pytest.raises(LockedError):
        GeometricLedger.open(tmp_path, reopen_options())
    for reader in readers:
        reader.close()
    GeometricLedger.open(tmp_path, reopen_options()).close()


def test_the_lock_of_a_dead_owner_is_no_lock(tmp_path):
    def body(say):
        ledger = GeometricLedger.open(tmp_path, small_options())
        say(ledger.update_batch(make_accounts(1, 5)))
        time.sleep(60)

    child = Child(body)
    assert "1" == child.line()
    with pytest.raises(LockedError) as caught:
        GeometricLedger.open(tmp_path, reopen_options())
    assert child.pid == caught.value.pid
    child.kill()
    (tmp_path / "lock").write_text(str(os.getpid()))
    with GeometricLedger.open(tmp_path, reopen_options()) as ledger:
        assert 5 == len(ledger)


# ---------------------------------------------------------------- forks
@pytest.mark.parametrize("way", ["sys.exit", "os._exit", "return"])
def test_a_fork_gets_an_error_and_harms_nothing(book, mode, way):
    ledger = book(small_options(*mode, **ABOUT))
    ledger.update_batch(make_accounts(1, 20))

    def body(say):
        calls = (
            lambda: ledger.get(make_key(1)), lambda: ledger.get_batch([make_key(1)]), lambda: len(ledger),
            lambda: ledger.update_batch(make_accounts(1, 1)), ledger.snapshot, ledger.verify, ledger.stats,
            lambda: list(ledger), lambda: ledger.index_view(0),
        )  # fmt: skip
        for call in calls:
            try:
                call()
                say("no error")
            except ForkedError as error:
                assert str(os.getppid()) in str(error)
        ledger.close()
        say(repr(ledger).split()[-1])
        if way == "sys.exit":
            sys.exit(0)
        if way == "os._exit":
            os._exit(0)

    for _ in range(2):
        assert ["forked>"] == children.run(body)
        for seed in range(5):
            ledger.update_batch(make_accounts(seed, 30))
    with pytest.raises(LockedError):
        GeometricLedger.open(ledger.path, reopen_options(*mode))
    ledger.close()
    ledger = book(reopen_options(*mode))
    assert (True, 30) == (ledger.recovery.clean, len(ledger))


def test_a_real_exit_of_a_forked_interpreter_harms_nothing(tmp_path):
    code = """
import os, sys
from ledger import GeometricLedger
from tests.model import *
ledger = GeometricLedger.open(sys.argv[1], small_options())
ledger.update_batch(make_accounts(1, 20))
pid = os.fork()
if pid == 0:
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
for seed in range(50):
    ledger.update_batch(make_accounts(seed, 20))
ledger.close()
print(GeometricLedger.open(sys.argv[1]).recovery.clean)
"""
    out = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert (0, "True", "") == (out.returncode, out.stdout.strip(), out.stderr)


def _look(key):
    try:
        return _shared.get(key)
    except ForkedError:
        return "forked"


_shared = None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_pool_of_forks_gets_the_error_and_ends(book):
    global _shared
    _shared = book()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert ["forked"] * 4 == pool.map(_look, [bytes(32)] * 4)
    _shared.update_batch(make_accounts(1, 3))
    assert 3 == len(_shared)
    _shared = None


# ---------------------------------------------------------------- interrupts
# Python drops an interrupt that strikes in a finalizer, such as the one that gives memory back, and pytest tells.
may_be_dropped = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def strike(call, *delays):
    """Call until an interrupt has struck after each of `delays` (s) in turn; a second one strikes wherever it can."""
    left, caught = list(delays), None

    def ring(*_):
        left.pop(0)
        signal.setitimer(signal.ITIMER_REAL, left[0] if left else 0)
        raise KeyboardInterrupt  # as Ctrl-C does, at an exact time

    before = signal.signal(signal.SIGALRM, ring)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, left[0])
            while left:  # it may have been dropped
                call()
        except KeyboardInterrupt as error:
            caught = error
            while left:
                time.sleep(0.0005)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGALRM, before)
    return caught


def draw_delays(choose, number, longest):
    """Return a delay (s), or two where `number` is odd, the second of which strikes soon after."""
    return [choose.uniform(0.00002, longest)] + [choose.uniform(0.000001, 0.0005)] * (number % 2)


def interrupt(ledger, times, seed):
    """Raise KeyboardInterrupt at random moments of update_batch, once or twice; each batch must be all or nothing."""
    choose = random.Random(seed)
    rows = 6000
    state = 1

    def write():
        nonlocal state
        ledger.update_batch(uniform(state + 1, rows))
        state += 1

    ledger.update_batch(uniform(state, rows))
    for number in range(times):
        strike(write, *draw_delays(choose, number, 0.006))
        if number % 2:
            ledger.verify()  # waits its turn behind the batch, as the second interrupt did not
        records, found = ledger.get_batch(make_keys(range(rows)))
        nonces = set(records["nonce"].tolist())
        ledger.verify()  # waits its turn behind any batch that would still be under way
        assert nonces == {ledger.get(make_key(0)).nonce}, "one interrupt is raised when the outcome is known"
        assert 1 == len(nonces)
        assert found.all()
        assert nonces <= {state, state + 1}
        state = nonces.pop() + 1
        ledger.update_batch(uniform(state, rows))
        assert (state, state) == (ledger.get(make_key(0)).nonce, ledger.get(make_key(rows - 1)).nonce)
    assert [] == ledger.verify().faults


_uniform = {}


def uniform(nonce, rows):
    if rows not in _uniform:
        _uniform[rows] = make_accounts(0, rows)
    _uniform[rows]["nonce"] = nonce
    return _uniform[rows]


@pytest.mark.parametrize(
    "kind", [("none", "private"), ("msync", "shared"), ("async", "memory"), ("sync", "private")], ids="-".join
)
@may_be_dropped
def test_an_interrupt_leaves_a_batch_whole_or_absent(tmp_path, kind):
    with GeometricLedger.open(tmp_path, small_options(*kind, capacity=8000, log_bytes_max=8 << 20)) as ledger:
        interrupt(ledger, 32, 1)
        digest = ledger.state_hash()
    with GeometricLedger.open(tmp_path, reopen_options(*kind)) as ledger:
        assert digest == ledger.state_hash()


@pytest.mark.slow
@modes
@may_be_dropped
def test_many_interrupts_leave_batches_whole_or_absent(tmp_path, kind):
    with GeometricLedger.open(tmp_path, small_options(*kind, capacity=8000, log_bytes_max=8 << 20)) as ledger:
        interrupt(ledger, 400, 2)


@pytest.mark.parametrize(("delays", "wait_s"), [((0.01,), 0.02), ((0.01, 0.1), 60.0)], ids=["once", "twice"])
def test_an_interrupt_that_cannot_wait_says_that_the_outcome_is_not_known(tmp_path, monkeypatch, delays, wait_s):
    go_on = threading.Event()

    class Held(FaultyFiles):
        def finish_write(self, handle):
            assert go_on.wait(60)
            super().finish_write(handle)

    monkeypatch.setattr(requests, "INTERRUPT_WAIT_S", wait_s)
    with GeometricLedger.open(tmp_path, small_options(), files=Held()) as ledger:
        caught = strike(lambda: ledger.update_batch(make_accounts(1, 20)), *delays)
        assert "not known yet" in str(caught)
        assert 0 == len(ledger)
        go_on.set()
        assert (1, 20) == (ledger.flush(), len(ledger))
        assert 2 == ledger.update_batch(make_accounts(2, 30))


@pytest.mark.parametrize("action", ["snapshot", "close"])
@modes
@may_be_dropped
def test_an_interrupted_snapshot_or_close_loses_nothing_and_frees_the_lock(tmp_path, kind, action):
    choose = random.Random(3)
    model = Model()
    for step in range(8):
        options = (small_options if step == 0 else reopen_options)(*kind, log_bytes_max=1 << 20)
        ledger = GeometricLedger.open(tmp_path, options)
        assert model.state_hash() == ledger.state_hash()
        model.update_batch(make_accounts(step, 200))
        ledger.update_batch(make_accounts(step, 200))
        delays = draw_delays(choose, step, 0.004)
        if action == "close":
            close, begun = ledger._close, []
            ledger._close = lambda close=close, begun=begun: begun.append(True) or close()
            strike(ledger.close, *delays)
            assert "closed" in repr(ledger) or not begun, "an interrupt before closing has begun leaves it open"
            ledger.close()
            assert (ledger.path / ".clean_shutdown").exists()
        else:
            strike(ledger.snapshot, *delays)
            assert model.state_hash() == ledger.state_hash()
            model.update_batch(make_accounts(step + 1, 100))
            ledger.update_batch(make_accounts(step + 1, 100))
            ledger.close()


# ---------------------------------------------------------------- kills
def batch(number):
    """Return batch `number`: rows with their LSN as nonce, and deletes."""
    choose = np.random.default_rng(number)
    records = make_accounts(number, 300)[choose.integers(0, 300, ROWS)]
    records["nonce"] = number
    return records, make_keys(choose.integers(0, 300, 8))


class History:
    """The model after each batch."""

    def __init__(self):
        self.states = {0: Model()}

    def after(self, lsn):
        while lsn not in self.states:
            newest = max(self.states)
            model = self.states[newest].copy()
            model.update_batch(*batch(newest + 1))
            self.states[newest + 1] = model
        return self.states[lsn]


HISTORY = History()


def write_on(path, kind, snapshots, say, *, options=None):
    """Open and write batch after batch, telling what is acknowledged, until killed."""
    ledger = GeometricLedger.open(path, options or reopen_options(*kind, log_bytes_max=256 * 1024))
    lsn = ledger.verify().lsn
    say(f"open {lsn}")
    while True:
        lsn += 1
        assert lsn == ledger.update_batch(*batch(lsn))
        say(f"batch {lsn}")
        if lsn % snapshots == 0:
            say(f"begin {lsn}")
            ledger.snapshot()
            say(f"snapshot {lsn}")


def survivors(lines, kind, start):
    """Return the least and the greatest LSN that may be there after a kill."""
    acknowledged = image = begun = start
    for line in lines:
        word, lsn = line.split()
        if word in ("batch", "open"):
            acknowledged = int(lsn)
            image = int(lsn) if word == "open" else image
        elif word == "begin":
            begun = int(lsn)
        elif word == "snapshot":
            image = int(lsn)
    return (image, max(image, begun)) if kind in TO_IMAGE else (acknowledged, acknowledged + 1)


def check_survivors(path, kind, lines, start):
    """Open after a kill and compare with what the mode promises; returns the LSN found."""
    low, high = survivors(lines, kind, start)
    with GeometricLedger.open(path, reopen_options(*kind), read_only=True) as ledger:
        looked = (ledger.verify().lsn, ledger.state_hash())
    ledger = GeometricLedger.open(path, reopen_options(*kind))
    lsn = ledger.verify().lsn
    assert low <= lsn <= high, lines[-5:]
    model = HISTORY.after(lsn)
    assert (lsn, model.state_hash()) == looked
    assert (model.state_hash(), len(model.accounts), model.supply) == (
        ledger.state_hash(), len(ledger), ledger.verify().supply,
    )  # fmt: skip
    assert [] == ledger.verify().faults
    ledger.__del__()
    return lsn


def kill_writers(path, kind, times, seed, snapshots):
    choose = random.Random(seed)
    GeometricLedger.open(path, small_options(*kind, **ABOUT)).close()
    lsn = 0
    for _ in range(times):
        child = Child(lambda say: write_on(path, kind, snapshots, say))
        lines = [child.line() for _ in range(choose.randrange(1, 20))]
        time.sleep(choose.uniform(0, 0.004))
        lines += child.kill()
        assert -signal.SIGKILL == child.status, lines
        lsn = check_survivors(path, kind, lines, lsn)


@modes
def test_a_kill_in_the_middle_of_writes_keeps_what_the_mode_promises(tmp_path, kind):
    kill_writers(tmp_path, kind, 5, 1, 9)


@modes
def test_a_kill_in_the_middle_of_snapshots_keeps_what_the_mode_promises(tmp_path, kind):
    kill_writers(tmp_path, kind, 4, 2, 1)


def kill_closers(path, kind, times, seed):
    choose = random.Random(seed)
    GeometricLedger.open(path, small_options(*kind, **ABOUT)).close()
    lsn = 0
    for _ in range(times):

        def body(say):
            ledger = GeometricLedger.open(path, reopen_options(*kind))
            first = ledger.verify().lsn
            say(f"open {first}")
            for number in range(first + 1, first + 4):
                ledger.update_batch(*batch(number))
                say(f"batch {number}")
            say(f"begin {number}")
            ledger.close()
            say(f"snapshot {number}")

        child = Child(body)
        lines = [child.line() for _ in range(5)]
        time.sleep(choose.uniform(0, 0.006))
        lines += child.kill()
        assert child.status in (-signal.SIGKILL, 0), lines
        lsn = check_survivors(path, kind, lines, lsn)


@modes
def test_a_kill_while_closing_leaves_the_state_before_or_after(tmp_path, kind):
    kill_closers(tmp_path, kind, 4, 5)


def kill_recoveries(path, kind, times, seed):
    choose = random.Random(seed)
    GeometricLedger.open(path, small_options(*kind, **ABOUT)).close()
    child = Child(lambda say: write_on(path, kind, 13, say))
    lines = [child.line() for _ in range(16)]
    lines += child.kill()
    for _ in range(times):
        other = Child(lambda _say: GeometricLedger.open(path, reopen_options(*kind)) and time.sleep(60))
        time.sleep(choose.uniform(0, 0.02))
        other.kill()
    check_survivors(path, kind, lines, 0)


@modes
def test_a_killed_recovery_loses_nothing(tmp_path, kind):
    kill_recoveries(tmp_path, kind, 5, 7)


@modes
def test_a_ledger_killed_while_it_is_made_can_be_made_again(tmp_path, kind):
    choose = random.Random(9)
    for _ in range(4):
        child = Child(lambda say: write_on(tmp_path, kind, 5, say, options=small_options(*kind, **ABOUT)))
        time.sleep(choose.uniform(0, 0.01))
        lines = child.kill()
        if lines:
            check_survivors(tmp_path, kind, lines, 0)
            break
    if not (tmp_path / "control.bin").exists():
        with GeometricLedger.open(tmp_path, small_options(*kind, **ABOUT)) as ledger:
            ledger.update_batch(*batch(1))
            assert HISTORY.after(1).state_hash() == ledger.state_hash()
