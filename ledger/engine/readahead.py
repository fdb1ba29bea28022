"""Pages of the image asked for before recovery touches them, so that a cold cache costs no wait for each.

A page fault reads one page and waits for it; recovery knows all rows of a frame beforehand, so that the disk can
have hundreds of reads under way. Whether pages are in memory is found out by a sample, which is all that a warm
recovery pays.
"""

from __future__ import annotations

import numpy as np

from ledger.engine.apply import Applier
from ledger.storage.shard import Shards

SAMPLE = 16


class Readahead:
    """Reads ahead for one recovery, in the thread that recovers.

    Parameters
    ----------
    shards : Shards
        Open; nothing is to be done where everything was read in (storage "memory").
    applier : Applier
        For its look-ups.

    Attributes
    ----------
    blocks : int
        4 KiB blocks of records asked for so far.
    """

    def __init__(self, shards: Shards, applier: Applier) -> None:
        self._shards = shards
        self._applier = applier
        self._mapped = shards.way != "memory"
        self.blocks = 0

    def index(self) -> None:
        """Ask for the whole index of every shard, if it is not in memory."""
        if self._mapped:
            self._shards.fetch_index()

    def records(self, *frame: np.ndarray) -> None:
        """Ask for the records of the rows (uint64[n, 8]) and deletes (uint64[m, 4]) of a frame.

        **Complexity**: sixteen rows looked up where they are in memory, else each row, and a system call for each
        run of blocks.
        """
        if not self._mapped:
            return
        for rows in frame:
            if not len(rows):
                continue
            sample = np.ascontiguousarray(rows[:: -(-len(rows) // SAMPLE)])
            if not self._shards.records_resident(self._applier.locate(sample)):
                self.blocks += self._shards.fetch_records(self._applier.locate(rows))
