"""A distributed engine behind one OpenAI URL is an upstream like the others: a real Ray Serve deployment."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx2
import openai

from aitherd.core.upstreams import PLAIN, Node, Reach, RemoteModel, Upstream
from tests.native.proxy.conftest import House
from tests.native.proxy.test_tiers import CHAT, ask, who
from tests.native.proxy.tiers import Roads, saying
from tests.native.proxy.wires import Client, until
from tests.testbed.ray_serve import RayServe

BODY = b'{"model":"standard","max_tokens":4,"messages":[{"role":"user","content":"hi"}]%b}'


async def test_a_ray_serve_deployment_is_an_upstream_like_the_others(
    house: House, roads: Roads, deployment: RayServe
) -> None:
    """One deployment for all of it: it takes a minute to come up."""
    can = PLAIN | {"tools", "vision"}
    models = {"reasoning": RemoteModel("qwen2.5-vl", can), "unknown": RemoteModel("unknown", can)}
    node = Node(False, "127.0.0.1", deployment.port, "/v1")
    roads.upstreams["ray"] = Upstream("ray", Reach.LAN, (node,), models=models, probe_interval=0.5)
    await roads.upstream("spark", saying("spark"))
    routing = await roads.open("ray/unknown", "ray/reasoning", "spark/x")
    (peer,) = routing.remotes.by_name["ray"].peers

    # What it serves is learned from its own list.
    await until(lambda: peer.models == {"qwen2.5-vl"})
    transport = httpx2.AsyncHTTPTransport(uds=str(house.path))
    async with openai.AsyncOpenAI(
        api_key="client",
        base_url="http://aither/v1",
        http_client=httpx2.AsyncClient(transport=transport),
        max_retries=0,
    ) as client:
        whole = await client.chat.completions.with_raw_response.create(
            model="standard", max_tokens=4, messages=[{"role": "user", "content": "hi"}]
        )
        assert whole.headers["x-aither-upstream"] == "ray/reasoning"
        assert "ray does not list unknown" in whole.headers["x-aither-reason"]
        answer = whole.parse()
        assert answer.usage is not None and answer.usage.completion_tokens == 4
        stream = await client.chat.completions.create(
            model="standard", max_tokens=4, stream=True, messages=[{"role": "user", "content": "hi"}]
        )
        assert len([piece async for piece in stream]) > 2

    # It goes away while requests come, and nobody is refused.
    answers: Counter[tuple[int, bool, str]] = Counter()
    ending = asyncio.Event()

    async def load(number: int) -> None:
        async with await Client.connect(house.path) as one:
            while not ending.is_set():
                one.post(CHAT, BODY % (b',"stream":true' if number % 2 else b""), "Content-Type: application/json")
                reply = await one.reply()
                answers[reply.status, reply.whole, reply.fields["x-aither-upstream"].split("/")[0]] += 1
                if not reply.whole:
                    break

    loads = [asyncio.create_task(load(number)) for number in range(4)]
    await until(lambda: answers[200, True, "ray"] >= 20)
    await asyncio.to_thread(deployment.end)
    await until(lambda: answers[200, True, "spark"] >= 20)
    ending.set()
    await asyncio.gather(*loads)
    assert {status for status, _, _ in answers} == {200}
    # Streams that had begun when it went, which nobody can hide; each client had one at most.
    assert sum(count for (_, whole, _), count in answers.items() if not whole) <= 2
    reply = await ask(house, messages=[])
    assert who(reply) == "spark"
