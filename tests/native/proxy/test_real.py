"""The official OpenAI client and curl, through the proxy's Unix socket, to a real llama-server on a Unix socket."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import openai
import pytest

from aitherd.core.words import Endpoint
from tests.native.proxy.conftest import House
from tests.native.proxy.wires import PATIENCE
from tests.testbed import models

MODEL = "qwen2.5-vl"


@pytest.fixture
async def client(house: House, server: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, on the proxy's socket."""
    house.fleet.add("vision", Endpoint(socket=str(server)), serves=(MODEL,))
    transport = httpx2.AsyncHTTPTransport(uds=str(house.path))
    async with openai.AsyncOpenAI(
        api_key="none", base_url="http://aither/v1", http_client=httpx2.AsyncClient(transport=transport), max_retries=0
    ) as built:
        yield built


async def test_chat_with_an_image_streamed(client: openai.AsyncOpenAI) -> None:
    image = "data:image/png;base64," + base64.b64encode(models.png()).decode()
    stream = await client.chat.completions.create(
        model=MODEL,
        max_tokens=8,
        stream=True,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is this?"},
                    {"type": "image_url", "image_url": {"url": image}},
                ],
            }
        ],
    )
    chunks = [chunk async for chunk in stream]
    assert len(chunks) > 1
    assert chunks[-1].choices[0].finish_reason in {"length", "stop"}


async def test_completions_plain_and_by_the_models_own_name(client: openai.AsyncOpenAI) -> None:
    for name in (MODEL, "vision"):
        raw = await client.completions.with_raw_response.create(model=name, prompt="a", max_tokens=4)
        assert raw.headers["x-aither-upstream"] == "vision"
        assert raw.parse().choices


async def test_many_clients_at_once(client: openai.AsyncOpenAI) -> None:
    answers = await asyncio.gather(
        *(client.completions.create(model=MODEL, prompt="a", max_tokens=2) for _ in range(40))
    )
    assert all(answer.choices for answer in answers)


async def test_errors_are_the_clients_own(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.completions.create(model="nobody", prompt="a")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert {model.id async for model in client.models.list()} == {"vision", MODEL}


async def test_leaving_a_stream_frees_the_model(house: House, client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(model=MODEL, prompt="a", max_tokens=4000, stream=True)
    async for _ in stream:
        break
    await stream.close()
    async with asyncio.timeout(PATIENCE):
        while house.fleet.models["vision"].in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("client")
async def test_curl_over_the_socket(house: House) -> None:
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sSN", "--http2", "--unix-socket", str(house.path), "http://localhost/v1/chat/completions"),
        *("-H", "Content-Type: application/json", "-d"),
        '{"model":"vision","stream":true,"max_tokens":3,"messages":[{"role":"user","content":"hi"}]}',
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert said.rstrip().endswith(b"data: [DONE]")
