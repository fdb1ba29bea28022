"""The fuzzer's targets without the fuzzer: cases that were found once, and a few thousand changed inputs."""

import random
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
each_target = pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)


@each_target
def test_what_the_engine_writes_is_accepted(target):
    for seed in target.seeds():
        assert target.run(seed)
        again = bytearray(seed)
        target.reseal(again)
        assert seed == again


@pytest.mark.parametrize("case", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name[:12]}")
def test_a_case_that_was_found_once_is_answered(case):
    TARGETS[case.parent.name].run(case.read_bytes())


@each_target
def test_changed_inputs_are_answered(target):
    choose = random.Random(1)
    accepted = refused = 0
    for _ in range(1000):
        data = choose.choice(target.seeds())
        for _ in range(choose.randrange(1, 4)):
            data = target.mutate(data, choose)
        if target.run(data):
            accepted += 1
        else:
            refused += 1
    assert accepted > 100 and refused > 100
