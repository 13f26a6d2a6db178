"""A proxy on a Unix socket and on a loopback port, on both event loops, in front of whatever engines a test sets up."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
import uvloop

from aitherd.conductor.operations import Past
from aitherd.conductor.records import Records
from aitherd.core.words import Residency, ResidencyClass
from aitherd.proxy.callers import Callers
from aitherd.proxy.limits import Limits
from aitherd.proxy.routing import Routing
from aitherd.proxy.server import Proxy
from tests.native.proxy.fleet import Fleet
from tests.native.proxy.wires import Client, Engine, Script, echo
from tests.testbed import llama, models


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test here runs on both event loops: the proxy must not depend on either."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@dataclass
class House:
    """A proxy, its fleet and its engines."""

    directory: Path
    fleet: Fleet = field(default_factory=Fleet)
    records: Records = field(default_factory=lambda: Records(time.time))
    engines: dict[str, Engine] = field(default_factory=dict)
    proxies: list[Proxy] = field(default_factory=list)
    path: Path = Path()
    port: int = 0

    @property
    def proxy(self) -> Proxy:
        return self.proxies[-1]

    async def model(
        self,
        name: str,
        script: Script = echo,
        *,
        tcp: bool = False,
        serves: tuple[str, ...] = (),
        residency: Residency = Residency.READY,
        residency_class: ResidencyClass = ResidencyClass.ON_DEMAND,
        held: bool = False,
    ) -> Engine:
        """Adds a model whose engine follows `script`."""
        engine = Engine(script)
        await (engine.on_port() if tcp else engine.on_socket(self.directory / f"{name}.sock"))
        self.engines[name] = engine
        self.fleet.add(
            name, engine.endpoint, serves=serves, residency=residency, residency_class=residency_class, held=held
        )
        return engine

    async def open(
        self,
        limits: Limits | None = None,
        routing: Routing | None = None,
        callers: Callers | None = None,
        past: Past | None = None,
    ) -> None:
        """Starts a proxy, the first time or with other limits, tiers or callers. Its names are `t` and `test`, too."""
        limits = limits or Limits()
        limits = replace(limits, hosts=limits.hosts | {"t", "test"})
        proxy = Proxy(self.fleet, limits, routing, callers, records=self.records, past=past)
        self.path = self.directory / f"proxy{len(self.proxies)}.sock"
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(self.path))
        tcp = socket.socket()
        tcp.bind(("127.0.0.1", 0))
        self.port = tcp.getsockname()[1]
        self.proxies.append(proxy)
        await proxy.serve([unix, tcp])

    async def client(self, *, tcp: bool = False, limit: int = 1 << 20) -> Client:
        """A connection to the proxy."""
        return await Client.connect(self.port if tcp else self.path, limit)

    async def close(self) -> None:
        for proxy in self.proxies:
            proxy.close_listeners()
            await proxy.drain(0.05)
        for engine in self.engines.values():
            await engine.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A proxy with the limits of a test's patience: seconds where production has minutes."""
    built = House(tmp_path)
    await built.open(Limits(tick=0.05))
    yield built
    await built.close()
    # Whatever a test did, nothing may be left claimed, open or counted.
    assert all(status.in_flight == 0 for status in built.fleet.models.values())
    assert all(proxy.metrics.in_flight == 0 for proxy in built.proxies)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a llama-server with a small vision model."""
    try:
        program = llama.programs() / "llama-server"
    except llama.LlamaUnavailable as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no llama-server: {problem}")
    folder = tmp_path_factory.mktemp("llama")
    path = folder / "http.sock"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *models.llama_flags(vision=True), "--host", path, "--port", "8080"], stdout=log, stderr=log
        )
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://engine") as client:
            for _ in range(300):
                try:
                    if client.get("/health").is_success:
                        break
                except httpx.TransportError:
                    pass
                if process.poll() is not None:
                    raise RuntimeError((folder / "log").read_text())
                process_wait(process)
        yield path
    finally:
        process.terminate()
        process.wait()


def process_wait(process: subprocess.Popen[bytes]) -> None:
    """A tenth of a second, or less if the process ends."""
    try:
        process.wait(0.1)
    except subprocess.TimeoutExpired:
        return
