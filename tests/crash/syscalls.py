"""Power cuts of what the kernel was really told: strace watches a child, and its report is cut like a recorded one.

Nothing is taken on the word of the engine: operations, their order and what was durable when come from system
calls alone, and so do acknowledgements, which the child writes to a pipe. A write counts from its call on, a sync
or a write through O_DSYNC from its return on, and a sync covers only writes that had returned before it was called.
`sync_file_range` promises nothing, and counts for nothing.

Not covered are stores into mapped files (storage "shared"), folders whose own entry is lost, and failing calls. What
strace shows of the watched folder and this module has no model of is an error, so that nothing is left out silently.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from ledger.engine import checkpoint
from ledger.storage import directio, segments
from ledger.storage.files import Files
from tests.children import Child
from tests.crash import cuts
from tests.crash.disk import Op
from tests.model import Model

WRITES = ("pwrite64", "io_submit")
SYNCS = ("fsync", "fdatasync")
OPENS = ("open", "openat", "creat")
RENAMES = ("rename", "renameat", "renameat2")
UNLINKS = ("unlink", "unlinkat")
MODELLED = (*WRITES, *SYNCS, *OPENS, *RENAMES, *UNLINKS, "io_getevents", "close", "fallocate", "ftruncate", "write")
# calls that change files and that the engine does not make; meeting one in the watched folder is an error
FOREIGN = (
    "openat2", "writev", "pwritev", "pwritev2", "io_pgetevents", "io_uring_enter", "copy_file_range", "sendfile",
    "splice", "link", "linkat", "symlink", "symlinkat", "truncate", "syncfs", "msync", "mmap", "dup",
    "dup2", "dup3",
)  # fmt: skip
STRING_BYTES = 4 * 1024 * 1024
PR_SET_PTRACER = 0x59616D61


class Unavailable(Exception):
    """Strace cannot run here."""


class Unmodelled(Exception):
    """The folder was changed in a way that this module has no model of."""


@dataclass(eq=False)
class Call:
    """A system call: the lines of its entry and its return in the report, and when it was entered and left.

    `result` is None if it never returned; `text` is what stands between the parentheses.
    """

    name: str
    entry: int
    entered: float
    text: str = ""
    exit: int | None = None
    left: float = 0.0
    result: int | None = None
    notes: dict[str, object] = field(default_factory=dict)


# ---------------------------------------------------------------- a child under strace
def watch(body: Callable[[Callable[[object], None]], object]) -> list[Call]:
    """Run `body(say)` in a child under strace and return its system calls, in the order of their entries.

    Raises
    ------
    Unavailable
        Strace is not installed, or may not attach.
    """
    reading, writing = os.pipe()

    def wait_then_work(say: Callable[[object], None]) -> None:
        os.close(writing)
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)  # where only parents may trace
        say("ready")
        if os.read(reading, 1):
            body(say)

    child = Child(wait_then_work)
    os.close(reading)
    with tempfile.TemporaryDirectory(prefix="gl-strace-", dir=memory()) as place, contextlib.ExitStack() as stack:
        stack.callback(lambda: child.status is None and child.kill())
        stack.callback(os.close, writing)
        child.line()
        report = Path(place) / "report"
        command = [
            "strace", "-f", "-ttt", "-y", "-xx", "-s", str(STRING_BYTES), "-o", report, "-p", str(child.pid),
            "-e", "signal=none", "-e", "trace=" + ",".join(f"?{name}" for name in (*MODELLED, *FOREIGN)),
        ]  # fmt: skip
        try:
            tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            raise Unavailable("strace is not installed") from None
        with tracer:
            stack.callback(tracer.kill)
            answer = tracer.stderr.readline().strip()
            if not answer.endswith("attached"):
                raise Unavailable(answer or "strace ended at once")
            os.write(writing, b"go")
            lines = list(child.lines())
            assert 0 == child.wait(), lines
            tracer.communicate()
        return parse(report.read_text("ascii").splitlines())


def memory() -> str | None:
    """Return a folder in memory, None where there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def parse(lines: list[str]) -> list[Call]:
    """Put the lines of a report together into calls."""
    calls: list[Call] = []
    unfinished: dict[str, Call] = {}
    for number, line in enumerate(lines):
        thread, at, text = re.fullmatch(r"(\d+) +([\d.]+) (.*)", line).groups()
        if text.startswith(("+++", "---")):
            continue
        if text.startswith("<... "):
            call, rest = unfinished.pop(thread), text.partition(" resumed>")[2]
        else:
            name, _, rest = text.partition("(")
            call = Call(name, number, float(at))
            calls.append(call)
        if rest.endswith("<unfinished ...>"):
            call.text = rest.removesuffix("<unfinished ...>").rstrip()
            unfinished[thread] = call
            continue
        arguments, result = re.fullmatch(r"(.*)\) += (-?\d+|\?|0x[0-9a-f]+)(?:[ <].*)?", rest).groups()
        call.text += arguments
        if result != "?":
            call.exit, call.left, call.result = number, float(at), int(result, 0)
    return calls


# ---------------------------------------------------------------- calls become operations
def operations(calls: list[Call], root: Path) -> tuple[list[Op], list[float]]:
    """Return what calls told the disk about the folder `root`, empty before, and the time of each operation."""
    story = Story(str(root))
    events = [(call.entry, 0, call) for call in calls]
    events += [(call.exit, 1, call) for call in calls if call.exit is not None]
    for _, leaving, call in sorted(events, key=lambda event: event[:2]):
        story.now = call.left if leaving else call.entered
        (story.leave if leaving else story.enter)(call)
    return story.ops, story.times


class Story:
    """The operations so far, and what descriptors and names stand for."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.ops: list[Op] = []
        self.times: list[float] = []
        self.now = 0.0
        self._fds: dict[int, tuple[int | str, bool]] = {}  # inode, or path of a folder; whether each write is a sync
        self._live: dict[str, int] = {}
        self._flying: defaultdict[int, set[int]] = defaultdict(set)  # by inode: places of writes that have not returned
        self._submitted: dict[str, tuple[int, int, int, bool]] = {}  # by AIO context: inode, place, bytes, is a sync
        self._count = itertools.count(1)

    def note(self, kind: str, a: object, b: object = 0, c: object = b"") -> int:
        """Add an operation and return its place, from 1 on."""
        self.ops.append(Op(kind, a, b, c))
        self.times.append(self.now)
        return len(self.ops)

    def enter(self, call: Call) -> None:
        """Take the entry of a call: what it writes may be on the disk from now on."""
        if call.name in WRITES and (call.result is None or call.result > 0):
            self._write(call)
        elif call.name == "write":
            self._mark(call)
        elif call.name in SYNCS and (target := self._target(call)) is not None:
            if isinstance(target[0], str):
                call.notes["before"] = len(self.ops)
            else:
                call.notes["number"] = next(self._count)
                self.note("begin", target[0], call.notes["number"], frozenset(self._flying[target[0]]))
            call.notes["target"] = target[0]
        elif call.name == "close":
            self._fds.pop(int(re.match(r"\d+", call.text)[0]), None)
        elif call.name in FOREIGN and self._is_ours(call):
            raise Unmodelled(f"{call.name}({call.text[:200]})")

    def leave(self, call: Call) -> None:
        """Take the return of a call: what it promised holds from now on."""
        if call.result < 0:
            return
        if call.name == "pwrite64" and "place" in call.notes:
            self._settle(*call.notes["place"])
        elif call.name == "io_getevents":
            self._complete(call)
        elif call.name in SYNCS and "target" in call.notes:
            if "before" in call.notes:
                self.note("folder", call.notes["target"], call.notes["before"])
            else:
                self.note("end", call.notes["target"], call.notes["number"])
        elif call.name in OPENS:
            self._open(call)
        elif call.name in RENAMES:
            source, target = self._paths(call)
            if source is not None or target is not None:
                self.note("rename", source, target)
                self._live[target] = self._live.pop(source)
        elif call.name in UNLINKS:
            (path,) = self._paths(call)
            if path is not None:
                self.note("unlink", path)
                del self._live[path]
        elif call.name in ("fallocate", "ftruncate") and (target := self._target(call)) is not None:
            numbers = [int(number) for number in re.findall(r", (\d+)", call.text)]
            if call.name == "ftruncate":
                self.note("truncate", target[0], numbers[0])
            else:
                mode, offset, size = numbers  # a mode with a name does not match, and is an error here
                assert mode == 0, call.text
                self.note("allocate", target[0], offset + size)

    # ------------------------------------------------------------ kinds of calls
    def _write(self, call: Call) -> None:
        """Note a write that begins."""
        aio = call.name == "io_submit"
        if aio:
            pattern = r'(\S+), 1, \[\{.*=IOCB_CMD_PWRITE,.* aio_fildes=(\d+)<.*aio_buf="(.*)", .*aio_offset=(\d+)\}\]'
            context, fd, data, offset = re.fullmatch(pattern, call.text).groups()
        else:
            context = ""
            fd, data, offset = re.fullmatch(r'(\d+)<.*?, "(.*)", \d+, (\d+)', call.text).groups()
        target = self._target(call, fd)
        if target is None:
            return
        piece = unescape(data)
        if not aio and call.result is not None:
            piece = piece[: call.result]
        place = self.note("write", target[0], int(offset), piece)
        self._flying[target[0]].add(place)
        if aio:
            self._submitted[context] = (target[0], place, len(piece), target[1])
        else:
            call.notes["place"] = (target[0], place, target[1])

    def _complete(self, call: Call) -> None:
        """Take the completion of the one write of an AIO context."""
        context, result = re.fullmatch(r"(\S+), 1, 1, *\[\{.*res=(-?\d+), .*\}\], NULL", call.text).groups()
        if context in self._submitted:
            inode, place, size, synced = self._submitted.pop(context)
            if int(result) != size:
                raise Unmodelled(f"a write of {size} bytes ended with {result}")
            self._settle(inode, place, synced)

    def _settle(self, inode: int, place: int, synced: bool) -> None:
        """Note the end of a write."""
        self._flying[inode].discard(place)
        if synced:
            self.note("durable", inode, place)

    def _open(self, call: Call) -> None:
        """Note a new name or a truncation, and what the descriptor stands for."""
        (path,) = self._paths(call)
        if path is None:
            return
        flags = call.text.rpartition('"')[2]
        inode = self._live.get(path)
        if inode is None and ("O_CREAT" in flags or call.name == "creat"):
            inode = self._live[path] = next(self._count)
            self.note("name", path, inode)
        elif inode is not None and "O_TRUNC" in flags:
            self.note("truncate", inode, 0)
        self._fds[call.result] = (path if inode is None else inode, bool(re.search("O_D?SYNC", flags)))

    def _mark(self, call: Call) -> None:
        """Take a mark, which is a line to a pipe; a write without an offset to a watched file is an error."""
        fd, text = re.fullmatch(r'(\d+)<.*?, "(.*)", \d+', call.text).groups()
        if self._target(call, fd) is not None:
            raise Unmodelled(f"write({call.text[:200]})")
        word, _, rest = unescape(text).partition(b" ")
        if word == b"mark":
            self.note("mark", *rest.decode().split())

    # ------------------------------------------------------------ names
    def _target(self, call: Call, fd: str = "") -> tuple[int | str, bool] | None:
        """Return what a descriptor of the watched folder stands for, None for one of anything else."""
        number = int(fd or re.match(r"\d+", call.text)[0])
        if number not in self._fds and self._is_ours(call):
            raise Unmodelled(f"a descriptor that was never opened: {call.name}({call.text[:200]})")
        return self._fds.get(number)

    def _paths(self, call: Call) -> list[str | None]:
        """Return the paths that a call names, relative to the watched folder, None for each that is elsewhere."""
        found = re.findall(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"([^"]*)"', call.text)
        paths = [os.path.normpath(os.path.join(*(unescape(part).decode() for part in pair))) for pair in found]
        return [self._relative(path) for path in paths]

    def _relative(self, path: str) -> str | None:
        """Return a path as `disk.Op` names it: "" for the watched folder, None for what is elsewhere."""
        return path[len(self.root) + 1 :] if f"{path}/".startswith(f"{self.root}/") else None

    def _is_ours(self, call: Call) -> bool:
        """Tell whether a call names the folder or what is in it, by a path or a descriptor, and may change it."""
        if call.name == "io_uring_enter":
            return True
        if call.name == "mmap" and not ("MAP_SHARED" in call.text and "PROT_WRITE" in call.text):
            return False
        named = re.findall(r'<([^>]*)>|"([^"]{1,20000})"', call.text)
        return any(f"{unescape(''.join(pair)).decode(errors='replace')}/".startswith(f"{self.root}/") for pair in named)


def unescape(text: str) -> bytes:
    """Return the bytes of a string as strace writes it with -xx; what has no name there is in plain letters."""
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()


# ---------------------------------------------------------------- workloads
class Marked(Files):
    """Files that are what a user has, and a way to say how far the workload is."""

    def __init__(self, say: Callable[[object], None]) -> None:
        self._say = say

    def mark(self, word: str, value: object) -> None:
        """Say it through the pipe."""
        self._say(f"mark {word} {value}")


def as_it_is() -> contextlib.AbstractContextManager[object]:
    """Leave everything as a user has it."""
    return contextlib.nullcontext()


def without_direct() -> contextlib.AbstractContextManager[object]:
    """Take O_DIRECT away, as file systems do that refuse it: frames are written through the page cache, then synced."""
    return mock.patch.object(segments, "_DIRECT", 0)


def without_aio() -> contextlib.AbstractContextManager[object]:
    """Take native AIO away, as some kernels and sandboxes do: a thread writes through O_DIRECT and O_DSYNC."""
    return mock.patch.object(directio._state, "refused", True)


SYNC = ("sync", "private")
WAYS = (
    ("sync-private, AIO", SYNC, as_it_is),
    ("sync-private, threads", SYNC, without_aio),
    ("sync-private, page cache", SYNC, without_direct),
    ("async-private", ("async", "private"), as_it_is),
    ("none-private", ("none", "private"), as_it_is),
)


def record(
    folder: Path,
    kind: tuple[str, str],
    way: Callable[[], contextlib.AbstractContextManager[object]] = as_it_is,
    *,
    batches: int = 40,
    make_files: Callable[[Callable[[object], None]], Marked] = Marked,
) -> cuts.Trace:
    """Run the workload of `cuts.record` in a child under strace."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder = folder.resolve()

    def work(say: Callable[[object], None]) -> None:
        with way(), mock.patch.object(checkpoint, "PIECE_BYTES", cuts.PIECE_BYTES):
            cuts.steady_work(folder, kind, make_files(say), [Model()], batches, cuts.SMALL)

    ops, times = operations(watch(work), folder)
    shutil.rmtree(folder)
    models = [Model()]
    for number in range(1, batches + 1):
        models.append(models[-1].copy())
        models[-1].update_batch(*cuts.batch(number))
    return cuts.Trace(kind, ops, times, {}, models)


def run(folder: Path, images: int, seed: int) -> cuts.Findings | str:
    """Cut what strace saw of each way to write until `images` images were looked at.

    Parameters
    ----------
    folder
        Where the child works and images are laid; best in memory.
    images
        All ways together.
    seed
        Of what survives.

    Returns
    -------
    Findings or str
        "skipped: " and why, where strace cannot run.
    """
    findings = cuts.Findings()
    try:
        for number, (name, kind, way) in enumerate(WAYS, 1):
            for turn in itertools.count(seed):
                trace = record(folder / "book", kind, way)
                before = len(findings.violations)
                step = max(1, 2 * len(trace.ops) * len(WAYS) // images)
                cuts.cut(trace, folder / "image", findings, images=2, step=step, first=turn % step, seed=turn, enough=5)
                findings.violations[before:] = [f"{name}: {text}" for text in findings.violations[before:]]
                if findings.images >= images * number // len(WAYS) or len(findings.violations) > before:
                    break
    except Unavailable as why:
        return f"skipped: {why}"
    return findings
