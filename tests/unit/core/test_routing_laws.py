"""Laws of routing that hold for every tier, request and state of the house."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

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
from aitherd.core.upstreams import Reach, Route, Tier

ABILITIES = st.frozensets(st.sampled_from(["chat", "vision", "tools", "embeddings"]))
LOCALS = ("a", "b", "c")
REMOTES = (Route("x", "lan"), Route("y", "lan"), Route("z", "cloud"))
SENTENCE = st.sampled_from(["", "it is so"])
SECONDS = st.floats(0, 1000)

locals_ = st.builds(LocalView, st.booleans(), SECONDS, ABILITIES, SENTENCE, SENTENCE, st.sampled_from(State))
nodes = st.builds(
    NodeView, st.sampled_from(State), st.integers(0, 3), st.integers(1, 3), st.integers(1, 3),
    st.frozensets(st.sampled_from("xyz")), SENTENCE,
)  # fmt: skip
snapshots = st.builds(
    Snapshot,
    st.fixed_dictionaries(dict.fromkeys(LOCALS, locals_)),
    st.fixed_dictionaries(
        {
            name: st.builds(
                UpstreamView, st.just(reach), st.lists(nodes, min_size=1, max_size=3).map(tuple),
                st.none() | st.floats(-1, 1),
            )
            for name, reach in (("lan", Reach.LAN), ("cloud", Reach.CLOUD))
        }
    ),
    st.fixed_dictionaries(
        {entry: st.builds(RemoteView, st.just(entry.model), ABILITIES, st.booleans()) for entry in REMOTES}
    ),
)  # fmt: skip
entries = st.sampled_from([*map(Route, LOCALS), *REMOTES, Route("gone"), Route("gone", "gone")])
tiers = st.builds(
    Tier, st.just("t"), st.lists(entries, max_size=6, unique=True).map(tuple), SECONDS, st.sampled_from(Reach)
)
requests = st.builds(Request, ABILITIES, st.booleans())


@given(tiers, requests, snapshots)
def test_nothing_travels_further_than_it_may(tier: Tier, request: Request, snapshot: Snapshot) -> None:
    outcome = route(tier, request, snapshot)
    if isinstance(outcome, Decision):
        for one in outcome.candidates:
            assert (one.action is Action.SEND) == bool(one.route.upstream)
            if one.route.upstream:
                assert not request.local_only
                assert snapshot.upstreams[one.route.upstream].reach <= tier.leave


@given(tiers, requests, snapshots)
def test_nobody_answers_who_cannot(tier: Tier, request: Request, snapshot: Snapshot) -> None:
    outcome = route(tier, request, snapshot)
    if isinstance(outcome, Decision):
        for one in outcome.candidates:
            able = snapshot.remotes[one.route] if one.route.upstream else snapshot.locals[one.route.model]
            assert request.needs <= able.can


@given(tiers, requests, snapshots)
def test_a_ready_model_that_is_preferred_answers(tier: Tier, request: Request, snapshot: Snapshot) -> None:
    outcome = route(tier, request, snapshot)
    first = snapshot.locals.get(tier.routes[0].model) if tier.routes and not tier.routes[0].upstream else None
    if first is None or not first.ready or first.never or first.failed or first.circuit is State.OPEN:
        return
    if request.needs <= first.can:
        assert isinstance(outcome, Decision)
        assert (outcome.candidates[0].route, outcome.candidates[0].action) == (tier.routes[0], Action.USE)
        assert outcome.load == ""


@given(tiers, requests, snapshots)
def test_nobody_waits_for_what_cannot_come(tier: Tier, request: Request, snapshot: Snapshot) -> None:
    outcome = route(tier, request, snapshot)
    if isinstance(outcome, Decision):
        wanted = {one.route.model for one in outcome.candidates if not one.route.upstream} | {outcome.load} - {""}
        assert not any(snapshot.locals[name].never or snapshot.locals[name].failed for name in wanted)


@given(tiers, requests, snapshots)
def test_no_wait_is_longer_than_the_patience_while_somebody_else_could_answer(
    tier: Tier, request: Request, snapshot: Snapshot
) -> None:
    outcome = route(tier, request, snapshot)
    if not isinstance(outcome, Decision):
        return
    answers = [index for index, one in enumerate(outcome.candidates) if one.action is not Action.WAIT]
    for index, one in enumerate(outcome.candidates):
        if one.action is Action.WAIT and any(later > index for later in answers):
            assert one.bound == tier.patience
            assert snapshot.locals[one.route.model].seconds <= tier.patience


@given(tiers, requests, snapshots)
def test_spent_open_and_full_upstreams_are_left_alone(tier: Tier, request: Request, snapshot: Snapshot) -> None:
    outcome = route(tier, request, snapshot)
    if isinstance(outcome, Decision):
        for one in outcome.candidates:
            if one.action is Action.SEND:
                upstream = snapshot.upstreams[one.route.upstream]
                node = upstream.nodes[one.node]
                assert node.circuit is not State.OPEN
                assert node.in_flight < node.concurrency
                assert not (snapshot.remotes[one.route].priced and upstream.left is not None and upstream.left <= 0)


@given(tiers, requests, snapshots)
def test_the_same_question_has_the_same_answer_and_a_refusal_says_why(
    tier: Tier, request: Request, snapshot: Snapshot
) -> None:
    outcome = route(tier, request, snapshot)
    assert outcome == route(tier, request, snapshot)
    if isinstance(outcome, NoRoute):
        assert outcome.why
    else:
        assert outcome.candidates
        assert len({(one.route, one.node) for one in outcome.candidates}) == len(outcome.candidates)
