"""Progress of a run: a bar on a terminal, plain lines in a log, one line that changes in a notebook."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol


class Progress(Protocol):
    """What a run tells while it works."""

    def prepare(self, what: str) -> None:
        """Say what is done before the first trial."""

    def start(self, total: int) -> None:
        """Say how many trials there are."""

    def begin(self, label: str) -> None:
        """Say which trial begins."""

    def end(self, seconds: float, error: str | None, state_hash: str | None) -> None:
        """Say how the trial ended."""

    def close(self) -> None:
        """Say that it is over."""


class _Counter:
    """Counting and the time left, which all ways share."""

    def __init__(self) -> None:
        self.total = self.done = self.failed = 0
        self.label = ""
        self.started = time.monotonic()

    def prepare(self, what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    def start(self, total: int) -> None:
        self.total = total
        self.started = time.monotonic()

    def begin(self, label: str) -> None:
        self.label = label

    def end(self, seconds: float, error: str | None, state_hash: str | None) -> None:
        self.done += 1
        self.failed += error is not None

    def close(self) -> None:
        pass

    def left(self) -> str:
        """Return the time left, judged by the trials so far; their order is random, so they tell."""
        if not self.done:
            return "time left not known yet"
        seconds = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        return f"about {int(seconds // 60)}:{int(seconds % 60):02d} left"


class Lines(_Counter):
    """One line a trial on standard error."""

    def begin(self, label: str) -> None:
        """Say which trial begins."""
        super().begin(label)
        self._say(f"trial {self.done + 1} of {self.total} · {label} · {self.left()}")

    def end(self, seconds: float, error: str | None, state_hash: str | None) -> None:
        """Say how the trial ended: its time, and the hash of the state that it left."""
        super().end(seconds, error, state_hash)
        self._say(f"    failed: {error}" if error else f"    {seconds:.2f} s, state {(state_hash or 'none')[:12]}")

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class Bar(_Counter):
    """A tqdm bar on a terminal."""

    def start(self, total: int) -> None:
        """Draw the bar."""
        from tqdm import tqdm

        super().start(total)
        self._bar = tqdm(total=total, unit="trial", file=sys.stderr, dynamic_ncols=True)

    def begin(self, label: str) -> None:
        """Show which trial runs."""
        super().begin(label)
        self._bar.set_postfix_str(label)

    def end(self, seconds: float, error: str | None, state_hash: str | None) -> None:
        """Move the bar; a failure gets a line of its own."""
        super().end(seconds, error, state_hash)
        if error:
            self._bar.write(f"failed: {self.label}: {error}", file=sys.stderr)
        self._bar.update()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.total:
            self._bar.close()


class Cell(_Counter):
    """One line under a notebook's cell that changes, so that an executed notebook keeps the last."""

    def prepare(self, what: str) -> None:
        """Show the line."""
        from IPython.display import display

        self._handle: Any = display(_Text(what), display_id=True)
        self._shown = 0.0

    def begin(self, label: str) -> None:
        """Show which trial runs, at most four times a second."""
        super().begin(label)
        if time.monotonic() - self._shown > 0.25:
            self._shown = time.monotonic()
            self._show(f"trial {self.done + 1} of {self.total} · {label} · {self.left()}")

    def close(self) -> None:
        """Say what was done."""
        seconds = time.monotonic() - self.started
        failed = f", {self.failed} failed" if self.failed else ""
        self._show(f"{self.done} of {self.total} trials in {seconds:.1f} s{failed}")

    def _show(self, line: str) -> None:
        if self._handle is not None:
            self._handle.update(_Text(line))


class _Text:
    """Plain text as a notebook's output, without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def for_stream() -> Progress:
    """Return the bar on a terminal, lines elsewhere."""
    return Bar() if sys.stderr.isatty() else Lines()
