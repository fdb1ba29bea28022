"""What a salvage makes of records that it found without a whole cell: accounts that were deleted, under new keys.

A slot that is given out has a cell and an index entry. Where damage took the cells no seal vouches for the key either:
it may be none of this shard, or that of another slot, which a look-up would then no longer find.
"""

from __future__ import annotations

import os

import numpy as np

from ledger.engine.apply import NO_DELETES, Applier
from ledger.layout import CELL_A, CELL_B, CELL_LSN, KEY_WORDS, SHARD_USED, SHARD_WORDS
from ledger.storage.shard import Shards

DRAWN = 1 << 15  # keys drawn at a time
NO_ROWS = np.zeros((0, 8), np.uint64)


def rename_lost(shards: Shards, applier: Applier) -> np.ndarray:
    """Give every record without a cell a key of its shard that nobody has; to be done before the indexes are made.

    Returns
    -------
    uint64[n, 4]
        Those keys, for `bury`.

    Notes
    -----
    **Complexity**: O(slots given out), and as many hashes as there are shards for each record lost.
    """
    lost = {}
    for shard in range(shards.count):
        records = shards.record_words(shard, int(applier.view.shards[shard * SHARD_WORDS + SHARD_USED]))
        slots = np.flatnonzero((records[:, CELL_A + CELL_LSN] | records[:, CELL_B + CELL_LSN]) == 0)
        if len(slots):
            lost[shard] = records, slots
    given = [NO_DELETES]
    while lost:
        keys = np.frombuffer(os.urandom(DRAWN * KEY_WORDS * 8), np.uint64).reshape(DRAWN, KEY_WORDS)
        shard_of_key = applier.hash_words(keys)[0] & np.uint32(shards.count - 1)
        for shard, (records, slots) in list(lost.items()):
            fit = keys[shard_of_key == shard][: len(slots)]
            records[slots[: len(fit)], :KEY_WORDS] = fit
            given.append(fit)
            lost[shard] = records, slots[len(fit) :]
            if len(fit) == len(slots):
                del lost[shard]
    return np.concatenate(given)


def bury(applier: Applier, keys: np.ndarray, lsn: int) -> None:
    """Delete the accounts of `rename_lost` as of `lsn`, the newest commit, so that their records have a cell."""
    if len(keys):
        applier.apply(NO_ROWS, keys, lsn)
