"""Tiers and upstreams as the bus shows them: objects that come and go, and where a request would go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from aitherd.bus.names import UPSTREAM, upstream_path
from aitherd.bus.service import BusService
from aitherd.core.retries import Failure
from aitherd.core.upstreams import PLAIN, Node, Reach, RemoteModel, Route, Tier, Upstream
from aitherd.proxy.routing import Routing
from tests.native.bus.broker import Broker
from tests.native.bus.client import PROPERTIES, BusError, Client
from tests.native.bus.fleet import SmallFleet

TIER = Tier(
    "standard",
    (Route("vision"), Route("reasoning", "spark"), Route("gpt-x", "cloud")),
    patience=1.0,
    leave=Reach.CLOUD,
    efforts=("high",),
)
LISTED = b'{"data":[{"id":"reasoning"},{"id":"gpt-x"}]}'


@pytest.fixture
async def spark(routing: Routing) -> AsyncIterator[Upstream]:
    """A node in the LAN that lists two models, and a cloud of which nothing is known yet."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(LISTED), LISTED))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    node = Node(False, "127.0.0.1", server.sockets[0].getsockname()[1], "/v1", weight=2)
    one = Upstream("spark", Reach.LAN, (node,), concurrency=8, probe_interval=3600.0)
    models = {"gpt-x": RemoteModel("gpt-x", PLAIN | {"vision"}, 10.0, 30.0)}
    cloud = Upstream("cloud", Reach.CLOUD, (replace(node, path="/cloud"),), models=models, daily_cap=2.0)
    routing.apply({"standard": TIER}, {"spark": one, "cloud": cloud})
    yield one
    server.close()


async def properties(client: Client, upstream: str) -> dict[str, Any]:
    """All that the bus says about an upstream."""
    values = await client.call(upstream_path(upstream), PROPERTIES, "GetAll", "s", UPSTREAM)
    return {name: value for name, (_, value) in values.items()}


async def test_an_upstream_is_shown_as_it_fares(
    client: Client, routing: Routing, spark: Upstream, service: BusService
) -> None:
    (peer,) = routing.remotes.by_name["spark"].peers
    await Broker.until(lambda: bool(peer.models))
    peer.begin()
    peer.answered(0.25)
    assert await properties(client, "spark") == {
        "Name": "spark",
        "Kind": "lan",
        "State": "up",
        "Problem": "",
        "Nodes": [(str(spark.nodes[0]), "closed", "", 1, 8, 2, 250_000)],
        "Models": ["gpt-x", "reasoning"],
        "InFlight": 1,
        "Latency": 250_000,
        "Spent": 0.0,
        "DailyCap": -1.0,
    }
    for _ in range(3):
        peer.failed(routing.clock(), Failure.CONNECT, "it cannot be reached")
    found = await properties(client, "spark")
    assert found["State"] == "down"
    assert found["Nodes"][0][1:3] == ("open", "it cannot be reached")
    routing.spent("cloud", 2.5)
    found = await properties(client, "cloud")
    assert (found["Spent"], found["DailyCap"], found["State"]) == (2.5, 2.0, "capped")


async def test_what_changes_about_an_upstream_is_announced(
    client: Client, routing: Routing, spark: Upstream, service: BusService
) -> None:
    (peer,) = routing.remotes.by_name["spark"].peers
    async with client.signals("PropertiesChanged", upstream_path("spark")) as seen:
        for _ in range(3):
            peer.failed(routing.clock(), Failure.SERVER, "it answered 500")
        await Broker.until(lambda: any(changes.get("State") == ("s", "down") for _, changes, _ in seen))


async def test_upstreams_come_and_go_with_the_configuration(
    client: Client, routing: Routing, spark: Upstream, service: BusService
) -> None:
    async with client.signals("InterfacesRemoved") as removed, client.signals("InterfacesAdded") as added:
        routing.apply({}, {"cloud": routing.remotes.by_name["cloud"].upstream, "spare": replace(spark, name="spare")})
        await Broker.until(lambda: any(path == upstream_path("spare") for path, _ in added))
        await Broker.until(lambda: any(path == upstream_path("spark") for path, _ in removed))
    with pytest.raises(BusError):
        await properties(client, "spark")


async def route(client: Client, asked: str, **hints: tuple[str, Any]) -> dict[str, Any]:
    """What Route says."""
    said = {name.replace("_", "-"): value for name, value in hints.items()}
    found: dict[str, Any] = json.loads(await client.manager("Route", "sa{sv}", asked, said))
    return found


async def test_a_route_is_explained(
    client: Client, routing: Routing, spark: Upstream, service: BusService, fleet: SmallFleet
) -> None:
    found = await route(client, "standard")
    assert (found["tier"], found["possible"], found["load"]) == ("standard", True, "vision")
    assert [(one["route"], one["action"], one["place"]) for one in found["routes"]] == [
        ("spark/reasoning", "send", str(spark.nodes[0])),
        ("cloud/gpt-x", "send", str(routing.remotes.by_name["cloud"].peers[0].address)),
        ("vision", "wait", ""),
    ]
    assert await route(client, "anything", tier=("s", "standard")) == {**found, "asked": "anything"}
    assert (await route(client, "", effort=("s", "high")))["tier"] == "standard"
    seeing = await route(client, "standard", needs=("as", ["chat", "vision"]))
    assert [one["route"] for one in seeing["routes"]] == ["cloud/gpt-x"]
    assert "spark/reasoning cannot do vision" in seeing["skipped"]
    staying = await route(client, "standard", local_only=("b", True))
    assert [one["route"] for one in staying["routes"]] == ["vision"]
    assert not routing.remotes.by_name["spark"].peers[0].in_flight and not fleet.demands


async def test_a_route_by_a_models_name_is_explained(client: Client, service: BusService) -> None:
    ready = await route(client, "orchestrator")
    assert [(one["route"], one["action"]) for one in ready["routes"]] == [("orchestrator", "use")]
    absent = await route(client, "qwen2.5-vl")
    assert (absent["routes"][0]["route"], absent["routes"][0]["action"]) == ("vision", "wait")
    broken = await route(client, "broken")
    assert (broken["possible"], broken["for_ever"], broken["routes"]) == (False, False, [])
    assert "exited with status 1" in broken["why"]


@pytest.mark.parametrize(
    ("asked", "hints", "error"),
    [
        ("nobody", {}, "NoSuchModel"),
        ("x", {"tier": ("s", "nobody")}, "NoSuchTier"),
        ("x", {"effort": ("s", "extreme")}, "InvalidRequest"),
        ("x", {"tier": ("u", 3)}, "InvalidHint"),
        ("x", {"colour": ("s", "red")}, "InvalidHint"),
    ],
)
async def test_what_cannot_be_explained_is_refused_as_the_request_would_be(
    client: Client, service: BusService, asked: str, hints: dict[str, tuple[str, Any]], error: str
) -> None:
    with pytest.raises(BusError) as refused:
        await client.manager("Route", "sa{sv}", asked, hints)
    assert refused.value.name.endswith(f".Error.{error}")
