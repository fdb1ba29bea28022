"""Images in memory, since each is written and opened once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.crash.disk import memory_folder


@pytest.fixture
def tmp_path():
    """Replace the fixture of pytest by a folder in memory, where there is one."""
    with tempfile.TemporaryDirectory(prefix="gl-crash-", dir=memory_folder()) as folder:
        yield Path(folder)
