"""The daemon's own routes."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from aitherd.core.words import Residency, ResidencyClass
from aitherd.errors import CannotFit
from aitherd.proxy.limits import Limits
from tests.native.proxy.conftest import House
from tests.native.proxy.fleet import failing
from tests.native.proxy.wires import Client, Reply, until


async def get(client: Client, path: str, method: str = "GET") -> Reply:
    client.get(path, method=method)
    return await client.reply()


async def test_models_are_listed_under_every_name_that_may_be_asked_for(house: House) -> None:
    await house.model("vision", serves=("qwen2.5-vl", "vision"))
    await house.model("chat", residency=Residency.ABSENT)
    async with await house.client() as client:
        listed = (await get(client, "/v1/models")).json()
        assert listed["object"] == "list"
        assert [entry["id"] for entry in listed["data"]] == ["chat", "vision", "qwen2.5-vl"]
        one = (await get(client, "/v1/models/qwen2.5-vl")).json()
        assert (one["id"], one["object"], one["owned_by"]) == ("qwen2.5-vl", "model", "aither")
        assert one["aither"] == {"model": "vision", "residency": "ready", "can": ["chat"]}
        assert (await get(client, "/v1/models/nobody")).status == 404


async def test_health_is_green_only_without_problems(house: House) -> None:
    async with await house.client() as client:
        reply = await get(client, "/health")
        assert (reply.status, reply.json()) == (200, {"status": "ok", "problems": []})
        house.fleet.broken = ("gpu0 is lost",)
        reply = await get(client, "/health")
        assert (reply.status, reply.json()["problems"]) == (503, ["gpu0 is lost"])


async def test_running_lists_what_runs_as_existing_tools_expect(house: House) -> None:
    engine = await house.model("vision")
    await house.model("chat", residency=Residency.ABSENT)
    async with await house.client() as client:
        assert (await get(client, "/running")).json() == {
            "running": [
                {
                    "model": "vision",
                    "state": "ready",
                    "cmd": "serve --name vision",
                    "proxy": str(engine.endpoint),
                    "ttl": 0,
                    "name": "vision",
                    "description": "vision for tests",
                }
            ]
        }


async def test_swap_answers_when_the_model_is_ready(house: House) -> None:
    await house.model("vision", residency=Residency.ABSENT)
    start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    house.fleet.starts["vision"] = lambda: start
    async with await house.client() as client:
        client.get("/swap/request-vision", method="POST")
        await until(lambda: house.fleet.models["vision"].waiting == 1)
        start.set_result(None)
        reply = await client.reply()
        assert (reply.status, reply.json()["state"]) == (200, "ready")


async def test_swap_without_waiting_answers_at_once_and_goes_on_alone(house: House) -> None:
    await house.model("vision", residency=Residency.ABSENT)
    start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    house.fleet.starts["vision"] = lambda: start
    async with await house.client() as client:
        reply = await get(client, "/swap/request-vision?wait=0", "POST")
        assert (reply.status, reply.json()) == (202, {"model": "vision", "state": "absent"})
    await until(lambda: house.fleet.models["vision"].waiting == 1)
    start.set_result(None)
    await until(lambda: house.fleet.models["vision"].residency is Residency.READY)
    assert house.fleet.withdrawn == []


async def test_swap_is_withdrawn_with_its_client_and_says_why_it_fails(house: House) -> None:
    await house.model("vision", residency=Residency.ABSENT)
    house.fleet.starts["vision"] = asyncio.get_running_loop().create_future
    client = await house.client()
    client.get("/swap/request-vision", method="POST")
    await until(lambda: house.fleet.models["vision"].waiting == 1)
    client.writer.close()
    await until(lambda: house.fleet.withdrawn == ["vision"])
    house.fleet.starts["vision"] = failing(CannotFit("5 GiB needed, 3 GiB free"))
    async with await house.client() as other:
        reply = await get(other, "/swap/request-vision", "POST")
        assert (reply.status, reply.json()["error"]["code"]) == (503, "no_room")
        assert (await get(other, "/swap/request-nobody", "POST")).status == 404


async def test_unloading_everything_spares_what_must_stay(house: House) -> None:
    await house.model("orchestrator", residency_class=ResidencyClass.ESSENTIAL)
    await house.model("kept", held=True)
    await house.model("vision")
    await house.model("chat", residency=Residency.ABSENT)
    async with await house.client() as client:
        reply = await get(client, "/api/models/unload", "POST")
        assert (reply.status, reply.json()["unloaded"]) == (200, ["vision"])
        assert (await get(client, "/api/models/unload/kept", "POST")).status == 200
        reply = await get(client, "/api/models/unload/orchestrator", "POST")
        assert (reply.status, reply.json()["error"]["code"]) == (403, "not_allowed")
        assert "aither-orchestrator.service" in reply.json()["error"]["message"]
    assert house.fleet.stopped == ["vision", "kept"]


@pytest.mark.parametrize("path", ["/api/models/unload", "/swap/request-vision"])
async def test_changing_routes_take_post_only(house: House, path: str) -> None:
    await house.model("vision")
    async with await house.client() as client:
        assert (await get(client, path)).status == 405


async def test_metrics_tell_what_happened(house: House) -> None:
    await house.model("vision")
    async with await house.client() as client:
        for model in ("vision", "vision", "nobody"):
            client.post("/v1/completions", b'{"model":"%b"}' % model.encode())
            await client.reply()
        reply = await get(client, "/metrics")
    assert reply.fields["content-type"].startswith("text/plain; version=0.0.4")
    lines = reply.body.decode().splitlines()
    assert 'aither_requests_total{code="200",model="vision",route="/v1/completions"} 2.0' in lines
    assert 'aither_requests_total{code="404",model="",route="/v1/completions"} 1.0' in lines
    assert 'aither_request_duration_seconds_bucket{le="+Inf",model="vision"} 2.0' in lines
    assert 'aither_request_duration_seconds_count{model="vision"} 2.0' in lines
    assert 'aither_model_residency{model="vision",residency="ready"} 1.0' in lines
    assert 'aither_model_residency{model="vision",residency="absent"} 0.0' in lines
    assert 'aither_model_device_bytes{device="gpu0",model="vision"} 1.073741824e+09' in lines
    assert 'aither_device_size_bytes{device="gpu0"} 3.4359738368e+10' in lines
    assert "aither_client_connections 1.0" in lines
    assert "aither_requests_open 1.0" in lines


async def test_metrics_are_open_metrics_for_who_accepts_them(house: House) -> None:
    async with await house.client() as client:
        client.send(
            b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n\r\n"
        )
        reply = await client.reply()
    assert reply.fields["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert reply.body.endswith(b"# EOF\n")


async def test_requests_leave_one_record_each_without_content(house: House) -> None:
    await house.model("vision")
    with structlog.testing.capture_logs() as records:
        async with await house.client() as client:
            client.post("/v1/completions", b'{"model":"vision","prompt":"xyzzy"}')
            await client.reply()
        house.proxy.close_listeners()
        await house.proxy.drain(1)
    (record,) = records
    expected = {
        "aither_event": "request",
        "aither_model": "vision",
        "route": "/v1/completions",
        "status": 200,
        "outcome": "complete",
        "received": 35,
        "waited": 0.0,
    }
    assert record.items() >= expected.items()
    assert record["seconds"] >= record["first_byte"] > 0
    assert "xyzzy" not in str(record)


async def test_requests_in_a_flood_are_summed_and_counted_one_by_one(house: House) -> None:
    await house.model("vision")
    await house.open(Limits(records=3))
    with structlog.testing.capture_logs() as records:
        async with await house.client() as client:
            for _ in range(100):
                client.post("/v1/completions", b'{"model":"vision"}')
                await client.reply()
            metrics = (await get(client, "/metrics")).body.decode()
        house.proxy.close_listeners()
        await house.proxy.drain(1)
    assert 'aither_requests_total{code="200",model="vision",route="/v1/completions"} 100.0' in metrics
    alone = [one for one in records if one["aither_event"] == "request" and one["aither_model"]]
    summed = [one for one in records if one["aither_event"] == "requests" and one["aither_model"]]
    assert len(alone) + sum(one["requests"] for one in summed) == 100
    assert len(records) < 50
    assert {(one["status"], one["outcome"]) for one in summed} == {(200, "complete")}
    assert sum(one["received"] for one in summed) == 18 * sum(one["requests"] for one in summed)
