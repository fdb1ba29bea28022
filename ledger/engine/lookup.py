"""Reading without locks.

Invariants:

- a reader sees the state as of one committed LSN, never half a batch;
- two cells a record keep two states, so a reader that pins an LSN is overtaken only by two later frames;
- after two tries a batch of reads holds the next frame back for one kernel call: it then cannot fail.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ledger.engine.apply import Applier
from ledger.engine.passes import Passes, corrupt_record
from ledger.errors import InvalidInputError
from ledger.inputs import Account, check_key, key_words
from ledger.kernels.batch_read import committed_lsn
from ledger.kernels.single import get_one
from ledger.layout import ACCOUNT, KEY_BYTES, STATUS_ABSENT, STATUS_CLOSED, STATUS_RETRY, STATUS_UNCHECKED

TRIES = 2


class Reader:
    """Reads of one open ledger, safe to use from any number of threads.

    Parameters
    ----------
    applier : Applier
    passes : Passes
        To check a shard's index when it is first touched.
    gate : Lock
        Held by writers during each apply.
    """

    def __init__(self, applier: Applier, passes: Passes, gate: threading.Lock) -> None:
        self._applier = applier
        self._passes = passes
        self._gate = gate
        self._context = applier.context()
        self.address = 0 if applier.own_hash else int(self._context.ctypes.data)  # the kernel knows BLAKE3 alone
        self._closed: Exception | None = None
        self.retries = 0
        self.gates = 0

    def close(self, error: Exception) -> None:
        """Answer every later call with `error`."""
        self._closed = error
        self.address = 0

    def get(self, key: Any) -> Account | None:
        """Return one account where `get_account` alone did not: another kind of key, a refusal, a closed ledger."""
        if self._closed is not None:
            raise self._closed.with_traceback(None)
        if isinstance(key, np.ndarray):
            if key.dtype != np.uint8 or key.shape != (KEY_BYTES,):
                raise InvalidInputError(f"the key is {key.dtype}{list(key.shape)}, not uint8[32]", field="pubkey")
            key = key.tobytes()
        check_key(key)
        key = bytes(key)
        if self._applier.own_hash:
            records, found = self.get_batch(key_words([key]))
            return Account(key, *records[0].item()[1:]) if found[0] else None
        answer = get_account(self.address, key)
        if answer[0] == STATUS_UNCHECKED:
            self._passes.check_index(int(answer[1]) >> 32)
            answer = get_account(self.address, key)
        if answer[0] == STATUS_RETRY:
            self.gates += 1
            with self._gate:  # no frame is applied meanwhile, so a record without a state now is a damaged one
                answer = get_account(self.address, key)
        status, place, *_ = answer
        if status == STATUS_CLOSED:
            return self.get(key)
        if status not in (0, STATUS_ABSENT):
            raise corrupt_record(self._passes.shards, int(place) >> 32, int(place) & 0xFFFFFFFF)
        return None if status else Account(key, *answer[1:])

    def get_batch(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return accounts and which were found, as of one LSN; see `GeometricLedger.get_batch`.

        Parameters
        ----------
        keys : uint64[n, 4]
        """
        if not self._passes.all_checked:
            self._passes.check_all()
        applier = self._applier
        out = np.empty((len(keys), 8), np.uint64)
        found = np.empty(len(keys), np.uint8)
        state = applier.view.state
        for attempt in range(TRIES):
            status, place = applier.read(keys, committed_lsn(state), out, found)
            if status != STATUS_RETRY:
                break
            self.retries += 1
            if attempt == TRIES - 1:
                self.gates += 1
                with self._gate:
                    status, place = applier.read(keys, committed_lsn(state), out, found)
        if status != 0:
            raise corrupt_record(self._passes.shards, place >> 32, place & 0xFFFFFFFF)
        return out.view(ACCOUNT).reshape(len(keys)), found.view(np.bool_)


def _load_kernel() -> Callable[..., tuple[int, int, int, int, int]]:
    """Return the machine code of `get_one`, past numba's choice among signatures.

    Done at import: the first kernel of a process wakes all of numba, which takes longer than opening a ledger.
    """
    get_one(0, bytes(KEY_BYTES))
    overloads = list(getattr(get_one, "overloads", {}).values())
    return overloads[0].entry_point if overloads else get_one


get_account = _load_kernel()  # given the address of a context, 0 once its ledger is closed, and the key
