"""A stand-in that runs, as the tests of the stand-ins handle it."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx

GIB = 1 << 30
MIB = 1 << 20
WAIT_S = 20.0
POLL_S = 0.005
CHAT = "/v1/chat/completions"


class Server:
    """A stand-in that runs, and a client of it."""

    def __init__(self, process: subprocess.Popen[str], client: httpx.Client, address: Path | int, log: Path) -> None:
        self.address = address
        self.process = process
        self.http = client
        self.log = log

    def healthy(self, path: str) -> bool:
        """Whether it answers with success."""
        assert self.process.poll() is None, self.log.read_text()
        return listens(self.address) and self.http.get(path).is_success

    def died(self) -> int:
        """Waits for its end and returns its status."""
        return self.process.wait(WAIT_S)


Start = Callable[..., Server]


def until(what: str, true: Callable[[], object]) -> None:
    """Waits until `true()`; fails naming `what`."""
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(POLL_S)


def listens(address: Path | int) -> bool:
    """Whether anything accepts connections at a Unix socket or a port."""
    family, where = (
        (socket.AF_UNIX, str(address)) if isinstance(address, Path) else (socket.AF_INET, ("127.0.0.1", address))
    )
    with socket.socket(family) as probe:
        return probe.connect_ex(where) == 0


def ask(tokens: int, **options: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "x"}], "max_tokens": tokens, **options}
