"""Values that travel into notebooks and trials come out as they went in, or are refused by name."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import values
from experiments.errors import ParameterError

GOOD = [True, "True", None, 2**53 + 1, 2**64 - 1, -0.0, "007", 1e-300, [], {"a": None}, [1, [2.5, "é"]]]
BAD = [float("nan"), float("inf"), float("-inf"), np.int64(3), np.float32(1), Path("x"), (1,), b"x", {1: 2}]


@pytest.mark.parametrize("value", GOOD, ids=repr)
def test_a_value_that_json_carries_comes_back_the_same(value):
    back = json.loads(values.dumps(values.check("x", value)))
    assert repr(value) == repr(back)


@pytest.mark.parametrize("value", [*BAD, datetime.date(2020, 1, 1)], ids=repr)
def test_a_value_that_would_change_on_the_way_is_refused_by_name(value):
    for wrapped in (value, [value]):
        with pytest.raises(ParameterError, match="share"):
            values.check("share", wrapped)


def test_words_of_the_command_line_are_numbers_truths_or_text():
    assert [1, 2.5, True, "sync", "007"] == values.parse_words("x", "1,2.5,true,sync,007")
    assert [0.5, 0.9] == values.parse_words("x", "[0.5, 0.9]")
    with pytest.raises(ParameterError, match="x is nan"):
        values.parse_words("x", "1,nan")
