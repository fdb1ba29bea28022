"""Every decision about compiling kernels: flags, and where compiled code is kept between processes.

Invariants:

- one file holds one overload of one kernel; no index is shared, so writers cannot mix up each other's code;
- a file is replaced whole and starts with a digest of its payload: torn, foreign or stale code is never
  run, it is compiled again;
- the directory is named by a digest of all kernel sources and settings: a callee or a constant that was
  edited in another file gives new code (numba alone looks at the kernel's own file only);
- compiled code is loaded only from a directory that this user or root owns and nobody else can write;
- numba's global configuration is never changed.

Thread-safety: `kernel` runs at import; loads and saves happen under numba's compiler lock. Any number of
processes may share a directory and any of them may be killed at any point.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import llvmlite
import numba
from numba.core import config
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

PACKAGE_DIR: Final = Path(__file__).resolve().parent.parent
PRUNE_AFTER_S: Final = 30 * 24 * 3600
TOUCH_AFTER_S: Final = 24 * 3600
DIGEST_BYTES: Final = 16
_DIRECTORY_PREFIX: Final = "kernels-"
_DIRECTORY_NAME: Final = re.compile(_DIRECTORY_PREFIX + r"[0-9a-f]{32}")

portable_forced: Final[bool] = os.environ.get("GEOLEDGER_PORTABLE", "0") not in ("", "0")


def kernel(fn: Callable | None = None, *, nogil: bool = True, inline: bool = False) -> Any:
    """Compile a function with numba, the way that every kernel is compiled.

    Parameters
    ----------
    fn
        The function; leave it out to give options: ``@kernel(nogil=False)``.
    nogil
        Run without the GIL. Off only where a call is shorter than a switch of the GIL (single get).
    inline
        Always inline into the calling kernel (LLVM's ``alwaysinline``).

    Returns
    -------
    numba dispatcher
        Compiled at its first call for each signature, or loaded from `cache_directory`. No fastmath.
        Division follows numpy, so that no exception branch is compiled. No reference counts: counting each
        array at each inlined call cost more than half of a batch's time, so a kernel neither makes nor
        returns arrays. Bounds are checked when ``NUMBA_BOUNDSCHECK=1``. With ``NUMBA_DISABLE_JIT=1`` the
        function itself.
    """
    if fn is None:
        return functools.partial(kernel, nogil=nogil, inline=inline)
    dispatcher = numba.njit(fn, nogil=nogil, forceinline=inline, error_model="numpy", _nrt=False)
    directory = cache_directory()
    if directory is not None and dispatcher is not fn:
        dispatcher._cache = _OverloadCache(fn, directory)
    return dispatcher


@functools.cache
def cache_directory() -> Path | None:
    """Return the directory of compiled kernels, or None if nothing can be kept.

    The first of these that can be used, decided once a process:

    1. ``$GEOLEDGER_CACHE_DIR``;
    2. ``geometricledger`` in ``$NUMBA_CACHE_DIR``, else in ``$XDG_CACHE_HOME``, else in ``~/.cache``;
    3. ``geometricledger-<uid>`` in the system's temporary directory;

    and in it ``kernels-<digest>``. A directory that can be read but not written is used as it is, so that an
    image may ship compiled kernels. If none will do, kernels are compiled in each process, and one
    ``RuntimeWarning`` says so.
    """
    problem = "no directory is writable"
    try:
        name = _DIRECTORY_PREFIX + source_digest(PACKAGE_DIR)
    except OSError as error:
        problem = f"the sources of the kernels cannot be read ({error})"
    else:
        for base, vouched in _base_directories():
            if (directory := _prepare_directory(base, name, vouched)) is not None:
                return directory
    warnings.warn(
        f"compiled kernels are not kept: {problem}; every process compiles them again. "
        "Set GEOLEDGER_CACHE_DIR to a directory that you own.",
        RuntimeWarning,
        stacklevel=3,
    )
    return None


def source_digest(package_dir: Path) -> str:
    """Digest the sources and settings that machine code depends on.

    Parameters
    ----------
    package_dir
        The package; ``layout.py`` and every ``kernels/*.py`` are read.

    Returns
    -------
    str
        32 hex digits: BLAKE2b over names, lengths and bytes of the sources, the versions of Python, numba and
        llvmlite, bounds checking, optimisation level and `portable_forced`.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    settings = (
        sys.version_info[:3],
        numba.__version__,
        llvmlite.__version__,
        bool(config.BOUNDSCHECK),
        str(config.OPT),
        portable_forced,
    )
    digest.update(repr(settings).encode())
    for path in [package_dir / "layout.py", *sorted((package_dir / "kernels").glob("*.py"))]:
        source = path.read_bytes()
        digest.update(f"\n{path.name} {len(source)}\n".encode())
        digest.update(source)
    return digest.hexdigest()


def prune_directories(base: Path, keep: str, now_s: float) -> int:
    """Remove directories of compiled kernels that nobody used for `PRUNE_AFTER_S`; never raise.

    Parameters
    ----------
    base
        The parent of the ``kernels-<digest>`` directories; nothing else in it is touched.
    keep
        Name of the directory in use.
    now_s
        Seconds since the epoch.

    Returns
    -------
    int
        Directories removed.
    """
    removed = 0
    with contextlib.suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            if entry.name == keep or not _DIRECTORY_NAME.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):
                if now_s - entry.stat(follow_symlinks=False).st_mtime > PRUNE_AFTER_S:
                    shutil.rmtree(entry.path, ignore_errors=True)
                    removed += 1
    return removed


def _base_directories() -> list[tuple[Path, bool]]:
    """List the candidates of `cache_directory`, best first, each with whether its user vouches for it."""
    bases = []
    if named := os.environ.get("GEOLEDGER_CACHE_DIR"):
        bases.append((Path(named).resolve(), True))
    home = os.environ.get("HOME")
    home_cache = os.path.join(home, ".cache") if home else None
    # The XDG specification asks to ignore a relative path.
    for parent in (config.CACHE_DIR, os.environ.get("XDG_CACHE_HOME") or home_cache):
        if parent and os.path.isabs(parent):
            bases.append((Path(parent).resolve() / "geometricledger", False))
    with contextlib.suppress(OSError):
        bases.append((Path(tempfile.gettempdir()) / f"geometricledger-{os.geteuid()}", False))
    return bases


def _prepare_directory(base: Path, name: str, vouched: bool) -> Path | None:
    """Create or accept ``base/name``; None if it cannot be used or others could plant code in it."""
    directory = base / name
    try:
        created = not directory.is_dir()
        if created:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(directory)
        if not (_is_trusted(found) and (vouched or _is_trusted(os.lstat(base)))):
            return None
        writable = os.access(directory, os.W_OK)
        now_s = time.time()
        if created:
            prune_directories(base, name, now_s)
        elif writable and now_s - found.st_mtime > TOUCH_AFTER_S:
            os.utime(directory)
        if writable or any(directory.iterdir()):
            return directory
    except OSError:
        pass
    return None


def _is_trusted(found: os.stat_result) -> bool:
    """Tell whether only this user or root can have put files there."""
    owned = found.st_uid in (os.geteuid(), 0)
    return owned and stat.S_ISDIR(found.st_mode) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@functools.cache
def _file_digest(path: str) -> bytes:
    """Digest one source file; empty if there is none (a function typed at a prompt)."""
    with contextlib.suppress(OSError):
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=DIGEST_BYTES).digest()
    return b""


class _OverloadCache(NullCache):
    """Compiled code of one kernel on disk: one file for each signature, CPU and set of closure values.

    numba's own cache keeps an index a kernel and numbers its files: of two processes that compile two
    signatures at once, one can overwrite the other's file, and the index then names the wrong code.
    A cache is never a reason to fail: what cannot be read is compiled, what cannot be written is dropped.
    """

    def __init__(self, fn: Callable, directory: Path) -> None:
        self._fn = fn
        self._directory = directory

    @property
    def cache_path(self) -> str:
        """The directory, as numba's statistics show it."""
        return str(self._directory)

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """Return compiled code for `sig`, or None."""
        target_context.refresh()
        try:
            stored = self._path(sig, target_context.codegen()).read_bytes()
            payload = stored[DIGEST_BYTES:]
            if stored[:DIGEST_BYTES] != _payload_digest(payload):
                return None
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception:
            return None

    def save_overload(self, sig: Any, cres: CompileResult) -> None:
        """Keep compiled code for `sig`."""
        if cres.lifted or cres.library.has_dynamic_globals:
            return  # code with an address of this process in it
        temporary = None
        try:
            path = self._path(sig, cres.library.codegen)
            payload = dumps(cres._reduce())
            temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
            # Another process may have pruned the directory since this one started.
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(_payload_digest(payload) + payload)
            os.replace(temporary, path)
        except Exception:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def _path(self, sig: Any, codegen: Any) -> Path:
        """Name the file by everything but the sources of the package, which name its directory."""
        code = self._fn.__code__
        cells = [cell.cell_contents for cell in self._fn.__closure__ or ()]
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for part in (repr(sig), repr(codegen.magic_tuple()), str(code.co_firstlineno)):
            digest.update(part.encode() + b"\n")
        digest.update(_file_digest(code.co_filename))
        digest.update(code.co_code)
        digest.update(dumps(cells) if cells else b"")
        name = f"{self._fn.__module__}.{self._fn.__qualname__}"
        return self._directory / f"{re.sub(r'[^A-Za-z0-9_.]', '', name)[-80:]}-{digest.hexdigest()}"


def _payload_digest(payload: bytes) -> bytes:
    """Digest stored code, so that a file cut short by a power failure is compiled again."""
    return hashlib.blake2b(payload, digest_size=DIGEST_BYTES).digest()
