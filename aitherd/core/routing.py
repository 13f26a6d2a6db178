"""From what a request asks for to who may answer it, from values in memory only.

Names become models or tiers (`Catalogue`), and a tier with a snapshot of what is known becomes an ordered list of
candidates (`route`). What a candidate's failure means is in `retries.py`; how names are written in HTTP the proxy's
business, what a model's residency means for bringing it in the conductor's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from aitherd.core.circuit import State
from aitherd.core.stickiness import TYPICAL, Home, pays
from aitherd.core.upstreams import PLAIN, Abilities, Reach, Route, Tier
from aitherd.core.words import Bytes, Seconds, format_seconds


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The names that may be asked for."""

    names: Mapping[str, str]
    """From each model's name, and each name that it serves, to the model."""

    def resolve(self, name: str) -> str | None:
        """The model that `name` stands for, or None. Names are compared as they are written."""
        return self.names.get(name)


def nearest(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Up to three of `names` that may have been meant by `name`, the likeliest first."""
    # Only a request for an unknown name pays for this import.
    import difflib

    written = {known.casefold(): known for known in sorted(names, reverse=True)}
    return tuple(written[match] for match in difflib.get_close_matches(name.casefold(), sorted(written), n=3))


@dataclass(frozen=True, slots=True)
class LocalView:
    """A model of this machine, as routing sees it."""

    ready: bool
    seconds: Seconds = 0.0
    """Expected until it could answer; 0 when ready."""
    can: Abilities = PLAIN
    never: str = ""
    """Why it can never be loaded; empty when it can."""
    failed: str = ""
    """Why it is not tried now although it could be loaded; empty when nothing keeps it."""
    circuit: State = State.CLOSED
    """Whether its engine has been answering the proxy lately."""
    full: bool = False
    """Whether it has as many requests as it is given at once, so that one more would wait for its turn."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node of an upstream."""

    circuit: State = State.CLOSED
    in_flight: int = 0
    weight: int = 1
    concurrency: int = 64
    models: frozenset[str] = frozenset()
    """Names that it lists; empty when that is not known."""
    reason: str = ""
    """Why its circuit is open."""
    latency: Seconds = 0.0
    """From a request to the first byte of its answer; 0 when that is not known."""


@dataclass(frozen=True, slots=True)
class UpstreamView:
    """One upstream."""

    reach: Reach
    nodes: tuple[NodeView, ...]
    left: float | None = None
    """What may still be spent today; None without a bound."""


@dataclass(frozen=True, slots=True)
class RemoteView:
    """A model of an upstream."""

    name: str
    """As the upstream calls it."""
    can: Abilities
    priced: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is known, about the routes of one tier at least."""

    locals: Mapping[str, LocalView] = field(default_factory=dict)
    upstreams: Mapping[str, UpstreamView] = field(default_factory=dict)
    remotes: Mapping[Route, RemoteView] = field(default_factory=dict)
    home: Home | None = None
    """Where the request's conversation has its cache."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a request asks of routing."""

    needs: Abilities = frozenset()
    local_only: bool = False
    """It forbids leaving this machine."""
    conversation: str = ""
    """The same for all requests that go on with what was said before; empty when there is no telling."""
    size: Bytes = 0
    """Of its body."""


class Action(Enum):
    """How a candidate is used."""

    USE = "use"
    """A local model that is ready."""
    WAIT = "wait"
    """A local model that has to be brought in first."""
    SEND = "send"
    """A node of an upstream."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to answer a request."""

    route: Route
    action: Action
    why: str
    node: int = 0
    """Index of the upstream's node, to SEND."""
    bound: Seconds | None = None
    """How long to WAIT; None for as long as is configured for any request."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Who may answer, in order."""

    candidates: tuple[Candidate, ...]
    """Never empty."""
    load: str = ""
    """The local model to bring in meanwhile, so that the next request comes home; empty for none."""
    skipped: tuple[str, ...] = ()
    """Why other routes are not among them, for people."""


@dataclass(frozen=True, slots=True)
class NoRoute:
    """Nobody may answer."""

    why: str
    for_ever: bool
    """Whether none of the tier's routes may or can answer such a request, whatever their state."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a request would go now, for whoever asks."""

    asked: str
    tier: str
    """Empty for a model asked for by its name."""
    outcome: Decision | NoRoute
    places: tuple[str, ...] = ()
    """Of each candidate, the address that it is sent to; empty for a model of this machine."""


def by_name(model: str, local: LocalView) -> Decision | NoRoute:
    """What becomes of a request for a model of this machine by its name: it knows no other way."""
    if local.never or local.failed:
        return NoRoute(local.never or local.failed, bool(local.never))
    if local.ready:
        return Decision((Candidate(Route(model), Action.USE, "ready"),))
    return Decision((Candidate(Route(model), Action.WAIT, _expected(model, local)),))


def route(tier: Tier, request: Request, snapshot: Snapshot) -> Decision | NoRoute:
    """Who may answer `request` by `tier`, in order.

    Routes come in the tier's order. A local model that is not ready, and would take longer than the tier's patience,
    goes behind every route that can answer now: the first of those is the bridge, and the model is brought in
    meanwhile. One that is ready, but has as many requests as it is given at once, goes behind them as well.
    """
    now: list[Candidate] = []
    later: list[Candidate] = []
    skipped: list[str] = []
    for_ever = True
    load = ""
    for entry in tier.routes:
        reach = snapshot.upstreams[entry.upstream].reach if entry.upstream in snapshot.upstreams else Reach.LOCAL
        refusal = _forbidden(tier, request, entry, reach) or _unable(request, entry, snapshot)
        if refusal:
            skipped.append(refusal)
        elif entry.upstream:
            for_ever = False
            found, reason = _send(entry, snapshot)
            now.extend(found)
            if reason:
                skipped.append(reason)
        else:
            for_ever = False
            local = snapshot.locals[entry.model]
            if local.never:
                skipped.append(local.never)
            elif local.failed or (local.ready and local.circuit is State.OPEN):
                skipped.append(local.failed or f"{entry.model} does not answer")
            elif local.ready and local.full:
                later.append(Candidate(entry, Action.USE, "ready, and all its turns are taken"))
            elif local.ready:
                now.append(Candidate(entry, Action.USE, "ready"))
            else:
                load = load or ("" if now else entry.model)
                waiting = Candidate(entry, Action.WAIT, _expected(entry.model, local))
                (now if local.seconds <= tier.patience else later).append(waiting)
    candidates = (*_bounded(now, later, tier.patience), *later)
    if not candidates:
        return NoRoute("; ".join(skipped) or f"the tier {tier.name} has no routes", for_ever)
    if candidates[0].action is Action.WAIT and len(candidates) == 1:
        load = ""
    return Decision(_at_home(candidates, snapshot), load, tuple(skipped))


def _bounded(now: list[Candidate], later: list[Candidate], patience: Seconds) -> Iterator[Candidate]:
    """Waiting ends with the tier's patience where another route is left."""
    last = len(now) + len(later) - 1
    for index, one in enumerate(now):
        if one.action is Action.WAIT and index < last:
            yield Candidate(one.route, one.action, one.why, bound=patience)
        else:
            yield one


def _expected(model: str, local: LocalView) -> str:
    return f"{model} is expected in {format_seconds(local.seconds)}"


def _at_home(candidates: tuple[Candidate, ...], snapshot: Snapshot) -> tuple[Candidate, ...]:
    """The candidates with that first where the conversation has its cache, if that can answer now and it pays."""
    home, first = snapshot.home, candidates[0]
    found = next((one for one in candidates if home and (one.route, one.node) == (home.route, home.node)), None)
    if home is None or found is None or found is first or found.action is Action.WAIT:
        return candidates
    if found.action is Action.USE and snapshot.locals[found.route.model].full:
        return candidates
    upstream = snapshot.upstreams.get(found.route.upstream)
    if upstream is not None and upstream.nodes[found.node].circuit is not State.CLOSED:
        return candidates
    farther = _reach(found, snapshot) - _reach(first, snapshot)
    costs = _priced(found, snapshot) and not _priced(first, snapshot)
    if not pays(home, farther=farther, waiting=_delay(found, snapshot) - _delay(first, snapshot), costs=costs):
        return candidates
    staying = replace(found, why=f"{found.why}, where its conversation is")
    return (staying, *(one for one in candidates if one is not found))


def _reach(candidate: Candidate, snapshot: Snapshot) -> Reach:
    upstream = snapshot.upstreams.get(candidate.route.upstream)
    return Reach.LOCAL if upstream is None else upstream.reach


def _priced(candidate: Candidate, snapshot: Snapshot) -> bool:
    return bool(candidate.route.upstream) and snapshot.remotes[candidate.route].priced


def _delay(candidate: Candidate, snapshot: Snapshot) -> Seconds:
    """Expected until an answer begins, for what is under way there or has to be loaded first."""
    if candidate.action is Action.SEND:
        node = snapshot.upstreams[candidate.route.upstream].nodes[candidate.node]
        return node.in_flight / node.weight * (node.latency or TYPICAL)
    return snapshot.locals[candidate.route.model].seconds


def _forbidden(tier: Tier, request: Request, entry: Route, reach: Reach) -> str:
    if entry.upstream and request.local_only:
        return f"{entry} is not on this machine, and the request must not leave it"
    if reach > tier.leave:
        return f"{entry} is in the {reach}, where the tier {tier.name} does not go"
    return ""


def _unable(request: Request, entry: Route, snapshot: Snapshot) -> str:
    """Why a route cannot answer a request of that kind at all."""
    can: Abilities | None = None
    if entry.upstream:
        if entry in snapshot.remotes and entry.upstream in snapshot.upstreams:
            can = snapshot.remotes[entry].can
    elif entry.model in snapshot.locals:
        can = snapshot.locals[entry.model].can
    if can is None:
        return f"{entry} is not configured"
    lacking = request.needs - can
    return f"{entry} cannot do {', '.join(sorted(lacking))}" if lacking else ""


def _send(entry: Route, snapshot: Snapshot) -> tuple[list[Candidate], str]:
    """The nodes that may be sent to, the least busy for its weight first, or why there is none."""
    upstream = snapshot.upstreams[entry.upstream]
    remote = snapshot.remotes[entry]
    if remote.priced and upstream.left is not None and upstream.left <= 0:
        return [], f"{entry.upstream} has spent its cap of today"
    found: list[tuple[bool, float, int]] = []
    reason = ""
    for index, node in enumerate(upstream.nodes):
        if node.circuit is State.OPEN:
            reason = f"{entry.upstream} is given a rest" + (f": {node.reason}" if node.reason else "")
        elif node.in_flight >= node.concurrency:
            reason = f"{entry.upstream} answers {node.in_flight} requests already"
        elif node.models and remote.name not in node.models:
            reason = f"{entry.upstream} does not list {remote.name}"
        else:
            # A node that has to prove itself comes first: otherwise nothing would ever try it.
            found.append((node.circuit is not State.HALF_OPEN, node.in_flight / node.weight, index))
    where = f"{upstream.reach} upstream {entry.upstream}"
    ordered = [Candidate(entry, Action.SEND, where, node=index) for _, _, index in sorted(found)]
    return ordered, "" if ordered else reason
