"""How a report starts a notebook's kernel: over sockets of this machine's file system, not over the network."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any, Final

from jupyter_client.manager import AsyncKernelManager
from jupyter_core.paths import jupyter_runtime_dir

_SOCKET_PATH_MAX: Final = 100  # the kernel takes 107 bytes, and each channel adds its number


class LocalKernelManager(AsyncKernelManager):
    """A kernel that only this user can talk to; TCP where the path of a socket would be too long."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        folder = Path(jupyter_runtime_dir())
        socket = folder / f"k{uuid.uuid4().hex[:8]}"
        if len(os.fsencode(socket)) <= _SOCKET_PATH_MAX:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.transport = "ipc"
            self.ip = str(socket)
