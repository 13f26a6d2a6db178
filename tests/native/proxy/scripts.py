"""What engines and clients do in the tests of faults: pieces that more than one file plays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aitherd.proxy.limits import Limits
from tests.native.proxy.wires import Engine, Script, read_request

BODY = b'{"model":"vision","messages":[]}'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
QUICK = Limits(
    tick=0.02,
    header_timeout=0.1,
    body_grace=0.1,
    first_byte_timeout=0.1,
    stall_timeout=0.1,
    write_timeout=0.2,
    linger=0.2,
)


def sending(*pieces: bytes, then: Callable[[], Awaitable[object]] | None = None) -> Script:
    """A script that takes one request, sends `pieces`, and closes the connection once `then` is over."""

    async def script(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine.requests.append(await read_request(reader))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then is not None:
            await then()

    return script


async def for_ever(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Streams until its client is gone."""
    await read_request(reader)
    writer.write(STREAM)
    while await reader.read(100):
        pass
