"""Stand-ins, each with a card of the test's own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.native.testbed.server import WAIT_S, Server, Start, until
from tests.testbed.nvml import Gpu

PROGRAMS = Path(__file__).parents[2] / "testbed" / "bin"


@pytest.fixture
def gpu(tmp_path: Path) -> Gpu:
    return Gpu.create(tmp_path / "gpu")


@pytest.fixture
def start(gpu: Gpu, tmp_path: Path) -> Iterator[Start]:
    """Starts a stand-in at a Unix socket, or at a port; waits until `ready` answers unless that is empty."""
    with ExitStack() as stack:

        def start(name: str, *words: str, ready: str = "/health", port: int = 0, **environment: str) -> Server:
            path = tmp_path / f"{name}.sock"
            flag = {"vllm": "--uds", "engine": "--socket"}.get(name)
            where = [flag, str(path)] if flag and not port else ["--port", str(port)]
            python = Path(sys.executable).parent
            search = f"{python}{os.pathsep}{gpu.environment['PATH']}"
            log = tmp_path / f"{name}.log"
            with log.open("w") as output:
                process = stack.enter_context(
                    subprocess.Popen(
                        [PROGRAMS / name, *words, *where],
                        env={**os.environ, **gpu.environment, "PATH": search, **environment},
                        stdout=output,
                        stderr=output,
                        text=True,
                    )
                )
            stack.callback(process.kill)
            transport = httpx.HTTPTransport(uds=None if port else str(path))
            base = f"http://127.0.0.1:{port or 1}"
            client = stack.enter_context(httpx.Client(transport=transport, base_url=base, timeout=WAIT_S))
            server = Server(process, client, port or path, log)
            if ready:
                until(f"{name} is ready", lambda: server.healthy(ready))
            return server

        yield start


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port
