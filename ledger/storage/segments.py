"""The segments of the log: files of the folder `log`, made ahead, written once with zeros, used again.

Invariants:

- a file gets the name of a segment only when its header, its space and its zeros are durable;
- what is below the control block's `log_segment_first` is free: its frames are in the image;
- a free segment that becomes the next one first gets its new header, durably, then its new name: whatever a
  kill leaves, a file whose name counts has the header that goes with the name;
- all disk space of a segment is taken when it is made: no frame meets a full disk.

A segment that was written once costs a frame half the time of one whose blocks are still to be allocated.
The first one of a ledger is small and each new one twice as large as the one before, up to the size that was
asked for, so that a small ledger stays small and making one takes milliseconds.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ledger.errors import WrongLedgerError
from ledger.layout import BLOCK_BYTES, MAGIC_SEGMENT, SEGMENT_HEADER
from ledger.storage.files import TEMPORARY_SUFFIX, Files, segment_name, segment_sequence
from ledger.storage.headers import decode, new_header, seal

FIRST_SEGMENT_BYTES: Final = 4 * 1024 * 1024
ZERO_PIECE_BYTES: Final = 1024 * 1024
_DIRECT: Final = getattr(os, "O_DIRECT", 0)


@dataclass(eq=False, slots=True)
class Segment:
    """An open segment; `offset` is where the next frame goes."""

    sequence: int
    size: int
    path: Path
    fd: int = -1
    direct_fd: int = -1
    offset: int = BLOCK_BYTES

    @property
    def is_used(self) -> bool:
        """Whether a frame was placed in it."""
        return self.offset > BLOCK_BYTES

    def has_room(self, size: int) -> bool:
        """Tell whether a frame of `size` bytes fits."""
        return self.offset + size <= self.size


def segment_header(ledger_id: bytes, sequence: int, size: int) -> bytes:
    """Return the first block of a segment."""
    header = new_header(SEGMENT_HEADER, MAGIC_SEGMENT, ledger_id)
    header["sequence"] = sequence
    header["segment_bytes"] = size
    return seal(header).ljust(BLOCK_BYTES, b"\0")


def check_segment(block: bytes, ledger_id: bytes, sequence: int, path: Path) -> np.void | None:
    """Return the header of the segment that `path` names, or None where it is damaged.

    Raises
    ------
    WrongLedgerError
        It is sound, but of another ledger or another place in the log.
    UnsupportedVersionError
        It is newer.
    """
    header = decode(block, SEGMENT_HEADER, MAGIC_SEGMENT, path)
    if header is None:
        return None
    if header["ledger_id"].tobytes() != ledger_id:
        raise WrongLedgerError(f"{path} is of another ledger", path=path, offset=0, field="ledger_id")
    if int(header["sequence"]) != sequence:
        found = int(header["sequence"])
        raise WrongLedgerError(f"{path} is segment {found} of the log", path=path, offset=0, field="sequence")
    return header


def list_segments(files: Files, folder: Path) -> list[int]:
    """Return the sequence numbers of all segments in the folder, ascending."""
    numbers = (segment_sequence(name) for name in files.listdir(folder))
    return sorted(number for number in numbers if number is not None)


class SegmentStore:
    """Makes, opens, frees and reuses segments, the next one ahead of time in a thread of its own.

    Thread-safety: one thread calls, while another one may call `free_before` and `wait_prepared`; the background
    thread works on the one segment being prepared only.

    Parameters
    ----------
    files, folder, ledger_id
        Where and whose.
    segment_bytes
        Size of a segment once the log has grown to it.
    bytes_max
        Bytes that all segments together, free ones too, may keep on disk.
    direct
        Whether frames will be written past the page cache; set to False when the file system refuses.
    """

    def __init__(
        self, files: Files, folder: Path, ledger_id: bytes, segment_bytes: int, bytes_max: int, direct: bool
    ) -> None:
        self.files = files
        self.folder = folder
        self.ledger_id = ledger_id
        self.segment_bytes = segment_bytes
        self.bytes_max = bytes_max
        self.direct = direct and _DIRECT != 0
        self.live: list[Segment] = []  # ascending; the last one takes the next frame
        self.next: Segment | None = None
        self.tainted_to = 0  # segments up to here are removed, not reused
        self._free: list[tuple[int, Path]] = []  # size, path
        self._lock = threading.Lock()  # over `live` and `_free`
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------ what there is
    @property
    def current(self) -> Segment:
        """The segment that takes the next frame."""
        return self.live[-1]

    @property
    def live_bytes(self) -> int:
        """Bytes of the segments that may hold frames after the checkpoint."""
        return sum(segment.size for segment in self.live if segment.is_used)

    def size_for(self, frame_size: int) -> int:
        """Return the size of the segment that a roll for such a frame would take."""
        need = BLOCK_BYTES + frame_size
        if self.next is not None and self.next.size >= need:
            return self.next.size
        ramp = max(FIRST_SEGMENT_BYTES, 2 * self.current.size if self.live else 0)
        return max(need, min(self.segment_bytes, ramp))

    # ------------------------------------------------------------ opening
    def adopt(self, first: int, last: int, offset: int, *, given_up: bool) -> None:
        """Take over the folder: `first` to `last` are live, earlier ones free, later ones not in use.

        Frames go to `last`, from `offset` on. A later segment becomes the next one if it follows directly and
        is whole; others, and unfinished files, are removed. With `given_up`, frames were lost that later ones
        vouch for: no segment that may hold such a promise is used again.
        """
        numbers = list_segments(self.files, self.folder)
        removed = [name for name in self.files.listdir(self.folder) if name.endswith(TEMPORARY_SUFFIX)]
        for number in numbers:
            path = self.folder / segment_name(number)
            if number < first:
                self._free.append((path.stat().st_size, path))
            elif number < last:
                size = path.stat().st_size
                self.live.append(Segment(number, size, path, offset=size))
            elif number == last:
                if not self._is_whole(number, path):
                    self._mend_header(number, path)
                self.live.append(self._open(number, path, offset))
            elif number == last + 1 and not given_up and self._is_whole(number, path):
                self.next = self._open(number, path, BLOCK_BYTES)
            else:
                removed.append(path.name)
        for name in reversed(removed):
            self.files.unlink(self.folder / name)
        if not self.live or self.current.sequence != last:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.folder / segment_name(last)))
        self.tainted_to = last if given_up else 0
        self.files.sync_directory(self.folder)

    def _is_whole(self, sequence: int, path: Path) -> bool:
        """Tell whether a segment that nobody has used yet can be used as it is."""
        fd = self.files.open(path, os.O_RDONLY)
        try:
            header = check_segment(self.files.pread(fd, BLOCK_BYTES, 0), self.ledger_id, sequence, path)
            return header is not None and int(header["segment_bytes"]) == self.files.size(fd)
        finally:
            self.files.close(fd)

    def _mend_header(self, sequence: int, path: Path) -> None:
        """Write the header of a segment that was cut short, or whose header is lost, as it is now."""
        fd = self.files.open(path, os.O_RDWR)
        try:
            size = max(BLOCK_BYTES, self.files.size(fd) // BLOCK_BYTES * BLOCK_BYTES)
            self.files.pwrite(fd, segment_header(self.ledger_id, sequence, size), 0)
            self.files.fdatasync(fd)  # the header, before frames that need it
        finally:
            self.files.close(fd)

    def _open(self, sequence: int, path: Path, offset: int) -> Segment:
        """Open a segment for writing."""
        fd = self.files.open(path, os.O_RDWR)
        segment = Segment(sequence, self.files.size(fd), path, fd, offset=offset)
        if self.direct:
            try:
                segment.direct_fd = self.files.open(path, os.O_RDWR | _DIRECT | os.O_DSYNC)
                self._probe(segment)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self.direct = False
        return segment

    def _probe(self, segment: Segment) -> None:
        """Write the header again past the page cache: EINVAL says that frames cannot be."""
        block = np.frombuffer(mmap.mmap(-1, BLOCK_BYTES), np.uint8)  # aligned
        block[:] = np.frombuffer(segment_header(self.ledger_id, segment.sequence, segment.size), np.uint8)
        self.files.pwrite(segment.direct_fd, block, 0)

    # ------------------------------------------------------------ the next segment
    def prepare(self) -> None:
        """Start to make the next segment, unless it is there or being made."""
        if self.next is None and self._thread is None and self._error is None:
            arguments = (self.current.sequence + 1, self.size_for(0))
            thread = threading.Thread(target=self._prepare, args=arguments, name="log-segment", daemon=True)
            thread.start()
            self._thread = thread  # once started: another thread may wait for what it finds here

    def _prepare(self, sequence: int, size: int) -> None:
        """Make the next segment; an error waits for whoever needs it."""
        try:
            self.next = self._make(sequence, size, BLOCK_BYTES)
        except BaseException as error:
            self._error = error

    def roll(self, frame_size: int) -> Segment:
        """Make the next segment, with room for a frame of `frame_size` bytes, the current one.

        **Durability**: the segment, its header and its name are durable when this returns.

        Raises
        ------
        OSError
            It could not be made, now or in the background.
        """
        self.wait()
        need = BLOCK_BYTES + frame_size
        sequence = self.current.sequence + 1 if self.live else 1
        if self.next is not None and self.next.size < need:
            self._drop(self.next)
            self.next = None
        if self.next is None:
            self.next = self._make(sequence, self.size_for(frame_size), need)
        segment, self.next = self.next, None
        with self._lock:
            self.live = [*self.live, segment]
        return segment

    def wait_prepared(self) -> None:
        """Wait for the segment being made; an error is raised when that is needed."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def wait(self) -> None:
        """Wait for the background thread, and raise what it met."""
        self._join()
        if self._error is not None:
            raise self._error

    def _join(self) -> None:
        """Wait for the background thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _make(self, sequence: int, size: int, need: int) -> Segment:
        """Take the largest free segment, or make a file of `size` bytes; durable when this returns."""
        target = self.folder / segment_name(sequence)
        header = segment_header(self.ledger_id, sequence, size)
        found = None
        with self._lock:
            self._free.sort()
            if self._free and self._free[-1][0] >= max(need, min(size, FIRST_SEGMENT_BYTES)):
                found = self._free.pop()
        if found is not None:
            size, source = found
            header = segment_header(self.ledger_id, sequence, size)
            fd = self.files.open(source, os.O_RDWR)
            try:
                self.files.pwrite(fd, header, 0)
                self.files.fdatasync(fd)  # the header of the new place, under the old name
            finally:
                self.files.close(fd)
        else:
            source = target.with_name(target.name + TEMPORARY_SUFFIX)
            self._make_file(source, size, header)
        self.files.replace(source, target)
        self.files.sync_directory(self.folder)  # the new name
        return self._open(sequence, target, BLOCK_BYTES)

    def _make_file(self, path: Path, size: int, header: bytes) -> None:
        """Write a file of zeros behind a header; nothing is left of it if that fails."""
        try:
            fd = self.files.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            try:
                self.files.preallocate(fd, size)
                self.files.pwrite(fd, header, 0)
                zeros = bytes(min(ZERO_PIECE_BYTES, size))
                for at in range(BLOCK_BYTES, size, len(zeros)):
                    self.files.pwrite(fd, zeros[: size - at], at)
                self.files.fsync(fd)  # header, zeros, and that the blocks are written ones
            finally:
                self.files.close(fd)
        except OSError:
            with contextlib.suppress(OSError):
                self.files.unlink(path, missing_ok=True)
            raise

    # ------------------------------------------------------------ giving back
    def free_before(self, sequence: int) -> None:
        """Set all live segments before `sequence` free; the control block no longer needs them, durably.

        Segments larger than the usual size, and what is more than `bytes_max` keeps, are removed.
        """
        with self._lock:
            done = [segment for segment in self.live if segment.sequence < sequence]
            self.live = [segment for segment in self.live if segment.sequence >= sequence]
            for segment in done:
                self._close(segment)
                self._free.append((segment.size, segment.path))
            removed = self._superfluous({segment.path for segment in done if segment.sequence <= self.tainted_to})
            self._free = [item for item in self._free if item not in removed]
        for _, path in removed:
            self.files.unlink(path)

    def _superfluous(self, tainted: set[Path]) -> list[tuple[int, Path]]:
        """Return the free segments that are not to be kept."""
        self._free.sort()
        following = self.next
        kept = sum(segment.size for segment in self.live) + (following.size if following else 0)
        total = kept + sum(size for size, _ in self._free)
        removed = [item for item in self._free if item[0] > self.segment_bytes or item[1] in tainted]
        total -= sum(size for size, _ in removed)
        for item in self._free:
            if total <= self.bytes_max:
                break
            if item not in removed:
                removed.append(item)
                total -= item[0]
        return removed

    def _drop(self, segment: Segment) -> None:
        """Remove a prepared segment that is too small for what comes."""
        self._close(segment)
        self.files.unlink(segment.path)

    def _close(self, segment: Segment) -> None:
        """Close the descriptors of a segment."""
        for fd in (segment.fd, segment.direct_fd):
            if fd >= 0:
                self.files.close(fd)
        segment.fd = segment.direct_fd = -1

    def close(self) -> None:
        """Wait for the background thread and close all descriptors; what the thread met is of no use now."""
        self._join()
        for segment in (*self.live, *([self.next] if self.next else [])):
            self._close(segment)
