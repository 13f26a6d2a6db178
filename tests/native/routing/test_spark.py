"""A LAN pool as `aitherd.toml` shows it: the five services of a DGX Spark on two nodes, with weights and bounds."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from aitherd.config import load
from aitherd.config.schema import EXAMPLES
from aitherd.core.circuit import State
from aitherd.proxy.limits import Limits
from aitherd.proxy.remotes import Remotes
from aitherd.proxy.routing import Routing
from tests.native.proxy.conftest import House
from tests.native.proxy.test_tiers import CHAT, ask
from tests.native.proxy.tiers import JSON
from tests.native.proxy.wires import Client, Engine, Reply, ok, read_request, until

SERVICES = ("reasoning", "swap", "embed", "orchestrator", "reflex")
TIERS = "".join(f'[tiers.{name}]\nroutes = ["spark/{name}"]\nleave = "lan"\n' for name in SERVICES) + (
    '[tiers.any]\nroutes = ["spark/reasoning", "spark/swap"]\nleave = "lan"\n'
)
ADDRESSES = ("http://spark.local:8120", "http://spark-2.local:8120")


class Node:
    """One Spark: it lists what it serves, and answers with who it is; chats wait while the gate is shut."""

    def __init__(self, name: str, serves: tuple[str, ...]) -> None:
        self.name = name
        self.serves = serves
        self.well = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.engine = Engine(self._serve)
        self.asked: Counter[str] = Counter()

    async def _serve(self, engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            if not self.well:
                return
            if request.line.startswith("GET "):
                body = json.dumps({"data": [{"id": name} for name in self.serves]}).encode()
            else:
                model = msgspec.json.decode(request.body)["model"]
                self.asked[model] += 1
                await self.gate.wait()
                body = json.dumps({"choices": [{"message": {"content": f"{self.name}/{model}"}}], "data": [1]}).encode()
            writer.write(ok(body, JSON))
            await writer.drain()


@pytest.fixture
async def sparks(house: House, tmp_path: Path) -> tuple[Routing, Node, Node]:
    """The pool, as configured by the template; the second node does without the reflex."""
    nodes = (Node("one", SERVICES), Node("two", SERVICES[:4]))
    spark, _, _ = EXAMPLES["upstreams.NAME"].partition("[upstreams.cloud]")
    models, _, _ = EXAMPLES["upstreams.NAME.models.NAME"].partition("[upstreams.cloud.models")
    text = spark + 'probe-interval = "0.2s"\n' + models + TIERS
    for node, address in zip(nodes, ADDRESSES, strict=True):
        await node.engine.on_port()
        house.engines[node.name] = node.engine
        assert f'"{address}"' in text
        text = text.replace(f'"{address}"', f'"http://127.0.0.1:{node.engine.endpoint.port}"')
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "aitherd.toml").write_text(text)
    fleet, problems = load((tmp_path / "etc",), user=True)
    assert fleet is not None and not problems
    routing = Routing(house.fleet, remotes=Remotes())
    routing.apply(fleet.tiers, fleet.upstreams)
    await house.open(Limits(tick=0.05), routing)
    await until(lambda: all(peer.models for peer in routing.remotes.by_name["spark"].peers))
    return routing, *nodes


def who(reply: Reply) -> str:
    return str(reply.json()["choices"][0]["message"]["content"])


async def test_each_of_the_five_services_is_reached_by_what_it_can(
    house: House, sparks: tuple[Routing, Node, Node]
) -> None:
    for name in ("reasoning", "swap", "orchestrator", "reflex"):
        assert who(await ask(house, model=name, messages=[])).endswith(f"/{name}")
    assert who(await ask(house, model="embed", path="/v1/embeddings", input="x")).endswith("/embed")
    assert (await ask(house, model="embed", messages=[])).status == 400
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    assert who(await ask(house, model="any", messages=[])).endswith("/reasoning")
    assert who(await ask(house, model="any", messages=[image])).endswith("/swap")


async def test_a_service_is_asked_for_only_where_it_is_listed(house: House, sparks: tuple[Routing, Node, Node]) -> None:
    _, one, two = sparks
    for _ in range(6):
        assert who(await ask(house, model="reflex", messages=[])) == "one/reflex"
    one.serves, two.serves = SERVICES[:4], SERVICES
    await until(lambda: "reflex" in sparks[0].remotes.by_name["spark"].peers[1].models)
    await until(lambda: "reflex" not in sparks[0].remotes.by_name["spark"].peers[0].models)
    assert who(await ask(house, model="reflex", messages=[])) == "two/reflex"


async def test_nodes_share_by_their_weights_and_none_gets_more_than_it_may(
    house: House, sparks: tuple[Routing, Node, Node]
) -> None:
    routing, one, two = sparks
    for node in (one, two):
        node.gate.clear()
    clients: list[Client] = []

    async def send(count: int) -> None:
        for _ in range(count):
            client = await house.client()
            clients.append(client)
            client.post(CHAT, b'{"model":"reasoning","messages":[]}')
            await until(lambda: house.proxy.metrics.in_flight == len(clients))

    await send(18)
    await until(lambda: one.asked.total() + two.asked.total() == 18)
    assert (one.asked.total(), two.asked.total()) == (12, 6)
    await send(14)
    await until(lambda: one.asked.total() + two.asked.total() == 32)
    assert (one.asked.total(), two.asked.total()) == (16, 16)
    full = await ask(house, model="reasoning", messages=[])
    assert (full.status, full.json()["error"]["code"]) == (503, "no_route")
    assert "answers 16 requests already" in full.json()["error"]["message"]
    for node in (one, two):
        node.gate.set()
    assert {(await client.reply()).status for client in clients} == {200}
    assert routing.status("spark") is not None
    for client in clients:
        client.writer.close()


async def test_a_node_that_dies_is_left_at_once_and_taken_back_by_its_probes(
    house: House, sparks: tuple[Routing, Node, Node]
) -> None:
    routing, one, _ = sparks
    first, _ = routing.remotes.by_name["spark"].peers
    one.well = False
    for _ in range(12):
        assert who(await ask(house, model="reasoning", messages=[])) == "two/reasoning"
    await until(lambda: first.circuit.state(routing.clock()) is State.OPEN)
    status = routing.status("spark")
    assert status is not None and status.state == "degraded"
    one.well = True
    # Two probes in a row, then one request that is answered: no single good sign is believed.
    await until(lambda: first.circuit.state(routing.clock()) is State.HALF_OPEN)
    assert who(await ask(house, model="reasoning", messages=[])) == "one/reasoning"
    assert first.circuit.state(routing.clock()) is State.CLOSED
