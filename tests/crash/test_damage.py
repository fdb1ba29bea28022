"""A little damage of every kind; `make crash` flips every field."""

from __future__ import annotations

import numpy as np

from ledger import layout
from tests.crash import damage


def test_every_format_of_the_layout_is_damaged_and_no_wrong_answer_is_given(tmp_path):
    found = damage.Damage()
    for seed, name in enumerate(damage.KINDS):
        damage.run(tmp_path, name, found, seed=seed, step=60)
    assert [] == found.violations
    assert {damage.RIGHT, damage.REFUSED, damage.READ} <= set(found.outcomes)
    formats = {name: kind for name, kind in vars(layout).items() if isinstance(kind, np.dtype) and name[0] != "_"}
    left_out = {name for name, kind in formats.items() if not any(kind is other for other in found.dtypes)}
    assert {"CELL"} == left_out, "a cell is walked as a part of its record"
