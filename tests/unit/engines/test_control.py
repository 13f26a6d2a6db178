"""The HTTP client that engines are asked with, and servers that answer badly: whatever comes, it costs that answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aitherd.core.words import Endpoint
from aitherd.engines import engine
from aitherd.engines.base import LARGEST_ANSWER, Control, fields

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"


def answer(body: bytes, more: bytes = b"") -> bytes:
    return HEAD % (more, len(body)) + body


@asynccontextmanager
async def asked(
    tmp_path: Path, serve: Callable[[asyncio.StreamWriter], AsyncIterator[bytes]]
) -> AsyncIterator[Control]:
    """A client of a server that writes what `serve` yields, to any request."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            async for piece in serve(writer):
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            """The client has gone."""
        finally:
            writer.close()

    path = str(tmp_path / "http.sock")
    server = await asyncio.start_unix_server(talk, path)
    try:
        async with Control(Endpoint(socket=path)) as control:
            yield control
    finally:
        server.close()


def whole(data: bytes) -> Callable[[asyncio.StreamWriter], AsyncIterator[bytes]]:
    async def serve(_: asyncio.StreamWriter) -> AsyncIterator[bytes]:
        yield data

    return serve


async def test_what_an_engine_says_is_read(tmp_path: Path) -> None:
    async with asked(tmp_path, whole(answer(b'{"level": 1}'))) as control:
        said = await control.get("/health")
        assert said is not None and said.status_code == 200 and fields(said) == {"level": 1}


async def test_one_that_drips_its_answer_has_no_more_time_than_one_that_is_silent(tmp_path: Path) -> None:
    pieces = 0

    async def drip(_: asyncio.StreamWriter) -> AsyncIterator[bytes]:
        nonlocal pieces
        yield HEAD % (b"", 1 << 20)
        while True:
            pieces += 1
            yield b" "
            await asyncio.sleep(0.05)

    async with asked(tmp_path, drip) as control:
        assert await control.get("/health", timeout=0.3) is None
    assert pieces < 100


async def test_one_that_never_ends_is_not_listened_to_for_ever(tmp_path: Path) -> None:
    sent = 0

    async def pour(_: asyncio.StreamWriter) -> AsyncIterator[bytes]:
        nonlocal sent
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while True:
            sent += 1 << 20
            yield b"x" * (1 << 20)

    async with asked(tmp_path, pour) as control:
        assert await control.get("/metrics", timeout=60.0) is None
    assert sent < 4 * LARGEST_ANSWER


@pytest.mark.parametrize(
    "said",
    [
        answer(b"no gzip", b"Content-Encoding: gzip\r\n"),
        answer(b"[" * 100_000),
        answer(b'{"queue_running": ' + b"[" * 100_000),
        answer(b"\xff\xfe\xff"),
        answer(b'vllm:num_requests_running{model="a"} 1.2.3\nvllm:num_requests_waiting 0.0\n'),
    ],
    ids=["gzip that is none", "a deep list", "a deep object", "no text", "no number"],
)
async def test_nonsense_is_no_work_and_no_slots(tmp_path: Path, said: bytes) -> None:
    async with asked(tmp_path, whole(said)) as control:
        found = await control.get("/queue")
        assert found is not None and fields(found) == {}
    async with asked(tmp_path, whole(said)) as control:
        assert not await engine("vllm").busy(control)
    async with asked(tmp_path, whole(said)) as control:
        assert await engine("llama-server").save_slots(control, "x", 1.0) == 0
