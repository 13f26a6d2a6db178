"""What the tests of the contract ask servers, and wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx

from tests.contract.servers import Running

GIB, MIB = 1 << 30, 1 << 20
CHAT = "/v1/chat/completions"
WHISPER = "Systran/faster-whisper-large-v3"
LLAMA = "llama3.2:latest"
PATIENCE_S = 60.0


async def until(what: str, true: Callable[[], Awaitable[bool]]) -> None:
    """Waits until `true()` is; fails naming `what`."""
    deadline = time.monotonic() + PATIENCE_S
    while not await true():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.01)


def question(model: str, tokens: int, *, stream: bool = False) -> dict[str, object]:
    messages = [{"role": "user", "content": "Count."}]
    return {"model": model, "messages": messages, "max_tokens": tokens, "stream": stream}


async def model_of(client: httpx.AsyncClient) -> str:
    """The model that an OpenAI server serves."""
    return str((await client.get("/v1/models")).json()["data"][0]["id"])


@asynccontextmanager
async def working(server: Running, tokens: int = 100_000) -> AsyncIterator[None]:
    """While it writes a long answer."""
    async with (
        server.client() as client,
        client.stream("POST", CHAT, json=question(await model_of(client), tokens, stream=True)) as answer,
    ):
        # The iterator closes the answer when it is forgotten.
        lines = answer.aiter_lines()
        await anext(lines)
        yield
        await lines.aclose()  # type: ignore[attr-defined]


async def says(server: Running) -> str:
    """A short answer of a server that answers."""
    async with server.client() as client:
        answer = await client.post(CHAT, json=question(await model_of(client), 2))
        assert answer.is_success, answer.text
        return str(answer.json()["choices"][0]["message"]["content"]).strip()


async def holds(server: Running, count: int) -> bool:
    """Whether exactly so many bytes of its card are used."""
    return server.used == count
