"""Anthropic's messages: passed through to whoever speaks them, a real llama-server above all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aitherd.core.upstreams import Reach, RemoteModel, Upstream
from aitherd.core.words import Endpoint, Residency
from aitherd.errors import StartFailed
from aitherd.proxy.limits import Limits
from tests.native.proxy.conftest import House
from tests.native.proxy.fleet import failing
from tests.native.proxy.test_cloud import cloud
from tests.native.proxy.test_tiers import ask, roads
from tests.native.proxy.tiers import EVENTS, JSON, KEY, Roads, always, saying
from tests.native.proxy.wires import Reply, ok, until

__all__ = ["cloud", "roads"]

MESSAGES = "/v1/messages"
TALK: dict[str, Any] = {"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
MESSAGE = (
    b'{"type":"message","content":[{"type":"text","text":"hi"}],"usage":{"input_tokens":1000,"output_tokens":100}}'
)
STREAM = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":400,'
    b'"cache_read_input_tokens":600,"output_tokens":1}}}\n\n'
    + b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"word"}}\n\n'
    * 200
    + b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":100}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)


def names(reply: Reply) -> list[str]:
    """The events of a stream, each once."""
    lines = reply.body.decode().splitlines()
    return list(dict.fromkeys(line.removeprefix("event: ") for line in lines if line.startswith("event: ")))


def speaking(**more: Any) -> dict[str, Any]:
    """An upstream of Anthropic's kind."""
    return {"key": "k", "key_header": "x-api-key", "can": frozenset({"messages", "vision", "tools"}), **more}


async def test_a_real_llama_server_answers_messages_by_its_name(house: House, server: Path) -> None:
    house.fleet.add("vision", Endpoint(socket=str(server)), serves=("qwen2.5-vl",))
    whole = await ask(house, "anthropic-version: 2023-06-01", "x-api-key: any", model="vision", path=MESSAGES, **TALK)
    assert (whole.status, whole.json()["type"], whole.json()["usage"]["output_tokens"]) == (200, "message", 4)
    stream = await ask(house, model="vision", path=MESSAGES, stream=True, **TALK)
    assert names(stream)[0] == "message_start" and names(stream)[-1] == "message_stop"
    count = await ask(house, model="vision", path=f"{MESSAGES}/count_tokens", **TALK)
    assert count.json()["input_tokens"] > 0


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
async def test_messages_reach_the_cloud_with_our_key_in_the_header_that_it_wants(
    house: House, roads: Roads, cloud: Upstream, header: str
) -> None:
    can = frozenset({"messages"})
    roads.upstreams["cloud"] = replace(cloud, key_header=header, models={"m": RemoteModel("qwen2.5-vl", can)})
    await roads.open("cloud/m")
    for stream in (False, True):
        reply = await ask(house, "x-api-key: the-clients", path=MESSAGES, stream=stream, **TALK)
        assert (reply.status, reply.whole) == (200, True)
        assert reply.fields["x-aither-upstream"] == "cloud/m"


async def test_no_key_of_a_client_is_passed_on_and_the_version_is_said(house: House, roads: Roads) -> None:
    engine = await roads.upstream("claude", always(ok(MESSAGE, JSON)), Reach.CLOUD, **speaking())
    await roads.open("claude/m")
    versions = []
    for fields in ((), ("anthropic-version: 2099-01-01", "anthropic-beta: tools", "x-api-key: mine", "Cookie: a=b")):
        assert (await ask(house, *fields, path=MESSAGES, **TALK)).status == 200
        sent = engine.requests[-1].fields
        assert sent["x-api-key"] == KEY
        assert not {"authorization", "cookie"} & sent.keys()
        versions.append((sent["anthropic-version"], sent.get("anthropic-beta")))
    assert versions == [("2023-06-01", None), ("2099-01-01", "tools")]


async def test_messages_only_go_where_they_are_spoken(house: House, roads: Roads) -> None:
    chat = await roads.upstream("spark", saying("spark"))
    engine = await roads.upstream("claude", always(ok(MESSAGE, JSON)), **speaking())
    await roads.open("spark/x", "claude/m")
    image = [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": ""}}]}]
    reply = await ask(house, path=MESSAGES, max_tokens=1, messages=image, tools=[{"name": "f"}])
    assert reply.fields["x-aither-upstream"] == "claude/m"
    assert "cannot do messages" in reply.fields["x-aither-reason"]
    assert chat.requests == [] and json.loads(engine.requests[0].body)["model"] == "m"


async def test_failures_have_anthropics_shape(house: House, roads: Roads) -> None:
    await roads.upstream("spark", saying("spark"))
    await roads.open("spark/x")
    reply = await ask(house, path=MESSAGES, **TALK)
    assert (reply.status, reply.json()["type"]) == (400, "error")
    assert reply.json()["error"]["type"] == "invalid_request_error"
    reply = await ask(house, model="nobody", path=MESSAGES, **TALK)
    assert (reply.status, reply.json()["error"]["type"]) == (404, "not_found_error")


async def test_an_error_event_under_a_200_is_a_failure_and_the_next_route_answers(house: House, roads: Roads) -> None:
    sorry = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
    await roads.upstream("one", always(ok(sorry, EVENTS)), **speaking())
    await roads.upstream("two", always(ok(STREAM, EVENTS)), **speaking())
    await roads.open("one/m", "two/m")
    reply = await ask(house, path=MESSAGES, stream=True, **TALK)
    assert reply.fields["x-aither-upstream"] == "two/m"
    assert names(reply)[-1] == "message_stop"


async def test_what_a_long_stream_of_messages_cost_is_counted_from_both_of_its_ends(house: House, roads: Roads) -> None:
    models = {"m": RemoteModel("m", frozenset({"messages"}), 1000.0, 10_000.0)}
    for name, answer in (("stream", ok(STREAM, EVENTS)), ("whole", ok(MESSAGE, JSON))):
        await roads.upstream(name, always(answer), Reach.CLOUD, **speaking(models=models))
    for name in ("stream", "whole"):
        routing = await roads.open(f"{name}/m")
        assert (await ask(house, path=MESSAGES, stream=name == "stream", **TALK)).status == 200
        await until(lambda routing=routing, name=name: routing.spend.today(name) == pytest.approx(2.0))  # type: ignore[misc]


async def test_a_failure_in_a_stream_that_waited_is_an_error_event(house: House) -> None:
    await house.model("vision", residency=Residency.ABSENT)
    house.fleet.starts["vision"] = failing(StartFailed("it does not start"), 0.3)
    await house.open(Limits(tick=0.02, comment_interval=0.05))
    reply = await ask(house, model="vision", path=MESSAGES, stream=True, **TALK)
    last = reply.body.decode().strip().split("\n\n")[-1].splitlines()
    assert last[0] == "event: error"
    assert json.loads(last[1].removeprefix("data: "))["error"]["type"] == "overloaded_error"
