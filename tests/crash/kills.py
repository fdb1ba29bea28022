"""kill -9 at random moments: several writers, each with keys of its own, beside checkpoints, recoveries and closes.

A batch of a writer sets all of its keys to one number, so a torn batch shows; balances move between the keys of a
writer and keep their sum, so lost money shows. What was acknowledged is told through a pipe before the kill.
"""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ledger import ACCOUNT, ClosedError, GeometricLedger, LedgerError
from tests.children import Child
from tests.model import make_keys, reopen_options, small_options

WRITERS, KEYS, MONEY = 3, 5, 1000
ABOUT = {"capacity": 256, "shards": 4}
LOG = {"checkpoint_log_bytes": 64 * 1024, "log_bytes_max": 256 * 1024}
PLACES = ("opening", "recovery", "writing", "checkpoint", "closing", "closed")
TO_IMAGE = (("none", "private"), ("none", "memory"))  # a kill goes back to the last snapshot


@dataclass(eq=False)
class Kills:
    """What came out of many kills; `struck` counts what the writer was about."""

    struck: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


def keys_of(writer: int) -> np.ndarray:
    """Return the keys of a writer."""
    return make_keys(range(10 * writer, 10 * writer + KEYS))


def batch(writer: int, number: int) -> np.ndarray:
    """Return batch `number` of a writer: all its keys get the number, and its money is dealt out anew."""
    records = np.zeros(KEYS, ACCOUNT)
    records["pubkey"] = keys_of(writer)
    records["nonce"] = number
    records["balance"] = np.random.default_rng((writer, number)).multinomial(MONEY, [1 / KEYS] * KEYS)
    return records


def work(path: Path, kind: tuple[str, str], seed: int, say: Callable[[object], None]) -> None:
    """Open and write from several threads, taking checkpoints now and then and closing in the end, until killed."""
    say("opening")
    ledger = GeometricLedger.open(path, reopen_options(*kind, **LOG))
    say("writing")
    numbers = [int(ledger.get_batch(keys_of(writer))[0]["nonce"][0]) for writer in range(WRITERS)]

    def write(writer: int) -> None:
        try:
            write_on(writer, numbers[writer])
        except ClosedError:
            pass
        except BaseException as error:
            say(f"error {error!r}")

    def write_on(writer: int, number: int) -> None:
        while True:
            number += 1
            if number % 4:
                ledger.update_batch(batch(writer, number))
            else:
                ahead = [ledger.submit_batch(batch(writer, number + step)) for step in range(3)]
                number += 2
                for future in ahead:
                    future.result()
            say(f"done {writer} {number}")

    for writer in range(WRITERS):
        threading.Thread(target=write, args=(writer,), daemon=True).start()
    choose = random.Random(seed)
    while choose.random() < 0.8:
        time.sleep(choose.uniform(0, 0.01))
        say("checkpoint")
        ledger.snapshot()
        say("writing")
    say("closing")
    ledger.close()
    say("closed")
    time.sleep(60)


def run(folder: Path, kind: tuple[str, str], found: Kills, *, cycles: int, seed: int) -> None:
    """Kill, open and compare, `cycles` times over one ledger; every second opening is for writing."""
    choose = random.Random(seed)
    path = folder / "-".join(kind)
    shutil.rmtree(path, ignore_errors=True)
    with GeometricLedger.open(path, small_options(*kind, **ABOUT)) as ledger:
        for writer in range(WRITERS):
            ledger.update_batch(batch(writer, 0))
    promised = [0] * WRITERS
    for cycle in range(cycles):
        struck = kill_writer(path, kind, choose, promised)
        found.struck[struck] += 1
        if choose.random() < 0.3:
            found.struck["recovery"] += kill_opening(path, kind, choose)
        problem = look(path, kind, promised, read_only=cycle % 2 == 0)
        if problem or struck not in PLACES:
            found.violations.append(f"{'-'.join(kind)}, seed {seed}, kill {cycle + 1}, {struck}: {problem}")
            return
    shutil.rmtree(path)


def kill_writer(path: Path, kind: tuple[str, str], choose: random.Random, promised: list[int]) -> str:
    """Kill a writer in what it is about, and note what it was told; return what that was."""
    seed = choose.getrandbits(32)
    child = Child(lambda say: work(path, kind, seed, say))
    lines = [child.line()]
    until = choose.choice(("opening", "writing", "writing", "checkpoint", "checkpoint", "closing"))
    while until not in lines and lines[-1] not in ("closed", ""):
        lines.append(child.line())
    time.sleep(choose.uniform(0, 0.03 if until == "writing" else 0.006))
    lines += child.kill()
    about, told, held = "opening", list(promised), list(promised)
    for line in filter(None, lines):
        word, *numbers = line.split()
        if word == "error":
            return line
        if word == "done":
            told[int(numbers[0])] = int(numbers[1])
            continue
        if word in ("checkpoint", "closing"):
            begun = list(told)  # acknowledged before it began, so it holds them
        elif about == "checkpoint" or word == "closed":
            held = begun
        about = word
    promised[:] = held if kind in TO_IMAGE else told
    return about if child.status == -signal.SIGKILL else f"ended by itself with {child.status}"


def kill_opening(path: Path, kind: tuple[str, str], choose: random.Random) -> int:
    """Kill an opening for writing; return whether it was still under way."""
    child = Child(lambda say: (GeometricLedger.open(path, reopen_options(*kind, **LOG)), say("open"), time.sleep(60)))
    time.sleep(choose.uniform(0, 0.012))
    return "open" not in child.kill()


def look(path: Path, kind: tuple[str, str], promised: list[int], *, read_only: bool) -> str:
    """Open after a kill and return what is wrong; what is there is promised from now on."""
    try:
        ledger = GeometricLedger.open(path, reopen_options(*kind), read_only=read_only)
    except LedgerError as error:
        return f"{type(error).__name__}: {error}"
    try:
        report = ledger.verify()
        if not report.ok:
            return "; ".join(report.faults)
        if report.supply != WRITERS * MONEY:
            return f"{report.supply} of {WRITERS * MONEY} coins are left"
        for writer in range(WRITERS):
            records, _ = ledger.get_batch(keys_of(writer))
            numbers = set(records["nonce"].tolist())
            if len(numbers) != 1:
                return f"a batch of writer {writer} is torn: {sorted(numbers)}"
            number = numbers.pop()
            if number < promised[writer]:
                return f"writer {writer} was told of {promised[writer]}, {number} is left"
            if (records != batch(writer, number)).any():
                return f"the accounts of writer {writer} are not those of its batch {number}"
            promised[writer] = number
    finally:
        ledger.__del__()
    return ""
