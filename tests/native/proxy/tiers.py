"""A proxy with tiers in front of whatever engines and upstreams a test sets up, and upstreams that are broken."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from aitherd.conductor.records import Records
from aitherd.core.routing import LocalView
from aitherd.core.upstreams import PLAIN, Abilities, Node, Reach, RemoteModel, Route, Tier, Upstream
from aitherd.core.words import Residency
from aitherd.proxy.limits import Limits
from aitherd.proxy.remotes import Remotes
from aitherd.proxy.routing import Routing
from tests.native.proxy.conftest import House
from tests.native.proxy.wires import Engine, Script, ok, read_request

KEY = "sk-this-is-the-key"
DAY = 20_000 * 86_400.0
MODELS = b'{"object":"list","data":[]}'
ANSWER = b'{"choices":[{"message":{"content":"%b"}}],"usage":{"prompt_tokens":1000,"completion_tokens":100}}'
JSON, EVENTS = "Content-Type: application/json", "Content-Type: text/event-stream"


class Roads:
    """The upstreams and the tier of one test."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.seconds: dict[str, float] = {}
        """How long local models that are not ready are expected to take."""
        self.never: dict[str, str] = {}
        self.can: dict[str, Abilities] = {}
        self.upstreams: dict[str, Upstream] = {}
        self.engines: dict[str, Engine] = {}
        self.records = Records(lambda: 0.0)
        self.now = DAY
        self.routing: Routing | None = None

    async def upstream(
        self, name: str, script: Script, reach: Reach = Reach.LAN, *, tls: ssl.SSLContext | None = None, **more: object
    ) -> Engine:
        """Adds an upstream that does what `script` says; probes of it are answered before the script sees them."""
        engine = Engine(answering_probes(script))
        if tls is None:
            await engine.on_port()
        else:
            await engine.on_port(tls)
        assert engine.endpoint.port is not None
        self.house.engines[name] = self.engines[name] = engine
        node = Node(tls is not None, "localhost" if tls else "127.0.0.1", engine.endpoint.port, "/api/v1")
        self.upstreams[name] = replace(Upstream(name, reach, (node,), probe_interval=3600.0), **more)  # type: ignore[arg-type]
        return engine

    async def open(self, *routes: str, patience: float = 5.0, leave: Reach = Reach.CLOUD, limits: Limits | None = None,
                   state: Path | None = None) -> Routing:  # fmt: skip
        """Starts a proxy with the tier `standard`, which has these routes and serves `gpt-4o`."""
        chain = tuple(Route(*reversed(one.split("/"))) if "/" in one else Route(one) for one in routes)
        tier = Tier("standard", chain, patience, leave, serves=("gpt-4o",), efforts=("medium",))
        routing = self.routing = Routing(
            self.house.fleet, look=self._look, records=self.records, state=state,
            remotes=Remotes(self.records, secret=lambda name: KEY), unix=lambda: self.now,
        )  # fmt: skip
        routing.apply({"standard": tier}, self.upstreams)
        await self.house.open(limits or Limits(tick=0.05), routing)
        return routing

    def said(self) -> list[str]:
        """The records so far."""
        return [record.message for record in self.records.latest()]

    def _look(self, model: str) -> LocalView | None:
        status = self.house.fleet.models.get(model)
        if status is None:
            return None
        ready = status.residency is Residency.READY
        return LocalView(
            ready,
            0.0 if ready else self.seconds.get(model, 60.0),
            self.can.get(model, PLAIN),
            self.never.get(model, ""),
        )


def priced(name: str) -> Mapping[str, RemoteModel]:
    """A model at 1 for a thousand tokens of either kind."""
    return {name: RemoteModel(name, PLAIN, 1000.0, 1000.0)}


def answering_probes(script: Script) -> Script:
    async def serve(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(4)
        if first == b"GET ":
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ok(MODELS, JSON))
            await writer.drain()
            return
        # Bytes that were looked at are given back.
        reader._buffer[0:0] = first  # type: ignore[attr-defined]
        await script(engine, reader, writer)

    return serve


def saying(who: str) -> Script:
    """An upstream in order, which says its name: as a stream if it is asked to."""
    whole = ok(ANSWER % who.encode(), JSON)
    events = b"data: " + (ANSWER % who.encode()) + b"\n\ndata: [DONE]\n\n"
    streamed = f"HTTP/1.1 200 OK\r\n{EVENTS}\r\nContent-Length: {len(events)}\r\n\r\n".encode() + events

    async def serve(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            engine.requests.append(request)
            writer.write(streamed if b'"stream":true' in request.body else whole)
            await writer.drain()

    return serve


def always(answer: bytes, *, then_close: bool = True) -> Script:
    """An upstream that gives every request the same bytes."""

    async def serve(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            engine.requests.append(await read_request(reader))
            writer.write(answer)
            await writer.drain()
            if then_close:
                return

    return serve


async def silent(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream that takes a request and says nothing."""
    engine.requests.append(await read_request(reader))
    await asyncio.Event().wait()


def authority(folder: Path) -> tuple[Path, Path, Path]:
    """A private CA, and a certificate for `localhost` with its key."""

    def openssl(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=folder)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(*new, "-x509", "-days", "30", "-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", "ca.pem",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    openssl(*new, "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "csr.pem")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl("x509", "-req", "-in", "csr.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "30", "-extfile", "names",
            "-CAcreateserial", "-out", "cert.pem")  # fmt: skip
    return folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
