"""Conversations stay where their cache is while that pays, and come home when it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from aitherd.core.stickiness import READ
from aitherd.core.words import Residency
from tests.native.proxy.conftest import House
from tests.native.proxy.test_tiers import CHAT, ask, roads, who
from tests.native.proxy.tiers import Roads, priced, saying

__all__ = ["roads"]

LONG, SHORT = "word " * int(READ), "hi"


def talk(opening: str, turns: int = 0) -> Sequence[dict[str, Any]]:
    """A conversation that has grown by so many turns."""
    said = [{"role": "system", "content": "be brief"}, {"role": "user", "content": opening}]
    for turn in range(turns):
        said += [{"role": "assistant", "content": f"answer {turn}"}, {"role": "user", "content": f"question {turn}"}]
    return said


async def bridge(house: House, roads: Roads, **spark: Any) -> None:
    """A tier whose local model is absent, and will be ready from the second request on."""
    await house.model("vision", saying("vision"), residency=Residency.ABSENT)
    await roads.upstream("spark", saying("spark"), **spark)
    await roads.open("vision", "spark/reasoning")


async def test_a_long_conversation_that_began_on_the_bridge_stays_there(house: House, roads: Roads) -> None:
    await bridge(house, roads)
    assert who(await ask(house, messages=talk(LONG))) == "spark"
    house.fleet.change("vision", residency=Residency.READY)
    reply = await ask(house, messages=talk(LONG, 1))
    assert who(reply) == "spark"
    assert reply.fields["x-aither-reason"] == "lan upstream spark, where its conversation is"
    # What is not this conversation comes home.
    assert who(await ask(house, messages=talk(LONG + "other"))) == "vision"


async def test_a_short_conversation_comes_home(house: House, roads: Roads) -> None:
    await bridge(house, roads)
    assert who(await ask(house, messages=talk(SHORT))) == "spark"
    house.fleet.change("vision", residency=Residency.READY)
    assert who(await ask(house, messages=talk(SHORT, 1))) == "vision"


async def test_a_conversation_does_not_stay_where_it_costs(house: House, roads: Roads) -> None:
    await bridge(house, roads, models=priced("reasoning"))
    assert who(await ask(house, messages=talk(LONG))) == "spark"
    house.fleet.change("vision", residency=Residency.READY)
    assert who(await ask(house, messages=talk(LONG, 1))) == "vision"


async def test_a_home_that_does_not_answer_is_left(house: House, roads: Roads) -> None:
    await bridge(house, roads)
    assert who(await ask(house, messages=talk(LONG))) == "spark"
    house.fleet.change("vision", residency=Residency.READY)
    await roads.engines["spark"].close()
    assert who(await ask(house, messages=talk(LONG, 1))) == "vision"
    assert who(await ask(house, messages=talk(LONG, 2))) == "vision"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ((), {}),
        (("X-Aither-Session: abc",), {}),
        ((), {"prompt_cache_key": "abc"}),
    ],
    ids=["by how it begins", "by its header", "by its cache key"],
)
async def test_each_turn_goes_to_the_node_of_the_one_before(
    house: House, roads: Roads, fields: tuple[str, ...], body: dict[str, Any]
) -> None:
    for name in ("one", "two"):
        await roads.upstream(name, saying(name))
    nodes = (roads.upstreams["one"].nodes[0], roads.upstreams.pop("two").nodes[0])
    roads.upstreams["one"] = replace(roads.upstreams["one"], nodes=nodes)
    routing = await roads.open("one/m")
    first = await ask(house, *fields, messages=talk(LONG), **body)
    assert who(first) == "one"
    busy, idle = routing.remotes.by_name["one"].peers
    busy.begin()
    assert who(await ask(house, *fields, messages=talk(LONG, 1), **body)) == "one"
    assert who(await ask(house, messages=talk(LONG + "other"))) == "two"
    # So many requests there that reading it anew elsewhere is quicker.
    busy.latency = 60.0
    assert who(await ask(house, *fields, messages=talk(LONG, 2), **body)) == "two"
    busy.end()
    idle.begin()
    assert who(await ask(house, *fields, messages=talk(LONG, 3), **body)) == "two"
    idle.end()
    assert not any("x-aither-session" in one.fields for one in house.engines["one"].requests)


async def test_a_model_asked_for_by_its_name_is_not_looked_at(house: House, roads: Roads) -> None:
    await house.model("vision", saying("vision"))
    routing = await roads.open("vision")
    assert who(await ask(house, "X-Aither-Session: abc", model="vision", path=CHAT, messages=talk(LONG))) == "vision"
    assert len(routing._homes) == 0
