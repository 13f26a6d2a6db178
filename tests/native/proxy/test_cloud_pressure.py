"""Back-pressure reaches an upstream behind TLS: a slow client holds it back, and gets everything in the end."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

from aitherd.core.upstreams import Reach
from tests.native.proxy.conftest import House
from tests.native.proxy.test_tiers import CHAT, roads
from tests.native.proxy.tiers import Roads, authority, priced
from tests.native.proxy.wires import Client, Engine

__all__ = ["roads"]

PIECE = b"data: " + b"x" * 65528 + b"\n\n"
PIECES = 800
"""52 MB: much more than the kernel and the loop keep for a connection on the loopback."""


async def test_a_slow_client_holds_a_tls_upstream_back_and_gets_everything(
    house: House, roads: Roads, tmp_path: Path
) -> None:
    ca, cert, key = authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    sent = 0

    async def pour(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(PIECES):
            writer.write(b"%x\r\n" % len(PIECE) + PIECE + b"\r\n")
            await writer.drain()
            sent += 1
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    await roads.upstream("cloud", pour, Reach.CLOUD, tls=context, key="k", authority=str(ca), models=priced("gpt-x"))
    await roads.open("cloud/gpt-x")
    client = await Client.connect(house.path, limit=1 << 16)
    body = json.dumps({"model": "standard", "messages": [], "stream": True}).encode()
    client.post(CHAT, body)
    await client.reader.readuntil(b"\r\n\r\n")
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.3)
    assert sent < PIECES / 2, f"{sent} of {PIECES} pieces were taken although nobody reads"
    received = 0
    async with asyncio.timeout(60):
        while True:
            data = await client.reader.read(1 << 16)
            received += data.count(b"x")
            if data.endswith(b"0\r\n\r\n") or not data:
                break
    assert received == PIECES * PIECE.count(b"x")
    client.writer.close()
