"""Huge pages: what was asked, what was got before and after the work, and what it is worth."""

from __future__ import annotations

from typing import Any

from experiments.trial import Outcome, Trial
from experiments.trials import chase, common
from ledger import GeometricLedger, LedgerStats

warm_up = chase.warm_up


def measure(trial: Trial) -> Outcome:
    """Create and close a ledger, open it as asked, get and update; read the coverage at each stage."""
    load = common.workload(trial)
    rows = trial.workload["batch_rows"]
    calls = common.calls_for(trial, rows)
    path = trial.scratch / "ledger"
    ledger, _ = common.create(path, trial, durability="none")
    ledger.close()
    wanted = common.options(trial, durability="none")
    ledger, opened = common.timed("open", lambda: GeometricLedger.open(path, wanted))
    hits = load.hits(calls, rows)
    common.check_found("get_hit", ledger.get_batch, hits, expected=True)
    hit = common.phase("get_hit", ledger.get_batch, hits, calls * rows)
    facts = _coverage(ledger.stats(), "before_updates")
    updated = common.phase("update", ledger.update_batch, load.updates(calls, rows), calls * rows)
    stats = ledger.stats()
    facts |= _coverage(stats, "after_updates")
    again = common.phase("get_after_updates", ledger.get_batch, hits, calls * rows)
    facts |= common.got(stats)
    footprint = facts["footprint_bytes"]
    state = ledger.state_hash()
    facts |= chase.measure(footprint, trial.factors["hugepages"], trial.workload["chase_steps"], trial.seed)
    facts["asked_hugepages"] = trial.factors["hugepages"]
    return Outcome([opened, hit, updated, again], state, facts)


def _coverage(stats: LedgerStats, stage: str) -> dict[str, Any]:
    """Return the share of the resident records and index that lies on huge pages at a stage of the work."""
    huge = stats.huge_record_bytes + stats.huge_index_bytes
    mapped = max(huge, stats.resident_bytes, 1)  # the kernel counts hugetlb pages as huge, not as resident
    return {f"huge_share_{stage}": huge / mapped, "footprint_bytes": stats.image_bytes}
