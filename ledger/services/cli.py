"""The command line: look at a ledger, check it, make one.

Invariants:

- nothing but `create` writes to a ledger; the others open it read-only;
- answers go to standard output, everything else to standard error;
- what goes wrong is one line and a hint, and the exit code says of what kind it was;
- numba is imported inside commands only: `--help` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledger import __version__
from ledger.errors import (
    CorruptionError,
    FailStopError,
    LedgerError,
    LedgerNotFoundError,
    LockedError,
    OptionsError,
    SalvageNeededError,
)
from ledger.services import tables

if TYPE_CHECKING:
    from ledger.ledger import GeometricLedger

FOUND_NOTHING: Final = 1
WRONG_USAGE: Final = 2
LEDGER_ERROR: Final = 3
LOCKED: Final = 4
SYSTEM_ERROR: Final = 5
BUG: Final = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED: Final = 130

EXIT_CODES: Final = """\b
Exit codes:
  0    done
  1    verify found faults, or get found no account
  2    the command was not used as it must be
  3    the ledger cannot be used: missing, damaged, of another version
  4    another process has the ledger open
  5    the system refused: disk full, no permission, no memory
  70   a fault of this program
  130  interrupted
"""

# What to do, in the words of the command line; other errors bring their own hint.
_HINTS: Final[dict[type[BaseException], str]] = {
    LedgerNotFoundError: "geoledger create PATH --capacity N makes one",
    LockedError: "close it there, then try again; a ledger is open in one process at a time",
    SalvageNeededError: "--salvage reads what passes its checksums, and changes nothing on disk",
    PermissionError: "run it as the user that owns the ledger",
    MemoryError: "free memory, or take a machine with more",
}
_GEOMETRY: Final = ("capacity", "shards", "index_load")  # what `create` takes
_QUIET_S: Final = 1.0
_LINE_EVERY_S: Final = 5.0


class _Status:
    """What is going on: one line that changes on a terminal, now and then a line in a log.

    It is an `open(progress=...)` function. The first second passes in silence.
    """

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self._next = time.monotonic() + _QUIET_S
        self._width = 0

    def __call__(self, what: str, done: int = 0, of: int = 0) -> None:
        """Show `done` of `of` parts of `what`; `of` 0 is a number that is not known."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (0.1 if self.live else _LINE_EVERY_S)
        count = f" {done:,} of {of:,}" if of else f" {done:,}" if done else ""
        self._show(f"{what}:{count}" if count else what)

    def say(self, line: str) -> None:
        """Show a line that stays."""
        self.clear()
        click.echo(line, err=True)

    def clear(self) -> None:
        """Take the changing line away."""
        if self._width:
            click.echo("\r" + " " * self._width + "\r", err=True, nl=False)
            self._width = 0

    def _show(self, line: str) -> None:
        if not self.live:
            click.echo(line, err=True)
            return
        click.echo("\r" + line.ljust(self._width), err=True, nl=False)
        self._width = max(self._width, len(line))

    @contextmanager
    def told_of_compiling(self) -> Iterator[None]:
        """Say so when kernels have to be compiled, and which one is."""
        from numba.core import event

        from ledger.kernels.jit import cache_directory

        status = self

        class Compiling(event.Listener):
            count = 0

            def on_start(self, event: Any) -> None:
                if not self.count:
                    kept = cache_directory()
                    where = "they cannot be kept here" if kept is None else f"they are kept in {kept}"
                    status.say(f"compiling kernels, which takes up to a minute; {where}")
                self.count += 1
                status(f"compiling kernel {self.count} ({event.data['dispatcher'].py_func.__name__})")

            def on_end(self, event: Any) -> None:
                pass

        with event.install_listener("numba:compile", Compiling()):
            yield


@contextmanager
def _opened(path: Path, *, salvage: bool = False) -> Iterator[tuple[GeometricLedger, _Status]]:
    """Open a ledger read-only, and show progress."""
    from ledger.ledger import GeometricLedger

    status = _Status()
    try:
        with (
            status.told_of_compiling(),
            GeometricLedger.open(path, read_only=True, salvage=salvage, progress=status) as book,
        ):
            yield book, status
    finally:
        status.clear()


# ---------------------------------------------------------------- commands
@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name="geoledger")
@click.option("--traceback", is_flag=True, help="Show where in the program an error was raised.")
def cli(traceback: bool) -> None:
    """Look at an account store, check it, or make one.

    PATH is the folder of a ledger. Every command but create opens it read-only and writes nothing to it; none
    can look at a ledger that another process has open. The first use on a machine compiles kernels, which
    takes up to a minute; they are kept.
    """


_path = click.argument("path", type=click.Path(file_okay=False, path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
_salvage = click.option(
    "--salvage", is_flag=True, help="Read what passes its checksums, after damage or a loss of power."
)


@cli.command()
@_path
@_salvage
@_json
def stats(path: Path, salvage: bool, as_json: bool) -> None:
    """Show the state of a ledger, and what opening it found."""
    from ledger.storage.control import Control
    from ledger.storage.files import Files

    with _opened(path, salvage=salvage) as (book, _):
        control = Control.read(Files(), book.path)
        found = book.stats()
    if as_json:
        writer = {"durability": control.durability, "storage": control.storage, "written_ns": control.written_ns}
        head = {"path": str(book.path), "ledger_id": control.ledger_id.hex(), "created_ns": control.created_ns}
        _answer_json({**head, "last_writer": writer, **found.as_dict()})
    else:
        click.echo(tables.two_columns(tables.stats_rows(book.path, control, found)))


@cli.command()
@_path
@click.argument("key", metavar="KEYHEX")
@_salvage
@_json
def get(path: Path, key: str, salvage: bool, as_json: bool) -> int:
    """Show the account of one public key, given as 64 hex digits."""
    try:
        pubkey = bytes.fromhex(key.removeprefix("0x"))
    except ValueError:
        raise click.BadParameter(f"{key!r} is not hexadecimal", param_hint="KEYHEX") from None
    if len(pubkey) != 32:
        raise click.BadParameter(f"{len(pubkey)} bytes, not 32", param_hint="KEYHEX")
    with _opened(path, salvage=salvage) as (book, _):
        account = book.get(pubkey)
    fields = {} if account is None else {name: getattr(account, name) for name in account._fields[1:]}
    if as_json:
        _answer_json({"pubkey": pubkey.hex(), "found": account is not None, **fields})
    elif account is None:
        click.echo(f"no account {pubkey.hex()}", err=True)
    else:
        rows = [(name.replace("_", " "), f"{value:,}") for name, value in fields.items()]
        click.echo(tables.two_columns([("pubkey", pubkey.hex()), *rows]))
    return FOUND_NOTHING if account is None else 0


@cli.command()
@_path
@_salvage
@_json
def verify(path: Path, salvage: bool, as_json: bool) -> int:
    """Check every record, every index entry and the totals."""
    report = None
    try:
        with _opened(path, salvage=salvage) as (book, status):
            status.say(f"checking {len(book):,} accounts")
            recovery = book.recovery
            report = book.verify()
        faults = list(report.faults)
        if recovery.clean:
            faults += [f"shard {shard}: the index on disk is damaged" for shard in recovery.indexes_rebuilt]
    except CorruptionError as error:
        faults = [str(error.args[0])]
    if as_json:
        known = {} if report is None else {"lsn": report.lsn, "live": report.live, "supply": report.supply}
        _answer_json({"ok": not faults, **known, "faults": faults})
    else:
        click.echo(tables.verdict(report, faults))
    return FOUND_NOTHING if faults else 0


@cli.command()
@_path
@click.option("--capacity", type=int, help="Accounts in all shards together.  [default: 1000000]")
@click.option("--shards", type=int, help="Number of shards, a power of two.  [default: 16]")
@click.option("--index-load", type=float, help="Share of index positions taken when full, 0.5 to 0.95.  [default: 0.5]")
@_json
def create(path: Path, capacity: int | None, shards: int | None, index_load: float | None, as_json: bool) -> None:
    """Make an empty ledger; its geometry is fixed from then on."""
    from ledger.ledger import GeometricLedger
    from ledger.options import Options
    from ledger.storage.files import CONTROL_NAME

    if (path / CONTROL_NAME).exists():
        raise LedgerError(f"there is a ledger at {path} already", hint="choose another folder")
    options = Options(capacity=capacity, shards=shards, index_load=index_load)
    status = _Status()
    try:
        with status.told_of_compiling(), GeometricLedger.open(path, options, progress=status) as book:
            made = book.stats()
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        status.clear()
    if as_json:
        _answer_json(
            {"path": str(book.path), "capacity": made.capacity, "shards": made.shards, "image_bytes": made.image_bytes}
        )
    else:
        room = f"room for {made.capacity:,} accounts in {made.shards} shards"
        click.echo(f"{book.path}: {room}, {tables.size(made.image_bytes)} on disk")


@cli.command()
@_path
@_json
def log(path: Path, as_json: bool) -> None:
    """List the frames of the log since the last checkpoint, up to the first that is damaged.

    With --json, one object a line. Nothing is replayed, so this works where a damaged log keeps a ledger from
    being opened. A ledger that was closed cleanly has no frames, nor has one without a log (none, msync).
    """
    from ledger.engine.recovery import log_scan
    from ledger.storage.control import Control
    from ledger.storage.files import CONTROL_NAME, LOG_NAME, Files, LedgerLock

    files, folder = Files(), path.absolute()
    if not (folder / CONTROL_NAME).exists():
        raise LedgerNotFoundError(f"there is no ledger at {folder}")
    status = _Status()
    lock = LedgerLock(folder, exclusive=False, files=files)
    try:
        with status.told_of_compiling():
            control = Control.read(files, folder)
            scan = log_scan(files, folder / LOG_NAME, control, salvage=False)
            for number, frame in enumerate(scan):
                if as_json:
                    _answer_json(tables.frame_values(frame))
                    continue
                if number == 0:
                    click.echo(tables.frame_heads())
                click.echo(tables.frame_line(frame))
    finally:
        status.clear()
        lock.release()
    click.echo(f"{scan.frames:,} frames, {scan.rows:,} rows after LSN {control.checkpoint_lsn:,}", err=True)


def _answer_json(value: Any) -> None:
    """Print one line of JSON; integers are exact, whatever their size."""
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


# ---------------------------------------------------------------- errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _guarded(lambda: cli.main(arguments, prog_name="geoledger", standalone_mode=False))
    except BaseException as error:
        if "--traceback" in arguments:
            import traceback

            traceback.print_exception(error)
        line, hint, code = _explain(error)
        click.echo(f"error: {line}", err=True)
        if hint:
            click.echo(f"hint: {hint}", err=True)
        return code


def _guarded(command: Callable[[], Any]) -> int:
    """Run a command; what is no error of a ledger is dealt with here."""
    try:
        code = command()
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):  # the reader has gone, as `head` does; click then exits by itself
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _explain(error: BaseException) -> tuple[str, str, int]:
    """Return message, hint and exit code of an error."""
    hint = next((text for kind, text in _HINTS.items() if isinstance(error, kind)), getattr(error, "hint", ""))
    if isinstance(error, OptionsError) and error.field in _GEOMETRY:
        return str(error.args[0]), hint, WRONG_USAGE
    if isinstance(error, LockedError):
        return str(error.args[0]), hint, LOCKED
    if isinstance(error, FailStopError):
        return str(error.args[0]), hint, SYSTEM_ERROR
    if isinstance(error, LedgerError):
        return str(error.args[0]), hint, LEDGER_ERROR
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free disk space, then try again"
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror or error}", hint, SYSTEM_ERROR
    if isinstance(error, MemoryError):
        return "there is not enough memory", hint, SYSTEM_ERROR
    return f"{type(error).__name__}: {error}", "this is a fault of the program; --traceback shows where", BUG
