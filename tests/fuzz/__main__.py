"""Fuzz the parsers: ``python -m tests.fuzz`` prints how far it is, and as its last line the sums as JSON.

What a parser does not answer stays in `tests/fuzz/corpus`, where the tests find it until it is answered. Inputs that
reached something new are kept in `.cache/fuzz`, and the next run goes on from them.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import click

from tests.fuzz.targets import TARGETS, Target

FOUND = Path(__file__).parent / "corpus"
KEPT = Path(__file__).resolve().parents[2] / ".cache" / "fuzz"
INPUT_BYTES_MAX = 64 * 1024
INPUT_SECONDS_MAX = 10
MEMORY_MB_MAX = 2048
QUIET = re.compile(r'#\d+\s+(NEW|REDUCE|RELOAD)|stat::|INFO: |WARNING: Failed|###### |".*# Uses: |\s*$')


def fuzz(target: Target, seconds: int) -> tuple[int, int]:
    """Fuzz one target; return the inputs that it was given, and the findings: it ends with the first."""
    found, kept = FOUND / target.name, KEPT / target.name
    for folder in (found, kept):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (kept / f"seed-{number}").write_bytes(seed)
    before = set(found.iterdir())
    start = time.monotonic()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "tests.fuzz.worker", target.name, kept, found, f"-max_total_time={seconds}",
            f"-artifact_prefix={found}/", f"-max_len={INPUT_BYTES_MAX}", f"-timeout={INPUT_SECONDS_MAX}",
            f"-rss_limit_mb={MEMORY_MB_MAX}", "-print_final_stats=1",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    runs = coverage = 0
    for line in process.stdout:
        if counted := re.match(r"#(\d+)\s.*?cov: (\d+)", line):
            runs, coverage = map(int, counted.groups())
        elif counted := re.match(r"stat::number_of_executed_units: *(\d+)", line):
            runs = int(counted[1])
        if not QUIET.match(line):
            click.echo(f"{target.name}: {line.rstrip()}")
    status, took = process.wait(), time.monotonic() - start
    findings = set(found.iterdir()) - before
    click.echo(
        f"{target.name}: {runs:,} runs in {took:.0f} s, {runs / took:,.0f} a second, coverage {coverage}, "
        f"findings {len(findings)}"
    )
    for path in findings:
        click.echo(f"FINDING {path}")
    return runs, len(findings) or int(status != 0)


@click.command()
@click.option("--seconds", type=click.IntRange(1), default=600, show_default=True, help="For each target.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(TARGETS)), help="This target; may be given several times."
)
def main(seconds: int, only: tuple[str, ...]) -> None:
    """Give parsers bytes that nobody wrote, led by what they cover."""
    if importlib.util.find_spec("atheris") is None:
        click.echo("fuzz: atheris is not here; it is made for Linux on x86-64 and Python 3.11 to 3.14", err=True)
        sys.exit(2)
    start = time.monotonic()
    results = [fuzz(TARGETS[name], seconds) for name in only or TARGETS]
    runs, findings = map(sum, zip(*results, strict=True))
    sums = {"targets": len(results), "runs": runs, "findings": findings}
    click.echo(json.dumps(sums | {"seconds": round(time.monotonic() - start, 1)}))
    sys.exit(int(findings > 0))


if __name__ == "__main__":
    main()
