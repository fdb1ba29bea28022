"""The size of a shard."""

import pytest

from ledger.layout import SHARDS_MAX, SLOTS_PER_SHARD_MAX
from ledger.storage.shard import positions_for, slots_for


@pytest.mark.parametrize("capacity", [1, 1000, SLOTS_PER_SHARD_MAX - 1, SLOTS_PER_SHARD_MAX])
@pytest.mark.parametrize("shards", [1, 2, SHARDS_MAX])
def test_an_index_word_can_name_every_slot_and_one_position_stays_empty(capacity, shards):
    slots = slots_for(capacity, shards)
    assert capacity / shards <= slots <= SLOTS_PER_SHARD_MAX
    assert (
        slots < positions_for(capacity, shards, 0.95) <= positions_for(capacity, shards, 0.5) <= 2 * SLOTS_PER_SHARD_MAX
    )
