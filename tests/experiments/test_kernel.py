"""A ledger in a real kernel: cells run again, interrupts."""

from __future__ import annotations

import time

import pytest
from jupyter_client.manager import start_new_kernel

from experiments import notebooks
from experiments.notebooks import runs
from ledger import GeometricLedger

SET_UP = """
import numpy as np
from experiments import workbench
from experiments.workload import Workload
from ledger import GeometricLedger, Options
work, numbers, turn = Workload(500, 1), np.arange(500), 0
"""
OPEN = "ledger = workbench.open_ledger({path!r}, Options(capacity=1000))"
LOOP = """
print("begun", flush=True)
while True:
    turn += 1
    ledger.update_batch(work.records(numbers, version=turn))
"""
STATE = """
records, found = ledger.get_batch(work.pubkeys(numbers))
states = [v for v in (turn - 1, turn) if np.array_equal(records, work.records(numbers, version=v))]
print(found.all(), len(states), ledger.verify().ok)
"""


@pytest.fixture(scope="module")
def kernel():
    """Return a function that executes code in one kernel, and gives its text and the name of its error."""
    with notebooks._own_jupyter():
        manager, client = start_new_kernel(kernel_name="python3", cwd=str(runs.ROOT))

        def execute(code, on_text=lambda text: None):
            texts, errors = [], []

            def hook(message):
                content = message["content"]
                if message["msg_type"] == "error":
                    errors.append(f"{content['ename']}: {content['evalue']}")
                text = content.get("text") or content.get("data", {}).get("text/html", "")
                texts.append(text)
                on_text(text)

            client.execute_interactive(code, output_hook=hook, timeout=120)
            return "".join(texts), "; ".join(errors)

        execute.interrupt = manager.interrupt_kernel
        yield execute
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_cell_that_opens_a_ledger_can_be_run_again(kernel, tmp_path):
    path = str(tmp_path / "book")
    assert ("", "") == kernel(SET_UP + OPEN.format(path=path))
    kernel("ledger.update_batch(work.records(numbers, version=0)); before = ledger")
    assert ("", "") == kernel(OPEN.format(path=path))
    assert ("500 True", "") == kernel("print(len(ledger), ledger.verify().ok, end='')")
    assert "ClosedError" in kernel("before.get(bytes(32))")[1]
    refused = kernel(f"ledger = GeometricLedger.open({path!r})")[1]
    assert "LockedError" in refused and "workbench.open_ledger" in refused
    assert ">Ledger</caption>" in kernel("ledger.stats()")[0]
    kernel("ledger.close()")


def test_an_interrupt_leaves_the_ledger_whole_and_usable(kernel, tmp_path):
    path = str(tmp_path / "book")
    kernel(SET_UP + OPEN.format(path=path))

    def interrupt(text):
        if "begun" in text:
            time.sleep(0.1)
            kernel.interrupt()

    for _ in range(5):
        assert "KeyboardInterrupt" in kernel(LOOP, interrupt)[1]
        assert ("True 1 True\n", "") == kernel(STATE)
    kernel("turn += 1; ledger.update_batch(work.records(numbers, version=turn)); before = ledger.state_hash()")
    assert ("True 1 True\n", "") == kernel(STATE)
    left = kernel("ledger.close(); print(before, end='')")[0]
    with GeometricLedger.open(path) as ledger:
        assert left == str(ledger.state_hash())
