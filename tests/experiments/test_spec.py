"""What a spec may say, and what a call may change."""

from __future__ import annotations

import pytest

from experiments import spec, sweep
from experiments.errors import ParameterError, SpecError


def test_every_spec_has_what_a_run_and_a_reader_need():
    for name in spec.names():
        item = spec.load(name)
        assert item.question.endswith("?") and item.figures and item.notebook
        for profile in spec.PROFILES:
            assert sweep.plan(item, profile).trials > 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("timeout_s = 1.5", "timeout = 1.5", "did you mean timeout_s"),
        ("smoke = [1, 2]", "smok = [1, 2]", "unknown key smok"),
        ("smoke = [1, 2]", "smoke = []", "no levels for smoke"),
        ("smoke = [1, 2]", 'smoke = [1, "2"]', "a str"),
        ("smoke = [1, 2]", "smoke = [1, 1]", "a level twice"),
        ("smoke = [1, 2]", "smoke = [nan]", "nan"),
        ("rows = 20", "rowz = 20", "did you mean rows"),
        ("rows = 20", "rows = 2.5", "a float"),
        ("share = 0.5", "sizes = 0.5", "named twice"),
        ("size = 2,", "sise = 2,", "did you mean size"),
        (":measure", "", "module:function"),
        ("[figures]", "[figurs]", "unknown key figurs"),
    ],
)
def test_a_mistake_in_a_spec_is_named(tiny, old, new, words):
    tiny.write_text(tiny.read_text().replace(old, new, 1))
    with pytest.raises((SpecError, ParameterError), match=words):
        spec.load(tiny)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"siez": [1]}, "did you mean size"),
        ({"rows": 1.5}, "rows is 1.5"),
        ({"rows": True}, "rows is True"),
        ({"sizes": ["1"]}, "sizes is '1'"),
        ({"sizes": []}, "no levels"),
        ({"sizes": "[1, 1]"}, "a level twice"),
        ({"sizes": "[1, NaN]"}, "no JSON"),
        ({"share": float("nan")}, "share is nan"),
        ({"repeats": 0}, "repeats is 0"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(tiny, changes, words):
    with pytest.raises(ParameterError, match=words):
        sweep.plan(spec.load(tiny), "smoke", changes)


def test_factors_may_be_named_in_singular_plural_or_json_text(tiny):
    item = spec.load(tiny)
    for changes in ({"size": 3}, {"sizes": [3]}, {"sizes": "[3]"}):
        assert [3] == sweep.plan(item, "smoke", changes).parameters["sizes"]
    assert 1.0 == item.choose("smoke", {"share": 1})["share"]


def test_an_unknown_experiment_or_profile_is_named():
    with pytest.raises(ParameterError, match="did you mean capacity"):
        spec.load("capacty")
    with pytest.raises(ParameterError, match="did you mean quick"):
        spec.load("capacity").defaults("quik")
