"""python -m experiments list | run | report | publish | compare | bench | reproduce | doctor."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from experiments import spec, values
from experiments.errors import ExperimentError, ParameterError, RunNotFoundError, nearest

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 where something failed, 2 for a wrong call, 130 interrupted."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        return int(options.command(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python still flushes at its end
        return 1
    except ExperimentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (ParameterError, LookupError)) else 1
    except KeyboardInterrupt as stop:
        run_id = stop.args[0] if stop.args else ""
        after = f"; what was done is kept: python -m experiments run --resume {run_id} goes on" if run_id else ""
        print(f"interrupted{after}", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments", description="Measure the ledger, and show what came out."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    item = commands.add_parser("list", help="name the experiments and their questions")
    item.set_defaults(command=_list)
    item = commands.add_parser("run", help="measure experiments into one run and make its page")
    item.add_argument("names", nargs="*", metavar="NAME", help="experiments, or all")
    item.add_argument("--profile", metavar="|".join(spec.PROFILES), help="how much to measure (default: quick)")
    item.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="FACTOR=LEVEL,LEVEL",
        help="other levels or workload values",
    )
    item.add_argument("--repeats", type=int, help="how often each cell is measured")
    item.add_argument("--seed", type=int, help="seed of keys, records and order (default: 1)")
    item.add_argument("--resume", metavar="ID", help="go on with what a stored run lacks, failed trials too")
    item.add_argument("--dry-run", action="store_true", help="print the plan and an estimate of its time; run nothing")
    item.add_argument("--no-notebooks", action="store_true", help="make the page from the summary alone")
    item.add_argument("--json", action="store_true", help="end with one line of JSON")
    item.set_defaults(command=_run)
    item = commands.add_parser("report", help="make the page of a stored run again")
    item.add_argument("id", help="the run's id, or its folder")
    item.add_argument("--no-notebooks", action="store_true", help="make the page from the summary alone")
    item.set_defaults(command=_report)
    item = commands.add_parser("doctor", help="say what on this machine will spoil measurements, and how to mend it")
    item.add_argument("--json", action="store_true", help="print one line of JSON")
    item.set_defaults(command=_doctor)
    item = commands.add_parser("publish", help="copy a stored run to results/published")
    item.add_argument("id", help="the run's id")
    item.set_defaults(command=_publish)
    item = commands.add_parser(
        "compare", help="is stored run B slower than A? exit status 1: yes, 0: no, 2: cannot tell"
    )
    item.add_argument("a", metavar="A", help="the run to compare with: id or folder")
    item.add_argument("b", metavar="B", help="the run that may be slower")
    item.add_argument("--threshold", type=float, default=0.05, help="share that is allowed (default: 0.05)")
    item.add_argument("--cells", action="store_true", help="show every cell, not only whole operations and regressions")
    item.add_argument("--json", action="store_true", help="print one line of JSON instead")
    item.set_defaults(command=_compare)
    item = commands.add_parser("bench", help="is the working tree slower than a commit? exit status as for compare")
    item.add_argument("--against", default="HEAD", metavar="COMMIT", help="the commit to compare with (default: HEAD)")
    item.add_argument("--threshold", type=float, default=0.05, help="share that is allowed (default: 0.05)")
    item.add_argument("--tries", type=int, default=1, help="compare so often, and count the verdicts")
    item.add_argument("--plant", type=float, default=0.0, metavar="PERCENT", help="slow the tree's update_batch down")
    item.add_argument("--json", action="store_true", help="print one line of JSON instead")
    item.set_defaults(command=_bench)
    item = commands.add_parser(
        "reproduce", help="measure a published run again, or published claims, and set both beside"
    )
    item.add_argument(
        "target", nargs="*", help="folder of a run with its manifest.json, or names of claims (default: all claims)"
    )
    item.add_argument(
        "--profile",
        choices=spec.PROFILES,
        help="of a folder: measure these levels, not those of the run; of claims: how much to measure (default: quick)",
    )
    item.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="FACTOR=LEVEL,LEVEL", help="as in run"
    )
    item.add_argument("--repeats", type=int, help="how often each cell or claim is measured")
    item.add_argument("--json", action="store_true", help="end with one line of JSON")
    item.set_defaults(command=_reproduce)
    return parser


def _list(options: argparse.Namespace) -> int:
    """Name the experiments."""
    for name in spec.names():
        item = spec.load(name)
        print(f"{name:<12} {item.question}")
        print(f"{'':<12} factors: {', '.join(item.factors)}")
    return 0


def _run(options: argparse.Namespace) -> int:
    """Measure, then report."""
    started = time.monotonic()
    resumed, chosen = _resumed(options) if options.resume else (None, _plans(options))
    if options.dry_run:
        return _dry_run(chosen, resumed, options.json)
    from experiments import progress, report, sweep

    trials = len(sweep.missing(chosen, resumed))
    _say(f"{', '.join(plan.spec.name for plan in chosen)}: {trials} trials at profile {chosen[0].profile}")
    done = sweep.run(chosen, progress.for_stream(), resumed)
    try:
        html, figures, faults = report.build(done.id, with_notebooks=not options.no_notebooks)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(done.id) from None
    for fault in faults:
        _say(f"failed: {fault}")
    noise = done.manifest.get("noise", {})
    if noise.get("verdict") == "disturbed":
        _say(noise["words"])
    failed = done.manifest["failed"]
    if options.json:
        seconds = round(time.monotonic() - started, 2)
        line = {
            "run": done.id,
            "html": os.path.relpath(html),
            "seconds": seconds,
            "trials": done.manifest["trials"],
            "failed": failed,
            "noise": noise.get("verdict"),
            "figures": figures,
        }
        print(values.dumps(line), flush=True)
    else:
        print(os.path.relpath(html), flush=True)
    return 1 if failed or faults else 0


def _report(options: argparse.Namespace) -> int:
    """Make the page of a stored run."""
    from experiments import report

    html, _, faults = report.build(options.id, with_notebooks=not options.no_notebooks)
    for fault in faults:
        _say(f"failed: {fault}")
    print(os.path.relpath(html))
    return 1 if faults else 0


def _doctor(options: argparse.Namespace) -> int:
    """Say what will spoil measurements here."""
    from experiments import doctor

    findings = doctor.examine()
    print(values.dumps(doctor.as_dicts(findings)) if options.json else "\n".join(map(str, findings)))
    return 0


def _publish(options: argparse.Namespace) -> int:
    """Copy a run to the published ones."""
    from experiments import report

    print(os.path.relpath(report.publish(options.id)))
    return 0


def _resumed(options: argparse.Namespace) -> tuple[Any, list[Any]]:
    """Return a stored run, and its plans from its own manifest."""
    from experiments import runs, sweep

    given = [name for name in ("names", "profile", "changes", "repeats", "seed") if getattr(options, name)]
    if given:
        raise ParameterError(f"--resume goes on with the run's own plan, and {given[0]} was given", hint="leave it out")
    resumed = runs.Run.reopen(options.resume)
    try:
        return resumed, sweep.plans_of(resumed.manifest)
    except BaseException:
        resumed.close()
        raise


def _dry_run(plans: Sequence[Any], resumed: Any, as_json: bool) -> int:
    """Print what would be measured, in which time."""
    from experiments import estimate, tables

    found = estimate.table(plans, resumed)
    if resumed is not None:
        resumed.close()
    print(values.dumps(found) if as_json else f"{tables.Table(found)}\n{estimate.words(found)}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    """Compare two stored runs."""
    from experiments import compare

    found = compare.compare(options.a, options.b, threshold=options.threshold)
    return compare.print_result(found, as_json=options.json, cells=options.cells)


def _bench(options: argparse.Namespace) -> int:
    """Compare the working tree with a commit."""
    from experiments import bench

    found = bench.run(options.against, tries=options.tries, plant_percent=options.plant, threshold=options.threshold)
    return bench.print_result(found, as_json=options.json)


def _reproduce(options: argparse.Namespace) -> int:
    """Measure a stored run again, or claims."""
    if len(options.target) == 1 and os.path.isfile(os.path.join(options.target[0], "manifest.json")):
        from experiments import reproduce

        specs = [spec.load(name) for name in reproduce.manifest(options.target[0])["experiments"]]
        changes = _changes(specs, options.changes, options.profile or "standard")
        if options.repeats is not None:
            changes = {name: {**item, "repeats": options.repeats} for name, item in changes.items()}
        found = reproduce.run_folder(options.target[0], options.profile, changes)
        return reproduce.print_result(found, as_json=options.json)
    if any(os.sep in target for target in options.target):
        raise RunNotFoundError(f"{' '.join(options.target)} is no folder with a manifest.json", hint="give one")
    return _reproduce_claims(options)


def _reproduce_claims(options: argparse.Namespace) -> int:
    """Give a verdict on published claims; 1 where a trial failed."""
    from experiments.claims import reproduce

    if options.changes:
        raise ParameterError("--set is for the folder of a run", hint="a claim's levels are in its file", name="set")
    changes = {} if options.repeats is None else {"repeats": options.repeats}
    verdicts, done = reproduce.reproduce(options.target, options.profile or "quick", **changes)
    print(reproduce.table(verdicts))
    if done is not None:
        _say(f"run {done.id}; python -m experiments report {done.id} makes its page")
    if options.json:
        print(values.dumps([item.as_dict() for item in verdicts]), flush=True)
    return 1 if done is not None and done.manifest["failed"] else 0


def _plans(options: argparse.Namespace) -> list[Any]:
    """Return the plans of a call."""
    from experiments import sweep

    if not options.names:
        raise ParameterError("no experiment was named", hint="name some, or all, or give --resume ID")
    names = spec.names() if options.names == ["all"] else list(dict.fromkeys(options.names))
    profile = options.profile or "quick"
    spec.check_profile(profile)
    specs = [spec.load(name) for name in names]
    given = {key: getattr(options, key) for key in ("repeats", "seed") if getattr(options, key) is not None}
    changes = _changes(specs, options.changes, profile)
    return [sweep.plan(item, profile, changes[item.name] | given) for item in specs]


def _changes(specs: Sequence[spec.Spec], texts: Sequence[str], profile: str) -> dict[str, dict[str, Any]]:
    """Return what --set changes in each experiment; a change must be known to one of them at least."""
    found: dict[str, dict[str, Any]] = {item.name: {} for item in specs}
    for text in texts:
        name, equals, levels = text.partition("=")
        if not equals or not levels:
            raise ParameterError(f"--set {text} is not FACTOR=LEVEL,LEVEL", name=name)
        if not any(name in _settable(item) for item in specs):
            known = set().union(*(_settable(item) for item in specs))
            raise ParameterError(f"no experiment here has {name}", hint=nearest(name, known), name=name)
        for item in specs:
            if name in _settable(item):
                words = values.parse_words(name, levels)
                single = name in item.workload[profile] and len(words) == 1
                found[item.name][name] = words[0] if single else words
    return found


def _settable(item: spec.Spec) -> set[str]:
    """Return the names that --set may change."""
    return (item.parameters | set(item.factors)) - set(spec.RUN_PARAMETERS)


def _stop(_signal: int, _frame: Any) -> None:
    """Take a termination for an interruption: the run is closed and stays valid."""
    raise KeyboardInterrupt


def _say(line: str) -> None:
    """Tell what is going on."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
