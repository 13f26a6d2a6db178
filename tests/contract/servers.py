"""Servers that the contract is held against: stand-ins, the real ones that can be had, or one that runs already.

Each is started as aitherd starts it, by what `Engine.launch` says, on a card of the test's own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from aitherd.core.words import Endpoint
from aitherd.engines import engine
from aitherd.engines.base import Control, Engine, Health
from tests.testbed import llama, models, speech
from tests.testbed.nvml import Gpu

STAND_INS = Path(__file__).parents[1] / "testbed" / "bin"
WAIT_S = 60.0
POLL_S = 0.01


@dataclass
class Running:
    """A server that answers."""

    engine: Engine
    endpoint: Endpoint
    gpu: Gpu | None
    """The card that it runs on; None for one that was not started here."""
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None

    @property
    def ours(self) -> bool:
        """Whether it may be harmed."""
        return self.process is not None

    @property
    def used(self) -> int:
        """Device bytes in use."""
        assert self.gpu is not None
        return self.gpu.card.used

    def control(self) -> Control:
        return Control(self.endpoint)

    def client(self, timeout: float = WAIT_S) -> httpx.AsyncClient:
        """For what clients send."""
        base = "http://engine" if self.endpoint.socket else f"http://127.0.0.1:{self.endpoint.port}"
        transport = httpx.AsyncHTTPTransport(uds=self.endpoint.socket)
        return httpx.AsyncClient(transport=transport, base_url=base, timeout=timeout, trust_env=False)

    async def until(self, health: Health) -> None:
        """Waits for what a probe finds."""
        deadline = time.monotonic() + WAIT_S
        async with self.control() as control:
            while (found := await self.engine.health(control)) is not health:
                if self.process is not None and self.process.poll() is not None and health is not Health.UNREACHABLE:
                    assert self.log is not None
                    raise AssertionError(f"it ended: {self.log.read_text()[-2000:]}")
                assert time.monotonic() < deadline, f"it is {found} and not {health}"
                await asyncio.sleep(POLL_S)


def address(url: str) -> Endpoint:
    """The endpoint that `http://127.0.0.1:PORT` or `unix:/PATH` names. Raises ValueError for another."""
    if url.startswith("unix:"):
        return Endpoint.parse(url)
    parsed = httpx.URL(url)
    if parsed.host not in ("127.0.0.1", "localhost"):
        raise ValueError(f"{url} is not on this machine: engines are local")
    return Endpoint(port=parsed.port or 80)


def command(kind: str) -> list[str]:
    """What is run for an engine, before its options."""
    if kind == "llama-server":
        try:
            program = llama.programs() / "llama-server"
        except llama.LlamaUnavailable as problem:
            _absent(f"no llama-server: {problem}")
        return [str(program), *models.llama_flags(vision=True)]
    if kind == "whisper-server":
        try:
            return [
                str(llama.programs("whisper-server") / "whisper-server"),
                "-m",
                str(speech.whisper_model()),
                "--threads",
                "1",
            ]
        except llama.LlamaUnavailable as problem:
            _absent(f"no whisper-server: {problem}")
    if kind == "exec":
        return [str(STAND_INS / "engine"), "--socket", "{socket}", "--vram", "1GiB"]
    more = {
        "vllm": ("serve", "some/model", "--enable-sleep-mode", "--x-kv", "4GiB"),
        "comfyui": ("--prompt-seconds", "0.2"),
        "ollama": ("serve",),
    }
    return [str(STAND_INS / kind), *more.get(kind, ())]


def _absent(why: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


@contextmanager
def started(
    kind: str, words: Sequence[str], folder: Path, gpu: Gpu, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """A server of that kind with further words in its command; the environment given wins over what `launch` says."""
    manners = engine(kind)
    endpoint = Endpoint(socket=str(folder / "http.sock")) if manners.speaks_unix else Endpoint(port=_unused_port())
    # Some do not listen where another has left its socket; aitherd has systemd remove it with the unit.
    (folder / "http.sock").unlink(missing_ok=True)
    launch = manners.launch([*command(kind), *words], endpoint)
    search = f"{Path(sys.executable).parent}{os.pathsep}{gpu.environment['PATH']}"
    env = {**os.environ, **gpu.environment, "PATH": search, **launch.environment, **(environment or {})}
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(launch.argv, env=env, stdout=output, stderr=output, cwd=folder) as process,
    ):
        try:
            yield Running(manners, endpoint, gpu, process, log)
        finally:
            process.kill()


Start = Callable[..., Running]

Test = TypeVar("Test", bound=Callable[..., object])


def only(*kinds: str) -> Callable[[Test], Test]:
    """Marks a test that means something for these engines only."""

    def mark(test: Test) -> Test:
        test.__dict__["kinds"] = kinds
        return test

    return mark


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
