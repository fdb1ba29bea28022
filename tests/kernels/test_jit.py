"""Where compiled kernels are kept, who may read them, and what happens when a process dies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numba
import numpy as np
import pytest

from ledger.kernels import jit
from tests.children import run_python

ROOT = Path(jit.__file__).resolve().parents[2]

PROBE = """
import sys, warnings
sys.path.insert(0, {root!r})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {before}
    from ledger.kernels import jit

    @jit.kernel
    def plus_one(x):
        return x + 1

    @jit.kernel
    def plus_two(x):
        return plus_one(x) + 1

    assert plus_two(40) == 42
print(jit.cache_directory())
print(sum("not kept" in str(w.message) for w in caught))
print(sum(plus_two.stats.cache_hits.values()))
"""


def probe(before: str = "pass", **changes: str | None) -> list[str]:
    """Run a first kernel in a new process; return the directory, the number of warnings and of cache hits."""
    named = ("GEOLEDGER_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "TMPDIR")
    environment = {name: value for name, value in os.environ.items() if name not in named}
    environment |= {name: value for name, value in changes.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(root=str(ROOT), before=before)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the sources that machine code depends on."""
    copy = tmp_path / "ledger"
    shutil.copytree(ROOT / "ledger" / "kernels", copy / "kernels", ignore=lambda *_: ["__pycache__"])
    shutil.copy(ROOT / "ledger" / "layout.py", copy / "layout.py")
    return copy


def test_a_changed_layout_or_kernel_source_gives_a_new_directory(package: Path) -> None:
    before = jit.source_digest(package)
    assert before == jit.source_digest(package)
    seen = {before}
    for name in ("layout.py", "kernels/hashing.py", "kernels/intrinsics.py"):
        with (package / name).open("a") as file:
            file.write("# changed\n")
        seen.add(jit.source_digest(package))
    (package / "kernels" / "added.py").touch()
    seen.add(jit.source_digest(package))
    assert len(seen) == 5


def test_settings_that_change_the_code_change_the_digest(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {jit.source_digest(package)}
    monkeypatch.setattr(numba.config, "BOUNDSCHECK", int(not numba.config.BOUNDSCHECK))
    seen.add(jit.source_digest(package))
    monkeypatch.setattr(jit, "portable_forced", not jit.portable_forced)
    seen.add(jit.source_digest(package))
    assert len(seen) == 3


DAMAGE = """
import os, sys
sys.path.insert(0, {root!r})
from ledger.kernels import jit

def hits():
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            @jit.kernel
            def plus_two(x):
                return x + 2

            assert plus_two(40) == 42
            code = sum(plus_two.stats.cache_hits.values())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

directory = jit.cache_directory()  # decided before the forks: an edit of a source in between does no harm
seen = [hits(), hits()]
(file,) = directory.glob("*plus_two*")
whole = file.read_bytes()
for damaged in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
    file.write_bytes(damaged)
    seen += [hits(), hits()]
print(seen, oct(directory.stat().st_mode & 0o777), str(directory.parent) == sys.argv[1])
"""


def test_the_second_process_loads_what_is_whole_and_compiles_what_is_damaged(tmp_path: Path) -> None:
    out = run_python(DAMAGE.format(root=str(ROOT)), tmp_path, GEOLEDGER_CACHE_DIR=str(tmp_path))
    assert "[0, 1, 0, 1, 0, 1] 0o700 True\n" == out


def test_with_a_read_only_home_the_temporary_directory_is_private(tmp_path: Path) -> None:
    directory, caught, _ = probe(HOME="/dev/null", TMPDIR=str(tmp_path))
    assert (tmp_path / f"geometricledger-{os.geteuid()}", "0") == (Path(directory).parent, caught)
    assert 0o700 == Path(directory).parent.stat().st_mode & 0o777


def test_directories_are_tried_in_the_documented_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def bases(**environment: str) -> list[str]:
        for name in ("GEOLEDGER_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return [str(base) for base, _ in jit._base_directories()][:-1]

    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    assert [] == bases()
    assert [] == bases(XDG_CACHE_HOME="relative")
    assert ["/h/.cache/geometricledger"] == bases(HOME="/h")
    assert ["/g", "/x/geometricledger"] == bases(HOME="/h", XDG_CACHE_HOME="/x", GEOLEDGER_CACHE_DIR="/g")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/n")
    assert ["/n/geometricledger", "/h/.cache/geometricledger"] == bases(HOME="/h")


def test_with_no_directory_at_all_one_warning_is_given_and_kernels_run() -> None:
    before = "import tempfile; tempfile.tempdir = '/dev/null'"
    assert ["None", "1", "0"] == probe(before, HOME="/dev/null")


def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    assert base / "kernels-x" == jit._prepare_directory(base, "kernels-x", False)
    (base / "kernels-x").chmod(0o777)
    assert jit._prepare_directory(base, "kernels-x", True) is None
    (base / "kernels-x").chmod(0o700)
    base.chmod(0o777)
    assert jit._prepare_directory(base, "kernels-x", False) is None
    assert base / "kernels-x" == jit._prepare_directory(base, "kernels-x", True)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory to another user needs root")
def test_a_directory_or_link_of_another_user_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "kernels-x").mkdir(mode=0o700, parents=True)
    os.chown(base / "kernels-x", 12345, 12345)
    assert jit._prepare_directory(base, "kernels-x", True) is None
    (base / "kernels-y").symlink_to(tmp_path)
    assert jit._prepare_directory(base, "kernels-y", True) is None


def test_only_old_directories_of_ours_are_pruned(tmp_path: Path) -> None:
    names = ["kernels-" + digit * 32 for digit in "abc"] + ["kernels-notes", "other"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / names[1], (1000, 1000))
    removed = jit.prune_directories(tmp_path, names[2], 1000.0 + jit.PRUNE_AFTER_S)
    assert (1, names[1:]) == (removed, sorted(path.name for path in tmp_path.iterdir()))
    assert 0 == jit.prune_directories(tmp_path / "missing", names[2], 0.0)


def test_the_users_own_numba_settings_are_not_touched() -> None:
    assert os.environ.get("NUMBA_CACHE_DIR", "") == numba.config.CACHE_DIR

    @numba.njit
    def mine(x):
        return x

    assert mine.stats.cache_path is None


CROWD = """
import os, pathlib, signal, sys, warnings
sys.path.insert(0, {root!r})
warnings.simplefilter("error")
from ledger.kernels import jit

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def tear(path, data):
    with open(path, "wb") as file:
        file.write(data[: len(data) // 2])
    die()

def child(number):
    if number in (1, 2, 3):  # sure to write, however late it starts
        jit._OverloadCache.load_overload = lambda *args: None
    if number == 1:
        pathlib.Path.write_bytes = die
    if number == 2:
        pathlib.Path.write_bytes = tear
    if number == 3:
        os.replace = die

    @jit.kernel
    def twice(x):
        return x + x

    first, second = (21, 10.5) if number % 2 else (10.5, 21)
    assert twice(first) == first * 2 and twice(second) == second * 2
    assert type(twice(21)) is int and type(twice(10.5)) is float
    os._exit(sum(twice.stats.cache_hits.values()))

def fork(number):
    pid = os.fork()
    if pid == 0:
        try:
            child(number)
        finally:
            os._exit(99)
    return pid

pids = [fork(number) for number in range(8)]
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
print(os.waitstatus_to_exitcode(os.waitpid(fork(0), 0)[1]))
print(sorted(path.suffix for path in jit.cache_directory().iterdir()))
"""


def test_eight_processes_compile_at_once_and_three_are_killed_while_writing(tmp_path: Path) -> None:
    out = run_python(CROWD.format(root=str(ROOT)), GEOLEDGER_CACHE_DIR=str(tmp_path))
    codes, later_hits, suffixes = (eval(line) for line in out.splitlines())
    assert [-9, -9, -9] == codes[1:4]
    assert all(code in (0, 1, 2) for code in codes[:1] + codes[4:])
    assert 2 == later_hits
    assert 2 == len([suffix for suffix in suffixes if suffix != ".tmp"])
    assert ".tmp" in suffixes


def test_arrays_are_not_counted_and_cannot_be_made() -> None:
    words = np.zeros(3, np.uint64)

    @jit.kernel(inline=True)
    def first(words):
        return words[0]

    @jit.kernel
    def twice(words):
        return first(words) + first(words[1:])

    @jit.kernel
    def make(words):
        return np.zeros(words.shape[0])

    assert 0 == twice(words)
    if not any(twice.stats.cache_hits.values()):
        assert "NRT" not in twice.inspect_llvm(twice.signatures[0])
    with pytest.raises(numba.TypingError):
        make(words)


def test_options_pass_through_to_numba() -> None:
    @jit.kernel(nogil=False, inline=True)
    def half(x):
        return x / 2

    options = half.targetoptions
    assert (False, True, "numpy") == (options["nogil"], options["forceinline"], options["error_model"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isinf(jit.kernel(lambda x, y: x / y)(1.0, 0.0))
