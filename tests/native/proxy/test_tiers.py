"""Which route of a tier answers: choosing a tier, bridges, patience, privacy, money, waiting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aitherd.core.upstreams import Reach, RemoteModel
from aitherd.core.words import Residency
from aitherd.errors import CannotFit, Hopeless, StartFailed
from aitherd.proxy.limits import Limits
from tests.native.proxy.conftest import House
from tests.native.proxy.fleet import failing
from tests.native.proxy.tiers import KEY, Roads, priced, saying, silent
from tests.native.proxy.wires import Reply, until

CHAT = "/v1/chat/completions"


@pytest.fixture
def roads(house: House) -> Roads:
    return Roads(house)


async def ask(house: House, *fields: str, model: str = "standard", path: str = CHAT, **more: Any) -> Reply:
    """One request for a tier."""
    async with await house.client() as client:
        client.post(path, json.dumps({"model": model, **more}, separators=(",", ":")).encode(), *fields)
        return await client.reply()


def who(reply: Reply) -> str:
    """Who answered, by its own words."""
    body = reply.body.removeprefix(b"data: ").split(b"\n")[0]
    return str(json.loads(body)["choices"][0]["message"]["content"])


def starting(house: House, name: str) -> asyncio.Event:
    """Lets `name` start only when the event is set."""
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()
        house.fleet.change(name, residency=Residency.READY)

    start: Callable[[], Awaitable[None]] = wait
    house.fleet.starts[name] = lambda: asyncio.ensure_future(start())
    return gate


async def test_a_ready_model_of_this_machine_answers_under_its_own_name(house: House, roads: Roads) -> None:
    engine = await house.model("vision", saying("vision"), serves=("qwen",))
    lan = await roads.upstream("spark", saying("spark"))
    await roads.open("vision", "spark/reasoning")
    for model, fields in (
        ("standard", ()),
        ("gpt-4o", ()),
        ("whatever", ("X-Aither-Tier: standard",)),
        ("whatever", ("X-Aither-Effort: medium",)),
    ):
        reply = await ask(house, *fields, model=model)
        assert who(reply) == "vision"
        assert reply.fields["x-aither-upstream"] == "vision"
        assert json.loads(engine.requests[-1].body)["model"] == "qwen"
        assert not [name for name in engine.requests[-1].fields if name.startswith("x-aither")]
    assert lan.requests == []


async def test_a_model_asked_for_by_its_name_is_not_replaced(house: House, roads: Roads) -> None:
    await house.model("vision", saying("vision"))
    house.fleet.starts["vision"] = failing(StartFailed("vision does not start"))
    house.fleet.change("vision", residency=Residency.ABSENT)
    lan = await roads.upstream("spark", saying("spark"))
    await roads.open("vision", "spark/reasoning")
    assert (await ask(house, model="vision", reasoning_effort="medium")).status == 503
    assert lan.requests == []


async def test_the_body_s_effort_chooses_among_tiers(house: House, roads: Roads) -> None:
    await house.model("small", saying("small"))
    await house.model("large", saying("large"))
    routing = await roads.open("small")
    tier = routing.named["standard"]
    large = replace(tier, name="deep", routes=(replace(tier.routes[0], model="large"),), serves=(), efforts=("high",))
    routing.apply({"standard": tier, "deep": large}, {})
    assert who(await ask(house, reasoning_effort="high")) == "large"
    assert who(await ask(house, reasoning={"effort": "high"}, path="/v1/responses")) == "large"
    assert who(await ask(house, reasoning_effort="low")) == "small"
    assert who(await ask(house, "X-Aither-Tier: standard", reasoning_effort="high")) == "small"


async def test_an_unknown_tier_effort_or_wish_is_refused(house: House, roads: Roads) -> None:
    await house.model("vision", saying("vision"))
    await roads.open("vision")
    unknown = await ask(house, "X-Aither-Tier: standart")
    assert (unknown.status, unknown.json()["error"]["code"]) == (404, "tier_not_found")
    assert "did you mean standard" in unknown.json()["error"]["message"]
    assert (await ask(house, "X-Aither-Effort: extreme")).status == 400
    # A word that is not understood must not let a request out.
    assert (await ask(house, "X-Aither-Local: yes")).status == 400
    assert house.engines["vision"].requests == []


async def test_while_a_model_loads_the_next_route_answers_and_the_next_request_comes_home(
    house: House, roads: Roads
) -> None:
    await house.model("vision", saying("vision"), residency=Residency.ABSENT)
    gate = starting(house, "vision")
    await roads.upstream("spark", saying("spark"))
    await roads.open("vision", "spark/reasoning")
    for _ in range(3):
        bridged = await ask(house)
        assert who(bridged) == "spark"
        assert bridged.fields["x-aither-upstream"] == "spark/reasoning"
        assert "while vision loads" in bridged.fields["x-aither-reason"]
    assert house.fleet.models["vision"].waiting == 1
    gate.set()
    await until(lambda: house.fleet.models["vision"].residency is Residency.READY)
    assert who(await ask(house)) == "vision"
    assert [said for said in roads.said() if "answers for the tier" in said] == [
        "spark/reasoning answers for the tier standard while vision is brought in"
    ]


async def test_a_model_that_comes_within_the_patience_is_waited_for(house: House, roads: Roads) -> None:
    await house.model("vision", saying("vision"), residency=Residency.ABSENT)
    roads.seconds["vision"] = 1.0
    lan = await roads.upstream("spark", saying("spark"))
    await roads.open("vision", "spark/reasoning", patience=20.0)
    assert who(await ask(house)) == "vision"
    assert lan.requests == []


async def test_one_that_does_not_is_left_at_the_end_of_the_patience_and_loads_on(house: House, roads: Roads) -> None:
    await house.model("vision", saying("vision"), residency=Residency.ABSENT)
    roads.seconds["vision"] = 0.01
    gate = starting(house, "vision")
    await roads.upstream("spark", saying("spark"))
    await roads.open("vision", "spark/reasoning", patience=0.1)
    reply = await ask(house)
    assert who(reply) == "spark"
    assert int(reply.fields["x-aither-waited-ms"]) >= 100
    assert house.fleet.models["vision"].waiting == 1
    gate.set()
    await until(lambda: house.fleet.models["vision"].residency is Residency.READY)


async def test_a_model_that_can_never_fit_or_cannot_be_had_gives_way_at_once(house: House, roads: Roads) -> None:
    await house.model("challenger", saying("challenger"), residency=Residency.ABSENT)
    roads.never["challenger"] = "challenger needs 20 GiB of 12"
    await roads.upstream("spark", saying("spark"))
    await roads.open("challenger", "spark/reasoning")
    reply = await ask(house)
    assert (who(reply), house.fleet.models["challenger"].waiting) == ("spark", 0)
    assert "challenger needs 20 GiB of 12" in reply.fields["x-aither-reason"]
    # The same when it only turns out on the way.
    roads.never.clear()
    roads.seconds["challenger"] = 1.0
    for error in (CannotFit("challenger does not fit"), Hopeless("challenger cannot be ready within the 3 s left")):
        house.fleet.starts["challenger"] = failing(error)
        reply = await ask(house)
        assert who(reply) == "spark" and error.message in reply.fields["x-aither-reason"]


async def test_without_another_route_a_model_s_own_refusal_is_told(house: House, roads: Roads) -> None:
    await house.model("vision", saying("vision"), residency=Residency.ABSENT)
    house.fleet.starts["vision"] = failing(CannotFit("vision does not fit"))
    await roads.open("vision")
    reply = await ask(house)
    assert (reply.status, reply.json()["error"]["code"]) == (503, "no_room")
    house.fleet.starts["vision"] = failing(Hopeless("vision cannot be ready in time", retry_after=42.0))
    reply = await ask(house)
    assert (reply.status, reply.json()["error"]["code"]) == (503, "deadline_hopeless")
    assert reply.fields["retry-after"] == "42"


@pytest.mark.parametrize(("leave", "fields"), [(Reach.LOCAL, ()), (Reach.CLOUD, ("X-Aither-Local: only",))])
async def test_nothing_leaves_that_may_not(house: House, roads: Roads, leave: Reach, fields: tuple[str, ...]) -> None:
    await house.model("vision", saying("vision"), residency=Residency.ABSENT)
    house.fleet.starts["vision"] = failing(StartFailed("vision does not start"))
    lan = await roads.upstream("spark", saying("spark"))
    cloud = await roads.upstream("cloud", saying("cloud"), Reach.CLOUD)
    await roads.open("vision", "spark/reasoning", "cloud/gpt-x", leave=leave)
    assert (await ask(house, *fields)).status == 503
    assert (lan.requests, cloud.requests) == ([], [])


async def test_an_image_or_a_tool_goes_to_nobody_who_cannot_take_it(house: House, roads: Roads) -> None:
    await house.model("text", saying("text"))
    sees = {"eyes": RemoteModel("eyes", frozenset({"chat", "vision"}))}
    await roads.upstream("spark", saying("spark"), models=sees)
    await roads.open("text", "spark/eyes")
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    assert who(await ask(house, messages=image)) == "spark"
    assert who(await ask(house, messages=[{"role": "user", "content": "hi"}])) == "text"
    refused = await ask(house, tools=[{"type": "function"}])
    assert (refused.status, refused.json()["error"]["code"]) == (400, "unsupported_by_tier")
    assert "text cannot do tools" in refused.json()["error"]["message"]


async def test_what_a_client_says_about_itself_and_where_to_go_stays_here(house: House, roads: Roads) -> None:
    cloud = await roads.upstream("cloud", saying("cloud"), Reach.CLOUD, key="the-key", models={
        "gpt-x": RemoteModel("gpt-x-2026")
    })  # fmt: skip
    await roads.open("cloud/gpt-x")
    secrets = ("Authorization: Bearer client", "X-Api-Key: client", "Cookie: a=b", "X-Forwarded-For: 10.0.0.1",
               "OpenAI-Organization: client", "User-Agent: client", "Accept-Encoding: gzip", "Accept: */*")  # fmt: skip
    reply = await ask(
        house, *secrets, path=CHAT + "?api_key=client",
        api_base="http://evil", extra_body={"api_base": "http://evil"}, api_key="client", user="u",
    )  # fmt: skip
    assert reply.status == 200
    (request,) = cloud.requests
    assert request.line == "POST /api/v1/chat/completions HTTP/1.1"
    assert json.loads(request.body) == {"model": "gpt-x-2026", "user": "u"}
    assert request.fields.keys() == {"host", "accept", "user-agent", "authorization", "content-length"}
    assert (request.fields["authorization"], request.fields["user-agent"]) == (f"Bearer {KEY}", "aitherd")
    assert KEY not in str(reply)


async def test_a_form_goes_through_a_tier_as_well(house: House, roads: Roads) -> None:
    await house.model("listen", saying("listen"), residency=Residency.ABSENT)
    roads.can["listen"] = frozenset({"transcriptions"})
    gate = starting(house, "listen")
    lan = await roads.upstream("spark", saying("spark"), can=frozenset({"transcriptions"}))
    await roads.open("listen", "spark/whisper")
    sound = b"\0\r\n" * 100_000
    body = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nstandard\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + sound + b"\r\n--b--\r\n"
    )
    async with await house.client() as client:
        client.post("/v1/audio/transcriptions", body, "Content-Type: multipart/form-data; boundary=b")
        assert who(await client.reply()) == "spark"
    assert lan.requests[0].body == body.replace(b"standard", b"whisper")
    gate.set()
    await until(lambda: house.fleet.models["listen"].residency is Residency.READY)
    async with await house.client() as client:
        client.post("/v1/audio/transcriptions", body, "Content-Type: multipart/form-data; boundary=b")
        assert who(await client.reply()) == "listen"
    assert house.engines["listen"].requests[0].body == body.replace(b"standard", b"listen")


async def test_what_was_spent_today_bounds_what_is_sent_and_survives_a_restart(
    house: House, roads: Roads, tmp_path: Path
) -> None:
    # Each answer costs 1.1: a thousand tokens of the request, a hundred of the answer.
    cloud = await roads.upstream("cloud", saying("cloud"), Reach.CLOUD, models=priced("gpt-x"), daily_cap=2.0)
    await roads.upstream("spark", saying("spark"))
    routing = await roads.open("cloud/gpt-x", "spark/reasoning", state=tmp_path)
    assert [who(await ask(house)), who(await ask(house, stream=True))] == ["cloud", "cloud"]
    await until(lambda: routing.spend.today("cloud") == pytest.approx(2.2))
    assert who(await ask(house)) == "spark"
    assert any("has spent its cap of today" in said for said in roads.said())
    house.proxy.close_listeners()
    await house.proxy.drain(1.0)
    routing = await roads.open("cloud/gpt-x", "spark/reasoning", state=tmp_path)
    assert routing.spend.today("cloud") == pytest.approx(2.2)
    assert who(await ask(house)) == "spark"
    roads.now += 86_400
    assert who(await ask(house)) == "cloud"
    assert len(cloud.requests) == 3


async def test_a_stream_that_waits_is_told_so_and_then_gets_its_answer(house: House, roads: Roads) -> None:
    await house.model("vision", saying("vision"), residency=Residency.ABSENT)
    gate = starting(house, "vision")
    await roads.open("vision", limits=Limits(tick=0.02, comment_interval=0.05))
    for model in ("vision", "standard"):
        house.fleet.change("vision", residency=Residency.ABSENT)
        gate.clear()
        async with await house.client() as client:
            client.post(CHAT, b'{"model":"%b","stream":true}' % model.encode())
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream")
            assert b": waiting for vision, 0 s\n\n" in await client.reader.readuntil(b"\n\n")
            gate.set()
            rest = await client.reader.readuntil(b"\r\n0\r\n\r\n")
            assert b": X-Aither-Upstream: vision\n" in rest
            assert rest.count(b"data: ") == 2
            # The connection is good for another.
            client.post(CHAT, b'{"model":"%b"}' % model.encode())
            assert who(await client.reply()) == "vision"


@pytest.mark.parametrize("model", ["vision", "standard"])
async def test_a_stream_that_waits_in_vain_ends_with_an_error_as_an_event(
    house: House, roads: Roads, model: str
) -> None:
    await house.model("vision", silent, residency=Residency.ABSENT)
    gate = asyncio.Event()

    async def start() -> None:
        await gate.wait()
        raise StartFailed("vision does not start")

    house.fleet.starts["vision"] = lambda: asyncio.ensure_future(start())
    await roads.open("vision", limits=Limits(tick=0.02, comment_interval=0.05))
    async with await house.client() as client:
        client.post(CHAT, b'{"model":"%b","stream":true}' % model.encode())
        await client.reader.readuntil(b"s\n\n\r\n")
        gate.set()
        rest = await client.reader.readuntil(b"\r\n0\r\n\r\n")
        event = next(line for line in rest.split(b"\n") if line.startswith(b"data: "))
        assert json.loads(event[6:])["error"]["code"] == "engine_start_failed"


async def test_a_request_that_is_no_stream_waits_in_silence(house: House, roads: Roads) -> None:
    await house.model("vision", saying("vision"), residency=Residency.ABSENT)
    gate = starting(house, "vision")
    await roads.open("vision", limits=Limits(tick=0.01, comment_interval=0.01))
    async with await house.client() as client:
        client.post(CHAT, b'{"model":"vision"}')
        await asyncio.sleep(0.1)
        gate.set()
        reply = await client.reply()
    assert (who(reply), reply.fields["content-type"]) == ("vision", "application/json")
