import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ledger
from ledger import ACCOUNT, GeometricLedger, Options
from ledger.errors import FailStopError, LedgerError
from ledger.services import cli, tables
from ledger.services.cli import main
from ledger.storage.files import Files

ROWS = 50
OPTIONS = Options(capacity=1000, shards=4, log_segment_bytes=1 << 16, log_bytes_max=1 << 20)


def accounts() -> np.ndarray:
    records = np.zeros(ROWS, ACCOUNT)
    records["pubkey"][:, 0] = np.arange(ROWS)
    records["balance"] = 2**60 + 1
    records["staked"] = 2**64 - 1
    return records


@pytest.fixture
def clean(tmp_path) -> Path:
    """A ledger that was closed."""
    with GeometricLedger.open(tmp_path / "clean", OPTIONS) as book:
        book.update_batch(accounts())
    return tmp_path / "clean"


@pytest.fixture
def killed(tmp_path) -> Path:
    """A ledger as a kill leaves it, with two frames in its log."""
    with GeometricLedger.open(tmp_path / "open", OPTIONS) as book:
        book.update_batch(accounts())
        book.update_batch(accounts()[:3], accounts()["pubkey"][-2:])
        shutil.copytree(tmp_path / "open", tmp_path / "killed")
    return tmp_path / "killed"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ledger", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=Path(ledger.__file__).parent.parent,
        timeout=200,
    )


# ---------------------------------------------------------------- starting
def test_help_imports_neither_numpy_nor_numba():
    code = (
        "import sys; from ledger.services.cli import main; assert main(['--help']) == 0;"
        "assert not {'numpy', 'numba', 'blake3'} & set(sys.modules), 'the command line must start at once'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(ledger.__file__).parent.parent, timeout=60)


def test_help_names_every_command_and_every_exit_code(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert set(cli.cli.commands) == {"create", "get", "log", "stats", "verify"}
    for word in cli.cli.commands:
        assert f"\n  {word} " in text
        assert main([word, "--help"]) == 0
    codes = (0, cli.FOUND_NOTHING, cli.WRONG_USAGE, cli.LEDGER_ERROR, cli.LOCKED, cli.SYSTEM_ERROR, cli.BUG)
    for code in (*codes, cli.INTERRUPTED):
        assert f"\n    {code} " in text


def test_module_and_version_run_as_a_program():
    done = run("--version")
    assert (0, f"geoledger, version {ledger.__version__}\n", "") == (done.returncode, done.stdout, done.stderr)


# ---------------------------------------------------------------- create
def test_create_makes_a_ledger_that_the_other_commands_read(tmp_path, capsys):
    path = tmp_path / "a b" / "é"
    assert main(["create", str(path), "--capacity", "100", "--shards", "2", "--index-load", "0.9"]) == 0
    assert "room for 100 accounts in 2 shards" in capsys.readouterr().out
    assert main(["stats", str(path)]) == 0
    assert "closed cleanly" in capsys.readouterr().out
    with GeometricLedger.open(path, read_only=True) as book:
        assert (100, 2, 0.9) == (book.options.capacity, book.options.shards, book.options.index_load)


def test_create_leaves_a_ledger_that_is_there(clean, capsys):
    before = contents(clean)
    assert main(["create", str(clean)]) == cli.LEDGER_ERROR
    assert capsys.readouterr().err.startswith(f"error: there is a ledger at {clean} already\nhint: ")
    assert before == contents(clean)


@pytest.mark.parametrize(
    "wrong", [("--shards", "3"), ("--capacity", "0"), ("--index-load", "0.99"), ("--capacity", "x")]
)
def test_create_refuses_wrong_geometry_and_makes_nothing(tmp_path, wrong):
    assert main(["create", str(tmp_path / "x"), *wrong]) == cli.WRONG_USAGE
    assert not (tmp_path / "x").exists()


# ---------------------------------------------------------------- stats
def test_stats_tells_accounts_and_supply_exactly(clean, capsys):
    assert main(["stats", str(clean)]) == 0
    text = capsys.readouterr().out
    assert f"{ROWS} live, room for 1,000" in text
    assert f"{ROWS * (2**60 + 1):,}" in text
    assert "durability sync, storage private, closed cleanly" in text
    assert main(["stats", str(clean), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (ROWS, ROWS * (2**60 + 1), 4) == (told["live"], told["supply"], told["shards"])
    assert {"durability": "sync", "storage": "private"}.items() <= told["last_writer"].items()


def test_stats_tells_the_last_writers_mode_and_not_the_readers(tmp_path, capsys):
    with GeometricLedger.open(tmp_path / "x", Options(capacity=100, durability="none", storage="memory")):
        pass
    assert main(["stats", str(tmp_path / "x")]) == 0
    assert "durability none, storage memory" in capsys.readouterr().out


def test_stats_tells_what_was_replayed(killed, capsys):
    assert main(["stats", str(killed)]) == 0
    assert f"not closed; 2 frames ({ROWS + 5} rows) were replayed from the log" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["stats", "verify", "log"])
@pytest.mark.parametrize("state", ["clean", "killed"])
def test_looking_changes_no_byte(command, state, request):
    path = request.getfixturevalue(state)
    before = contents(path)
    assert main([command, str(path)]) == 0
    assert main(["get", str(path), "00" * 32]) == 0
    assert before == contents(path)


# ---------------------------------------------------------------- get
def test_get_shows_one_account(clean, capsys):
    assert main(["get", str(clean), "0x07" + "00" * 31]) == 0
    assert f"balance        {2**60 + 1:,}\n" in capsys.readouterr().out
    assert main(["get", str(clean), "07" + "00" * 31, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "pubkey": "07" + "00" * 31,
        "found": True,
        "balance": 2**60 + 1,
        "nonce": 0,
        "staked": 2**64 - 1,
        "last_modified": 0,
    }


def test_get_of_an_absent_account_is_exit_code_1(clean, capsys):
    assert main(["get", str(clean), "ff" * 32]) == cli.FOUND_NOTHING
    assert f"no account {'ff' * 32}\n" in capsys.readouterr().err
    assert main(["get", str(clean), "ff" * 32, "--json"]) == cli.FOUND_NOTHING
    assert json.loads(capsys.readouterr().out) == {"pubkey": "ff" * 32, "found": False}


@pytest.mark.parametrize("key", ["", "00", "00" * 31, "00" * 33, "xy" * 32])
def test_get_refuses_what_is_no_key(clean, key):
    assert main(["get", str(clean), key]) == cli.WRONG_USAGE


# ---------------------------------------------------------------- verify
def test_verify_of_a_whole_ledger_says_ok(killed, capsys):
    assert main(["verify", str(killed)]) == 0
    assert capsys.readouterr().out == f"ok: {ROWS - 2} accounts, supply {(ROWS - 2) * (2**60 + 1):,}, LSN 2\n"


def damage(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    ("name", "offset", "words"),
    [
        ("shard_001.bin", 4096 + 40, "shard 1: 1 broken cells, the first at slot 0"),
        ("shard_001.bin", 20, "shard_001.bin: the header is damaged"),
        ("index_002.bin", 4096, "shard 2: the index"),
        ("index_002.bin", 20, "shard 2: the index on disk is damaged"),
    ],
)
def test_verify_names_the_fault_and_is_exit_code_1(clean, capsys, name, offset, words):
    damage(clean / name, offset)
    assert main(["verify", str(clean)]) == cli.FOUND_NOTHING
    text = capsys.readouterr().out
    assert text.startswith("1 fault\n") and words in text
    assert main(["verify", str(clean), "--json"]) == cli.FOUND_NOTHING
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"] and words in told["faults"][0]


def test_verify_names_a_lost_frame(killed, capsys):
    damage(killed / "log" / "0000000001.seg", 4096 + 60)
    assert main(["verify", str(killed)]) == cli.FOUND_NOTHING
    assert "frame 1 is damaged or missing at byte 4096" in capsys.readouterr().out


# ---------------------------------------------------------------- log
def test_log_lists_every_frame(killed, capsys):
    assert main(["log", str(killed), "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(1, ROWS, 0), (2, 3, 2)] == [(frame["lsn"], frame["rows"], frame["deletes"]) for frame in told]
    assert [(1, 4096), (1, 4096 + told[0]["frame_bytes"])] == [(frame["segment"], frame["offset"]) for frame in told]
    assert main(["log", str(killed)]) == 0
    text = capsys.readouterr()
    head, *lines = text.out.splitlines()
    assert head.split()[:2] == ["LSN", "epoch"] and len(lines) == 2
    assert len({len(line) for line in (head, *lines)}) == 1
    assert f"2 frames, {ROWS + 5} rows after LSN 0\n" in text.err


def test_log_shows_the_frames_before_the_damage(killed, capsys):
    damage(killed / "log" / "0000000001.seg", 4096 + 4096 + 60)
    main(["log", str(killed), "--json"])
    assert [1] == [json.loads(line)["lsn"] for line in capsys.readouterr().out.splitlines()]


def test_log_of_a_clean_ledger_is_empty(clean, capsys):
    assert main(["log", str(clean)]) == 0
    text = capsys.readouterr()
    assert ("", True) == (text.out, "0 frames, 0 rows after LSN 1\n" in text.err)


# ---------------------------------------------------------------- errors
@pytest.mark.parametrize("command", [["stats"], ["verify"], ["log"], ["get", "00" * 32]])
def test_a_ledger_in_use_is_one_line_with_the_pid_and_a_hint(clean, capsys, command):
    with GeometricLedger.open(clean):
        assert main([command[0], str(clean), *command[1:]]) == cli.LOCKED
    line, hint, rest = capsys.readouterr().err.split("\n", 2)
    assert line == f"error: {clean} is already open by process {os.getpid()}"
    assert hint.startswith("hint: ") and not rest


@pytest.mark.parametrize("command", [["stats"], ["verify"], ["log"], ["get", "00" * 32]])
def test_a_missing_ledger_is_exit_code_3_and_nothing_is_made(tmp_path, capsys, command):
    assert main([command[0], str(tmp_path / "x"), *command[1:]]) == cli.LEDGER_ERROR
    assert capsys.readouterr().err.startswith(f"error: there is no ledger at {tmp_path / 'x'}\nhint: geoledger create")
    assert [] == list(tmp_path.iterdir())


def test_damage_is_an_error_with_a_hint_and_no_traceback(clean, capsys):
    (clean / "shard_000.bin").unlink()
    assert main(["stats", str(clean)]) == cli.LEDGER_ERROR
    told = capsys.readouterr().err.splitlines()
    assert [f"error: {clean / 'shard_000.bin'} is missing", "hint: restore the ledger from a backup"] == told[-2:]
    assert main(["--traceback", "stats", str(clean)]) == cli.LEDGER_ERROR
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LedgerError("no"), cli.LEDGER_ERROR),
        (FailStopError("no"), cli.SYSTEM_ERROR),
        (OSError(errno.ENOSPC, "No space left on device"), cli.SYSTEM_ERROR),
        (PermissionError(errno.EACCES, "Permission denied"), cli.SYSTEM_ERROR),
        (MemoryError(), cli.SYSTEM_ERROR),
        (KeyboardInterrupt(), cli.INTERRUPTED),
        (ZeroDivisionError("no"), cli.BUG),
    ],
)
def test_each_kind_of_error_has_its_exit_code(tmp_path, capsys, monkeypatch, error, code):
    def fail(*_arguments, **_settings):
        raise error

    monkeypatch.setattr(GeometricLedger, "open", fail)
    assert main(["stats", str(tmp_path)]) == code
    assert len(capsys.readouterr().err.splitlines()) <= 2


def test_a_full_disk_names_the_folder(tmp_path, capsys, monkeypatch):
    def refuse(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Files, "preallocate", refuse)
    assert main(["create", str(tmp_path / "x")]) == cli.SYSTEM_ERROR
    told = capsys.readouterr().err.splitlines()[-2:]
    assert [f"error: {tmp_path / 'x'}: No space left on device", "hint: free disk space, then try again"] == told


def test_a_ledger_with_a_hash_of_its_own_is_not_the_users_mistake(tmp_path, capsys):
    options = Options(
        capacity=100, shards=1, hash_name="zero", hash_function=lambda keys, key: np.zeros((len(keys), 3), np.uint32)
    )
    with GeometricLedger.open(tmp_path / "x", options):
        pass
    assert main(["stats", str(tmp_path / "x")]) == cli.LEDGER_ERROR
    assert "the ledger was made with the hash 'zero'" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error(killed):
    command = f'"{sys.executable}" -m ledger log "{killed}" --json | true'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        cwd=Path(ledger.__file__).parent.parent,
        timeout=200,
    )
    assert (0, False) == (done.returncode, "Error" in done.stderr)


# ---------------------------------------------------------------- words
@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (2**40, "1.0 TiB"), (2**51, "2,048.0 TiB")],
)
def test_sizes_have_the_unit_that_suits_them(size_bytes, text):
    assert text == tables.size(size_bytes)


def test_progress_is_silent_for_a_second_then_seldom(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])
    status = cli._Status()
    for now[0] in (0.5, 1.5, 2.0, 7.0):
        status("redo", 16)
    status.clear()
    assert capsys.readouterr().err == "redo: 16\nredo: 16\n"


def test_progress_on_a_terminal_is_one_line_that_goes_away(capsys, monkeypatch):
    monkeypatch.setattr(cli.sys.stderr, "isatty", lambda: True)
    status = cli._Status()
    status._next = 0
    status("redo", 1, 3)
    status.clear()
    assert capsys.readouterr().err == "\rredo: 1 of 3\r" + " " * len("redo: 1 of 3") + "\r"
