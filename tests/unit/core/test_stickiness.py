"""Where conversations go on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitherd.core.circuit import State
from aitherd.core.routing import (
    Action,
    Decision,
    LocalView,
    NodeView,
    RemoteView,
    Request,
    Snapshot,
    UpstreamView,
    route,
)
from aitherd.core.stickiness import FARTHER, KEPT, READ, WARM_FOR, Home, Homes, pays
from aitherd.core.upstreams import PLAIN, Reach, Route, Tier

VISION, SPARK, CLOUD = Route("vision"), Route("reasoning", "spark"), Route("gpt-x", "cloud")
TIER = Tier("standard", (VISION, SPARK, CLOUD), patience=5.0, leave=Reach.CLOUD)
HOUSE = Snapshot(
    {"vision": LocalView(ready=True)},
    {"spark": UpstreamView(Reach.LAN, (NodeView(), NodeView())), "cloud": UpstreamView(Reach.CLOUD, (NodeView(),))},
    {SPARK: RemoteView("reasoning", PLAIN), CLOUD: RemoteView("gpt-x", PLAIN)},
)


def first(home: Home | None, snapshot: Snapshot = HOUSE) -> str:
    """Who answers first."""
    outcome = route(TIER, Request(frozenset({"chat"})), replace(snapshot, home=home))
    assert isinstance(outcome, Decision)
    return f"{outcome.candidates[0].route}#{outcome.candidates[0].node}"


def spark(*nodes: NodeView) -> Snapshot:
    """The house with other nodes, and no model of its own."""
    upstreams = {**HOUSE.upstreams, "spark": UpstreamView(Reach.LAN, nodes)}
    return replace(HOUSE, locals={"vision": LocalView(ready=False, seconds=60.0)}, upstreams=upstreams)


def test_a_long_conversation_stays_on_the_bridge_and_a_short_one_comes_home() -> None:
    assert first(Home(SPARK, 0, FARTHER + 0.1)) == "spark/reasoning#0"
    assert first(Home(SPARK, 0, FARTHER)) == "vision#0"
    assert first(None) == "vision#0"


def test_the_farther_away_the_cache_is_the_more_it_has_to_save() -> None:
    assert first(Home(CLOUD, 0, 1.5 * FARTHER)) == "vision#0"
    assert first(Home(CLOUD, 0, 2.5 * FARTHER)) == "cloud/gpt-x#0"


def test_no_time_saved_is_worth_money() -> None:
    priced = replace(HOUSE, remotes={**HOUSE.remotes, CLOUD: RemoteView("gpt-x", PLAIN, priced=True)})
    assert first(Home(CLOUD, 0, 1000.0), priced) == "vision#0"


def test_of_two_nodes_the_one_with_the_cache_answers_until_it_is_too_busy() -> None:
    home = Home(SPARK, 1, 3.0)
    for busy, latency, expected in ((0, 1.0, 1), (2, 1.0, 1), (3, 1.0, 0), (3, 0.5, 1), (9, 0.0, 0)):
        nodes = spark(NodeView(), NodeView(in_flight=busy, latency=latency))
        assert first(home, nodes) == f"spark/reasoning#{expected}"


@pytest.mark.parametrize("circuit", [State.OPEN, State.HALF_OPEN])
def test_a_node_that_is_not_well_is_no_home(circuit: State) -> None:
    snapshot = spark(NodeView(), NodeView(circuit=circuit))
    outcome = route(TIER, Request(frozenset({"chat"})), replace(snapshot, home=Home(SPARK, 1, 1000.0)))
    assert isinstance(outcome, Decision)
    assert "conversation" not in outcome.candidates[0].why


def test_a_model_that_was_stopped_has_no_cache() -> None:
    loading = replace(HOUSE, locals={"vision": LocalView(ready=False, seconds=60.0)})
    assert first(Home(VISION, 0, 1000.0), loading) == "spark/reasoning#0"


def test_a_conversation_here_stays_here_and_who_stays_is_told_why() -> None:
    assert first(Home(VISION, 0, 1000.0)) == "vision#0"
    outcome = route(TIER, Request(), replace(HOUSE, home=Home(SPARK, 1, 100.0)))
    assert isinstance(outcome, Decision)
    assert outcome.candidates[0].why == "lan upstream spark, where its conversation is"
    assert [one.action for one in outcome.candidates[1:]] == [Action.USE, Action.SEND, Action.SEND]


def test_the_cache_of_a_conversation_cools() -> None:
    homes = Homes()
    homes.settle("c", SPARK, 1, int(READ) * 3, 0.0)
    assert homes.find("c", WARM_FOR) == Home(SPARK, 1, 3.0)
    assert homes.find("c", WARM_FOR + 1) is None
    assert homes.find("d", 0.0) is None
    homes.settle("c", VISION, 0, int(READ), WARM_FOR)
    assert homes.find("c", WARM_FOR + 1) == Home(VISION, 0, 1.0)


def test_of_too_many_conversations_the_longest_silent_is_forgotten() -> None:
    homes = Homes()
    for number in range(KEPT):
        homes.settle(str(number), SPARK, 0, 1, 0.0)
    homes.settle("0", SPARK, 0, 1, 1.0)
    homes.settle("new", SPARK, 0, 1, 1.0)
    assert len(homes) == KEPT
    assert homes.find("0", 1.0) and homes.find("new", 1.0) and homes.find("1", 1.0) is None


@given(st.floats(0, 100), st.integers(-2, 2), st.floats(-10, 10), st.booleans())
def test_what_is_worse_about_home_never_makes_staying_pay(
    saves: float, farther: int, waiting: float, costs: bool
) -> None:
    home = Home(SPARK, 0, saves)
    if pays(home, farther=farther, waiting=waiting, costs=costs):
        assert pays(home, farther=farther - 1, waiting=waiting - 1, costs=False)
        assert not costs
