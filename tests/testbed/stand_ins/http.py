"""Just enough of an HTTP/1.1 server for a stand-in: routes, keep-alive, chunked streams. Not for anything else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

MAX_HEAD = 1 << 16
FIRST = asyncio.FIRST_COMPLETED


@dataclass(frozen=True)
class Request:
    """One request, read completely."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> dict[str, object]:
        """The body as a JSON object; empty when it is anything else."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def first(self, name: str, default: str) -> str:
        """The first value of a query parameter."""
        return self.query.get(name, [default])[0]


@dataclass(frozen=True)
class Response:
    """An answer; with a generator as body it is streamed in chunks, or as it is after status 101."""

    status: int = 200
    body: bytes | AsyncGenerator[bytes, None] = b""
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Response]]


def reply(value: object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(status, json.dumps(value).encode())


async def serve(handler: Handler, *, socket: str | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
    """Listens at a Unix socket or a port and answers for ever; a client that goes away cancels its handler."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            begun: bytes | None = b""
            while begun is not None:
                begun = await _exchange(handler, reader, writer, begun)
        writer.close()

    if socket is not None:
        server = await asyncio.start_unix_server(connected, socket, limit=MAX_HEAD)
    else:
        server = await asyncio.start_server(connected, host, port, limit=MAX_HEAD)
    async with server:
        await server.serve_forever()


async def _exchange(
    handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun: bytes
) -> bytes | None:
    """One request, of which `begun` has been read, and its answer.

    Returns what has been read of the next request; None when there will be none.
    """
    request = await _read(reader, begun)
    answering = asyncio.create_task(_answer(handler, request, writer))
    # The only way to learn that the client has gone is to read on.
    reading = asyncio.create_task(reader.read(1))
    await asyncio.wait({answering, reading}, return_when=FIRST)
    if reading.done() and reading.result() == b"":
        answering.cancel()
        await asyncio.wait({answering})
        return None
    if request.headers.get("upgrade"):
        # A tunnel, perhaps: what comes is nobody's business here, but for its end.
        watching = asyncio.create_task(_until_end(reader, reading))
        await asyncio.wait({answering, watching}, return_when=FIRST)
        for task in (answering, watching):
            task.cancel()
        await asyncio.wait({answering, watching})
        return None
    await answering
    if not reading.done():
        reading.cancel()
        await asyncio.wait({reading})
    if request.headers.get("connection", "").lower() == "close":
        return None
    return b"" if reading.cancelled() else reading.result() or None


async def _until_end(reader: asyncio.StreamReader, reading: asyncio.Task[bytes]) -> None:
    data = await reading
    while data:
        data = await reader.read(MAX_HEAD)


async def _read(reader: asyncio.StreamReader, begun: bytes) -> Request:
    head = (begun + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    headers = {}
    for line in filter(None, head[1:]):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b"".join([chunk async for chunk in _chunks(reader)])
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        query.setdefault(name, []).append(value)
    return Request(method, parts.path, query, headers, body)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        continue


async def _answer(handler: Handler, request: Request, writer: asyncio.StreamWriter) -> None:
    response = await handler(request)
    body = response.body
    status = f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"
    tunnel = response.status == HTTPStatus.SWITCHING_PROTOCOLS
    if tunnel:
        lines = [status, "Connection: Upgrade", "Upgrade: websocket"]
    else:
        length = f"Content-Length: {len(body)}" if isinstance(body, bytes) else "Transfer-Encoding: chunked"
        lines = [status, f"Content-Type: {response.kind}", length]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    if isinstance(body, bytes):
        writer.write(body)
    else:
        async with aclosing(body) as pieces:
            async for piece in pieces:
                writer.write(piece if tunnel else b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
        if not tunnel:
            writer.write(b"0\r\n\r\n")
    await writer.drain()
