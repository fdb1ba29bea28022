"""Published claims: their files, the rules of a verdict, and a real one."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from experiments import __main__, claims, page, plots, runs, spec, stats, tables
from experiments.analysis import claims as analysis
from experiments.claims import verdict
from experiments.errors import NotApplicableError, ParameterError, SpecError
from experiments.trial import Trial
from experiments.trials import claims as trials
from experiments.trials.claims import durable
from experiments.workload import Workload
from ledger import GeometricLedger, Options

FILE = """
who = "Somebody"
where = "a paper, section 1"
sentence = "It is twice as fast."
kind = "ratio"
figure = 2.0
unit = "times"
conditions = "none"

[test]
trial = "experiments.trials.claims.digests:crc"
how = "Both in turn."
expect = "at least"
tolerance = 0.1
operations = ["stated"]
elsewhere = ["other"]
quantity = "gain"
"""


def claim(tmp_path, *changes):
    """Return the claim of the file with some lines replaced."""
    text = FILE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / f"made-{abs(hash(text))}.toml"
    path.write_text(text, encoding="utf-8")
    return claims.read(path)


def rows_of(item, **values):
    """Return rows, a trial each, of the conditions named."""
    return pd.DataFrame(
        [
            {
                "claim": item.id,
                "status": "ok",
                "error": None,
                "reason": None,
                "trial": number,
                "operation": name,
                "gain": v,
            }
            for name, found in values.items()
            for number, v in enumerate(found)
        ]
    )


def test_every_claim_says_how_it_is_tested_or_what_is_missing_for_it():
    tested = claims.tested()
    for name in claims.names():
        item = claims.load(name)
        assert item.sentence.endswith(".") and item.who and item.where and item.conditions
        assert item.test or item.missing
        if item.test:
            assert item.test.measured_by in tested
            assert math.isfinite(item.low) and item.test.how.endswith(".")
            assert not item.test.trial or callable(spec.resolve(item.test.trial))


def test_the_experiment_has_a_level_for_each_claim_with_a_test_of_its_own():
    levels = spec.load("claims").factors["claim"].levels
    assert claims.tested() == levels["quick"] == levels["standard"] == levels["full"]
    assert set(levels["smoke"]) < set(levels["quick"])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sentence =", "sentense =", "did you mean sentence"),
        ("expect =", "expct =", "did you mean expect"),
        ('kind = "ratio"', 'kind = "ration"', "did you mean ratio"),
        ('"at least"', '"at leest"', "did you mean at least"),
        ("figure = 2.0", 'figure = "2.0"', "figure is '2.0', a str"),
        ("figure = 2.0", "figure = [3.0, 2.0]", "low, high"),
        ("figure = 2.0\n", "", "figure missing"),
        ("tolerance = 0.1", 'tolerance = "0.1"', "tolerance is '0.1'"),
        ('operations = ["stated"]', "operations = []", "list of names"),
        ('trial = "experiments.trials.claims.digests:crc"', "", "trial or rows_of"),
        ('trial = "experiments.trials.claims.digests:crc"', 'rows_of = "crc32-7314m"', "did you mean crc32-7314mb"),
        (
            'quantity = "gain"',
            'quantity = "gain"\n[test.workload]\na = 1\n[test.workload.smok]\na = 2',
            "did you mean smoke",
        ),
        ("conditions =", "conditions : ", "made-"),
    ],
)
def test_a_mistake_in_a_claim_is_named(tmp_path, old, new, words):
    with pytest.raises((SpecError, ParameterError), match=words):
        claim(tmp_path, (old, new))


def test_a_claim_that_is_not_there_is_named():
    with pytest.raises(ParameterError, match="did you mean knuth-linear-probing"):
        claims.load("knuth-linear-probin")


@pytest.mark.parametrize(
    ("expect", "values", "wanted"),
    [
        ("at least", [2.0, 2.01, 2.02], verdict.HOLDS),
        ("at least", [1.5, 1.51, 1.52], verdict.FAILS),
        ("at least", [1.7, 2.0, 2.6], verdict.UNKNOWN),
        ("at most", [2.0, 2.01, 2.02], verdict.HOLDS),
        ("at most", [2.4, 2.41, 2.42], verdict.FAILS),
        ("equal", [1.99, 2.0, 2.01], verdict.HOLDS),
        ("equal", [2.5, 2.51, 2.52], verdict.FAILS),
        ("equal", [2.1, 2.2, 2.3], verdict.UNKNOWN),
        ("at least", [5.0, 5.0], verdict.UNKNOWN),
        ("at least", [5.0], verdict.UNKNOWN),
    ],
)
def test_an_interval_within_the_tolerance_holds_and_one_across_its_edge_cannot_tell(tmp_path, expect, values, wanted):
    item = claim(tmp_path, ('"at least"', f'"{expect}"'))
    found = verdict.judge(item, rows_of(item, stated=values))
    assert wanted == found.verdict
    assert stats.median_interval(values) == (found.ours, found.lo, found.hi)


def test_a_claim_that_fails_as_stated_may_hold_under_another_condition(tmp_path):
    item = claim(tmp_path)
    bad, good = [1.09, 1.1, 1.11], [3.09, 3.1, 3.11]
    found = verdict.judge(item, rows_of(item, stated=bad, other=good))
    assert verdict.ELSEWHERE == found.verdict and "holds for: other 3.1" in found.reason and 1.1 == found.ours
    assert verdict.FAILS == verdict.judge(item, rows_of(item, stated=bad, other=bad)).verdict
    assert verdict.HOLDS == verdict.judge(item, rows_of(item, stated=good, other=bad)).verdict


def test_an_absolute_figure_fails_on_this_machine_and_the_reason_says_so(tmp_path):
    for kind, said in (("ratio", False), ("absolute", True)):
        item = claim(tmp_path, ('"ratio"', f'"{kind}"'))
        found = verdict.judge(item, rows_of(item, stated=[1.0, 1.01, 1.02]))
        assert (verdict.FAILS, said) == (found.verdict, "belongs to its machine" in found.reason)


def test_all_conditions_that_a_claim_states_must_hold(tmp_path):
    item = claim(tmp_path, ('["stated"]', '["stated", "too"]'))
    found = verdict.judge(item, rows_of(item, stated=[3.0, 3.0, 3.0], too=[1.0, 1.0, 1.0]))
    assert verdict.FAILS == found.verdict and 1.0 == found.ours
    assert verdict.UNMEASURED == verdict.judge(item, rows_of(item, stated=[3.0, 3.0, 3.0])).verdict


def test_a_trial_counts_once_however_many_rows_it_has(tmp_path):
    item = claim(tmp_path)
    rows = rows_of(item, stated=[3.0] * 30)
    rows["trial"] = 0
    assert verdict.UNKNOWN == verdict.judge(item, rows).verdict


def test_a_shape_asks_for_the_side_of_one_alone(tmp_path):
    above = claim(tmp_path, ('"ratio"', '"shape"'))
    below = claim(tmp_path, ('"ratio"', '"shape"'), ("figure = 2.0", "figure = 0.5"))
    for values, wanted in (([1.19, 1.2, 1.21], above), ([0.79, 0.8, 0.81], below)):
        for item in (above, below):
            held = verdict.judge(item, rows_of(item, stated=values)).verdict
            assert (verdict.HOLDS if item is wanted else verdict.FAILS) == held


def test_what_failed_or_is_missing_gives_no_verdict_but_a_reason(tmp_path):
    item = claim(tmp_path)
    rows = rows_of(item, stated=[3.0, 3.0, 3.0])
    rows.loc[0, ["status", "error"]] = "failed", "it broke"
    judged = verdict.judge(item, rows)
    assert (verdict.UNMEASURED, "a trial failed: it broke") == (judged.verdict, judged.reason)
    rows.loc[0, ["status", "reason"]] = "not applicable", "no such page"
    judged = verdict.judge(item, rows)
    assert (verdict.UNTESTABLE, "no such page") == (judged.verdict, judged.reason)
    assert verdict.UNMEASURED == verdict.judge(item, None).verdict
    item = claim(tmp_path, ("[test]", 'missing = "16 cores."\n[test]'))
    judged = verdict.judge(item, rows_of(item, stated=[3.0, 3.0, 3.0]))
    assert (verdict.UNTESTABLE, 3.0) == (judged.verdict, judged.ours) and judged.reason.startswith("16 cores.")


def smoke(tmp_path, name):
    """Return what the trial of a claim measures at smoke size."""
    trials.warm_up()
    return trials.measure(Trial("claims", "", 0, 0, 0, {"claim": name}, {"size": "smoke"}, 1, 60.0, tmp_path))


@pytest.mark.parametrize("name", ["prototype-zero-data-loss", "sqlite-50000-inserts", "tigerbeetle-million-inserts"])
def test_the_trial_of_a_claim_has_rows_of_every_condition_that_it_states(tmp_path, name):
    found = smoke(tmp_path, name)
    wanted = claims.load(name).test
    names = {item.name for item in found.operations if wanted.quantity in item.numbers}
    assert set(wanted.operations) <= names
    if name == "prototype-zero-data-loss":
        assert [1.0] == [item.numbers["kept_share"] for item in found.operations]


@pytest.mark.slow
@pytest.mark.parametrize("name", claims.tested())
def test_every_trial_of_a_claim_measures_its_quantity(tmp_path, name):
    try:
        found = smoke(tmp_path, name)
    except NotApplicableError as error:
        pytest.skip(str(error))
    quantity = claims.load(name).test.quantity
    assert all(item.numbers[quantity] >= 0 for item in found.operations if quantity in item.numbers)
    assert any(quantity in item.numbers for item in found.operations)


def test_a_batch_that_a_kill_lost_is_missed(tmp_path):
    load, options, groups, rows = Workload(40), Options(durability="sync", capacity=40, shards=1), 4, 10
    with GeometricLedger.open(tmp_path / "ledger", options) as ledger:
        for version in range(8):
            ledger.update_batch(load.records(durable._group(version % groups, rows), version))
    found = [durable._found(tmp_path / "ledger", options, load, rows, groups, done, 1) for done in (6, 7, 8)]
    assert [1.0, 1.0, 0.75] == [item["kept_share"] for item in found]


def test_claims_are_put_to_the_test_by_one_command(results, capsys):
    status = __main__.main(
        ["reproduce", "crc32-instructions-4.9x", "crc32-7314mb", "aes-gcm-7.6m", "--profile", "smoke", "--json"]
    )
    out = capsys.readouterr().out.splitlines()
    found = json.loads(out[-1])
    assert 0 == status
    assert [["id", "published", "ours", "lo", "hi", "unit", "verdict", "reason"]] * 3 == [list(item) for item in found]
    ratio, rate, aes = found
    assert ratio["lo"] <= ratio["ours"] <= ratio["hi"] and rate["ours"] > 100
    assert (None, verdict.UNTESTABLE) == (aes["ours"], aes["verdict"])
    assert any(line.startswith("aes-gcm-7.6m") for line in out)
    rows = runs.load(next((results / "runs").iterdir()).name, "claims")
    shown = page.table(tables.to_html(analysis.table(rows)))
    assert shown.startswith('<div class="table">') and 'style="color:#' in shown and "</td>" in shown
    assert all(f"### {name}: " in analysis.details(rows) for name in claims.names())
    assert len(claims.names()) == sum(analysis.figures(rows).values()) == len(analysis.table(rows))
    assert isinstance(analysis.headline(rows)[0], plots.Panel) and "cannot be tested here" in analysis.answer(
        analysis.figures(rows)
    )


def test_a_claim_that_is_mistyped_is_refused_before_anything_runs(results, capsys):
    assert 2 == __main__.main(["reproduce", "crc32-7314m"])
    assert "did you mean crc32-7314mb?" in capsys.readouterr().err
    assert not results.exists()
