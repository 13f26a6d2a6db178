"""Both ends of a wire in a test's hands: an HTTP server whose every byte a test writes, and a client likewise."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from aitherd.core.words import Endpoint

PATIENCE = 20.0
"""A test that waits longer than this for anything has failed."""


@dataclass
class Request:
    """What an engine was sent."""

    line: str
    fields: dict[str, str]
    """By lower-case name."""
    body: bytes = b""
    chunks: int = 0


@dataclass
class Reply:
    """What a client was answered."""

    status: int
    fields: dict[str, str]
    body: bytes
    whole: bool
    """Whether the framing says that the body is complete."""

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


async def read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """A start line and its fields. Raises IncompleteReadError at the end of the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rest = head.rstrip("\r\n").split("\r\n")
    fields: dict[str, str] = {}
    for entry in rest:
        name, _, value = entry.partition(":")
        assert name.lower() not in fields, f"{name} came twice"
        fields[name.lower()] = value.strip()
    return line, fields


async def read_chunked(reader: asyncio.StreamReader) -> list[bytes]:
    """The chunks of a chunked body."""
    chunks = []
    while size := int(await reader.readline(), 16):
        chunks.append(await reader.readexactly(size))
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
    return chunks


async def read_request(reader: asyncio.StreamReader) -> Request:
    """A whole request."""
    line, fields = await read_head(reader)
    request = Request(line, fields)
    if fields.get("transfer-encoding") == "chunked":
        chunks = await read_chunked(reader)
        request.body, request.chunks = b"".join(chunks), len(chunks)
    elif "content-length" in fields:
        request.body = await reader.readexactly(int(fields["content-length"]))
    return request


def ok(body: bytes = b"{}", *fields: str) -> bytes:
    """A plain answer."""
    lines = "".join(f"{entry}\r\n" for entry in fields)
    return f"HTTP/1.1 200 OK\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


Script = Callable[["Engine", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every request with its own body."""
    while True:
        request = await read_request(reader)
        engine.requests.append(request)
        writer.write(ok(request.body))
        await writer.drain()


@dataclass
class Engine:
    """A server that does what its script says with each connection."""

    script: Script = echo
    requests: list[Request] = field(default_factory=list)
    raw: bytes = b""
    """For scripts that do not parse."""
    connections: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a connection's script ended, with it or by its client."""
    endpoint: Endpoint = field(default_factory=lambda: Endpoint(port=1))
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def on_socket(self, path: Path, backlog: int = 100) -> Engine:
        self._server = await asyncio.start_unix_server(self._serve, path, backlog=backlog)
        self.endpoint = Endpoint(socket=str(path))
        return self

    async def on_port(self, tls: ssl.SSLContext | None = None) -> Engine:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.endpoint = Endpoint(port=self._server.sockets[0].getsockname()[1])
        return self

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.script(self, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            # The proxy closed the connection, or the test is over.
            return
        finally:
            self.gone.set()
            self._tasks.discard(task)
            writer.close()


class Client:
    """A connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, address: Path | int, limit: int = 1 << 20) -> Client:
        if isinstance(address, int):
            return cls(*await asyncio.open_connection("127.0.0.1", address, limit=limit))
        return cls(*await asyncio.open_unix_connection(address, limit=limit))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()

    def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)

    def post(self, path: str, body: bytes, *fields: str) -> None:
        """Sends a POST with JSON, or what `fields` say."""
        lines = "".join(f"{entry}\r\n" for entry in fields)
        self.send(f"POST {path} HTTP/1.1\r\nHost: test\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def get(self, path: str, *fields: str, method: str = "GET") -> None:
        lines = "".join(f"{entry}\r\n" for entry in fields)
        self.send(f"{method} {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n")

    async def reply(self, *, head_only: bool = False) -> Reply:
        """The next answer, complete or cut."""
        async with asyncio.timeout(PATIENCE):
            line, fields = await read_head(self.reader)
            status = int(line.split()[1])
            reply = Reply(status, fields, b"", True)
            if head_only or status < 200 or status in {204, 304}:
                return reply
            try:
                if fields.get("transfer-encoding") == "chunked":
                    while size := int(await self.reader.readline() or b"x", 16):
                        reply.body += await self.reader.readexactly(size)
                        await self.reader.readexactly(2)
                    await self.reader.readexactly(2)
                elif "content-length" in fields:
                    reply.body = await self.reader.readexactly(int(fields["content-length"]))
                else:
                    reply.body = await self.reader.read()
            except asyncio.IncompleteReadError as cut:
                reply.body += cut.partial
                reply.whole = False
            except (ValueError, ConnectionError):
                reply.whole = False
            return reply

    async def closed(self) -> bytes:
        """What still comes before the proxy closes the connection."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that happens in another task."""
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError
