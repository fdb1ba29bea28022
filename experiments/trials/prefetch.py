"""Prefetch: distance by batch and ledger size, in warm memory and on cold files."""

from __future__ import annotations

from experiments.trial import Outcome, Trial
from experiments.trials import common, pagecache
from ledger import GeometricLedger


def measure(trial: Trial) -> Outcome:
    """Fill a ledger, close it, open it with the asked distance; get and update from warm or cold files."""
    load = common.workload(trial)
    rows = trial.factors["batch_rows"]
    cache = trial.factors["cache"]
    calls = common.calls_for(trial, rows)
    path = trial.scratch / "ledger"
    ledger, inserted = common.create(path, trial, durability="none")
    if cache == "warm":
        hits = load.hits(calls, rows)
        common.check_found("get_hit", ledger.get_batch, hits, expected=True)
        hit = common.phase("get_hit", ledger.get_batch, hits, calls * rows)
        updated = common.phase("update", ledger.update_batch, load.updates(calls, rows), calls * rows)
        facts = common.got(ledger.stats())
        state = ledger.state_hash()
        return Outcome([inserted, hit, updated], state, facts)
    ledger.close()
    facts = pagecache.drop(path)
    wanted = common.options(trial, durability="none")
    calls = max(1, trial.workload["cold_rows"] // rows)
    hits = load.hits(calls, rows)
    if cache == "cold_willneed":
        pagecache.will_need(path)
    ledger = GeometricLedger.open(path, wanted)
    hit = common.phase("get_hit", ledger.get_batch, hits, calls * rows)
    common.check_found("get_hit", ledger.get_batch, hits, expected=True)
    facts |= common.got(ledger.stats())
    facts["resident_share_after"] = pagecache.resident_share(path)
    state = ledger.state_hash()
    return Outcome([hit], state, facts)
