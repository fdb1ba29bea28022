"""A Hypothesis state machine drives the ledger against the model, through closes, kills and changes of mode."""

from __future__ import annotations

import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ledger import ACCOUNT, CapacityError, GeometricLedger, ReadOnlyError
from tests.model import MODES, Model, assert_equal, make_key, make_keys, reopen_options, small_options

KEYS = 24
key_numbers = st.integers(0, KEYS - 1)
words = st.one_of(st.sampled_from([0, 1, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))
rows = st.lists(st.tuples(key_numbers, words, words), max_size=12)
modes = st.sampled_from(MODES)
settings_of_a_handle = st.fixed_dictionaries(
    {"threads": st.sampled_from([1, 2]), "prefetch": st.sampled_from([0, 3, 16]), "batch_rows_max": st.just(64)}
)


def records_of(drawn):
    records = np.zeros(len(drawn), ACCOUNT)
    for row, (number, balance, nonce) in enumerate(drawn):
        records[row] = (list(make_key(number)), balance, nonce, balance ^ nonce, nonce // 3)
    return records


class LedgerMachine(RuleBasedStateMachine):
    """`now` is the state that was acknowledged; `image` is the one of the last snapshot or close."""

    @initialize(mode=modes, chosen=settings_of_a_handle, small=st.booleans())
    def create(self, mode, chosen, small):
        self.folder = tempfile.mkdtemp(prefix="book-")
        geometry = {"capacity": 10, "shards": 1} if small else {"capacity": 64, "shards": 4}
        self.mode = mode
        self.now, self.image = Model(), Model()
        options = small_options(*mode, log_bytes_max=128 * 1024, **geometry, **chosen)
        self.ledger = GeometricLedger.open(self.folder, options)
        self.slots = self.ledger._control.slots(0) if small else None

    def open(self, mode, chosen, **arguments):
        self.mode = mode
        options = reopen_options(*mode, log_bytes_max=128 * 1024, **chosen)
        self.ledger = GeometricLedger.open(self.folder, options, **arguments)

    def kill(self):
        """Drop the handle, which nothing else holds: its threads end, and nothing is written to the image."""
        self.ledger = None
        if self.mode in (("none", "private"), ("none", "memory")):
            self.now = self.image.copy()

    @rule(drawn=rows, deletes=st.lists(key_numbers, max_size=4))
    def update_batch(self, drawn, deletes):
        records, keys = records_of(drawn), [make_key(number) for number in deletes]
        after = self.now.copy()
        lsn = after.update_batch(records, keys)
        if self.slots is not None and len(after.slots) > self.slots:
            with pytest.raises(CapacityError):
                self.ledger.update_batch(records, keys)
            return
        assert lsn == self.ledger.update_batch(records, keys)
        self.now = after

    @rule(number=key_numbers, balance=words)
    def write_and_delete_in_one_batch(self, number, balance):
        self.update_batch([(number, balance, 1), (number, balance, 2)], [number])

    @rule(numbers=st.lists(key_numbers, min_size=1, max_size=20))
    def delete_batch(self, numbers):
        assert self.now.update_batch(records_of([]), make_keys(numbers)) == self.ledger.delete_batch(make_keys(numbers))

    @rule(number=key_numbers)
    def get(self, number):
        key = make_key(number)
        assert self.now.accounts.get(key) == self.ledger.get(key)
        assert (key in self.now.accounts) == (key in self.ledger)

    @rule(numbers=st.lists(key_numbers, max_size=20))
    def get_batch(self, numbers):
        records, found = self.ledger.get_batch(make_keys(numbers))
        wanted = [self.now.accounts.get(make_key(number)) for number in numbers]
        assert [account is not None for account in wanted] == found.tolist()
        assert [account.balance if account else 0 for account in wanted] == records["balance"].tolist()

    @rule()
    def snapshot(self):
        assert self.now.lsn == self.ledger.snapshot()
        self.image = self.now.copy()

    @rule(mode=modes, chosen=settings_of_a_handle)
    def close_and_open(self, mode, chosen):
        self.ledger.close()
        self.image = self.now.copy()
        self.open(mode, chosen)
        assert self.ledger.recovery.clean
        assert_equal(self.now, self.ledger)

    @rule(mode=modes, chosen=settings_of_a_handle)
    def kill_and_open(self, mode, chosen):
        self.kill()
        self.open(mode, chosen)
        assert not self.ledger.recovery.clean
        self.image = self.now.copy()
        assert_equal(self.now, self.ledger)

    @rule(killed=st.booleans(), look=modes, mode=modes, chosen=settings_of_a_handle)
    def look_read_only(self, killed, look, mode, chosen):
        if killed:
            self.kill()
        else:
            self.ledger.close()
        self.open(look, chosen, read_only=True)
        assert_equal(self.now, self.ledger)
        with pytest.raises(ReadOnlyError):
            self.ledger.update_batch(records_of([(1, 1, 1)]))
        self.ledger.close()
        self.image = self.now.copy()
        self.open(mode, chosen)
        assert_equal(self.now, self.ledger)

    @precondition(lambda self: hasattr(self, "ledger"))
    @invariant()
    def count_is_right(self):
        assert len(self.now.accounts) == len(self.ledger)

    def teardown(self):
        if getattr(self, "ledger", None) is not None:
            assert_equal(self.now, self.ledger)
            self.ledger.close()
            shutil.rmtree(self.folder)


FAST = settings(
    max_examples=40, stateful_step_count=20, deadline=None, database=None,
    phases=[Phase.explicit, Phase.generate],
)  # fmt: skip
LONG = settings(FAST, max_examples=400, stateful_step_count=50, phases=[Phase.explicit, Phase.generate, Phase.shrink])


def test_the_ledger_does_what_the_model_does():
    run_state_machine_as_test(LedgerMachine, settings=FAST)


@pytest.mark.slow
def test_the_ledger_does_what_the_model_does_for_long():
    run_state_machine_as_test(LedgerMachine, settings=LONG)
