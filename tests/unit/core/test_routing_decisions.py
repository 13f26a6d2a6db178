"""Routing by example: who answers while what is going on. The laws are in `test_routing_laws.py`."""

from __future__ import annotations

from dataclasses import replace

from aitherd.core.circuit import State
from aitherd.core.routing import (
    Action,
    Decision,
    LocalView,
    NodeView,
    NoRoute,
    RemoteView,
    Request,
    Snapshot,
    UpstreamView,
    route,
)
from aitherd.core.upstreams import PLAIN, Reach, Route, Tier

VISION, SPARK, CLOUD = Route("vision"), Route("reasoning", "spark"), Route("gpt-x", "cloud")
TIER = Tier("standard", (VISION, SPARK, CLOUD), patience=5.0, leave=Reach.CLOUD)
NODE = NodeView()
HOUSE = Snapshot(
    {"vision": LocalView(ready=False, seconds=60.0)},
    {"spark": UpstreamView(Reach.LAN, (NODE,)), "cloud": UpstreamView(Reach.CLOUD, (NODE,), left=1.0)},
    {SPARK: RemoteView("reasoning", PLAIN), CLOUD: RemoteView("gpt-x-1", PLAIN, priced=True)},
)


def decided(tier: Tier = TIER, snapshot: Snapshot = HOUSE, request: Request | None = None) -> Decision:
    outcome = route(tier, request or Request(frozenset({"chat"})), snapshot)
    assert isinstance(outcome, Decision)
    return outcome


def local(**known: object) -> Snapshot:
    """The house with something else known about its model."""
    return replace(HOUSE, locals={"vision": replace(HOUSE.locals["vision"], **known)})  # type: ignore[arg-type]


def order(decision: Decision) -> list[tuple[str, Action]]:
    return [(str(one.route), one.action) for one in decision.candidates]


def test_while_the_local_model_loads_the_next_route_answers_and_the_load_goes_on() -> None:
    decision = decided()
    assert order(decision) == [
        ("spark/reasoning", Action.SEND),
        ("cloud/gpt-x", Action.SEND),
        ("vision", Action.WAIT),
    ]
    assert decision.load == "vision"


def test_a_wait_within_the_patience_comes_first_and_is_bounded() -> None:
    decision = decided(snapshot=local(seconds=4.0))
    assert order(decision)[0] == ("vision", Action.WAIT)
    assert decision.candidates[0].bound == 5.0
    assert decision.load == "vision"


def test_without_another_route_the_wait_has_the_ordinary_bound() -> None:
    for seconds in (4.0, 60.0):
        decision = decided(replace(TIER, routes=(VISION,)), local(seconds=seconds))
        assert [(one.action, one.bound) for one in decision.candidates] == [(Action.WAIT, None)]
        assert decision.load == ""


def test_a_model_that_can_never_be_loaded_is_passed_over_at_once() -> None:
    decision = decided(snapshot=local(never="vision needs 20 GiB of 12"))
    assert order(decision)[0] == ("spark/reasoning", Action.SEND)
    assert decision.load == ""
    assert decision.skipped == ("vision needs 20 GiB of 12",)


def test_a_request_that_must_stay_waits_for_the_local_model() -> None:
    decision = decided(request=Request(frozenset({"chat"}), local_only=True))
    assert order(decision) == [("vision", Action.WAIT)]


def test_an_image_goes_to_nobody_who_cannot_see() -> None:
    outcome = route(TIER, Request(frozenset({"chat", "vision"})), HOUSE)
    assert isinstance(outcome, NoRoute)
    assert outcome.for_ever
    assert "spark/reasoning cannot do vision" in outcome.why


def test_nodes_share_by_weight_and_one_that_has_to_prove_itself_is_tried() -> None:
    nodes = (NodeView(in_flight=2, weight=1), NodeView(in_flight=3, weight=2), NodeView(State.OPEN))
    house = replace(HOUSE, upstreams={**HOUSE.upstreams, "spark": UpstreamView(Reach.LAN, nodes)})
    assert [one.node for one in decided(snapshot=house).candidates[:2]] == [1, 0]
    nodes = (*nodes[:2], NodeView(State.HALF_OPEN))
    house = replace(HOUSE, upstreams={**HOUSE.upstreams, "spark": UpstreamView(Reach.LAN, nodes)})
    assert [one.node for one in decided(snapshot=house).candidates[:3]] == [2, 1, 0]


def test_a_spent_cap_and_a_model_that_is_not_listed_rule_a_route_out() -> None:
    spent = replace(HOUSE.upstreams["cloud"], left=0.0)
    listing = replace(HOUSE.upstreams["spark"], nodes=(NodeView(models=frozenset({"embed"})),))
    decision = decided(snapshot=replace(HOUSE, upstreams={"spark": listing, "cloud": spent}))
    assert order(decision) == [("vision", Action.WAIT)]
    assert decision.skipped == ("spark does not list reasoning", "cloud has spent its cap of today")


def test_a_refusal_for_now_is_not_one_for_ever() -> None:
    house = replace(local(failed="vision failed"), upstreams={
        name: replace(view, nodes=(NodeView(State.OPEN, reason="connection refused"),))
        for name, view in HOUSE.upstreams.items()
    })  # fmt: skip
    outcome = route(TIER, Request(), house)
    assert isinstance(outcome, NoRoute)
    assert not outcome.for_ever
    assert "connection refused" in outcome.why
