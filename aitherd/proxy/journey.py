"""The way of one request through its tier: from route to route until one answers, or none is left.

It ends with the first byte of an answer: what fails later fails. `core/routing.py` says where to go, `core/retries.py`
what a failure means, `judge.py` whether an answer is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Protocol

from aitherd.conductor.operations import Use
from aitherd.core.circuit import Circuit
from aitherd.core.retries import MATRIX, MAX_SENT, REST, Failure, rest_seconds
from aitherd.core.routing import Action, Candidate, Decision, NoRoute, Request
from aitherd.core.upstreams import Tier
from aitherd.core.words import Bytes, Seconds
from aitherd.errors import AitherError
from aitherd.proxy.addresses import Address, answer_fields
from aitherd.proxy.judge import Judge, Sentence
from aitherd.proxy.refusals import CannotServe, NoRouteLeft, UpstreamFailed
from aitherd.proxy.remotes import Peer, Remote
from aitherd.proxy.routing import Routing
from aitherd.proxy.spend import cost
from aitherd.proxy.wire import END, RequestHead, ResponseEvent, ResponseHead, request_bytes

REASON_MAX = 300
"""Characters of a reason in a header."""
TAIL: Bytes = 8192
"""How much of the end of an answer is kept for its account of tokens."""


class RemoteUse:
    """A request's claim on a node of an upstream (`operations.Use`)."""

    __slots__ = ("_open", "endpoint", "model", "peer", "waited", "why")

    def __init__(self, peer: Peer, route: str, waited: Seconds, why: str) -> None:
        self.peer = peer
        self.endpoint: Address = peer.address
        self.model = route
        self.waited = waited
        self.why = why
        self._open = True
        peer.begin()

    def moved(self) -> None:
        """What nodes do with a request, their circuits are told."""

    def failed(self) -> None:
        """The same."""

    def release(self) -> None:
        """Ends the claim. Calling it again does nothing."""
        if self._open:
            self._open = False
            self.peer.end()


class Traveller(Protocol):
    """What a journey may do with the relay whose request it is."""

    model: str
    over: bool
    streamed: bool
    """Whether the request's body was sent on as it came, so that it cannot be sent again."""

    def await_model(self, bound: Seconds | None) -> None:
        """Waits for the local model `model`, and sends the request there."""

    def claimed(self, use: Use | RemoteUse) -> None:
        """Sends the request to what was claimed."""

    def part(self) -> None:
        """Gives back the claim and the connection of a try that failed."""

    def name(self, model: str, *, leaves: bool) -> None:
        """Puts a model's name into the body; what `leaves` the machine is rid of what only it may say."""

    def allow(self, first_byte: Seconds) -> None:
        """Sets the time by which something of the answer must have come, in seconds from now."""

    def refuse(self, error: AitherError) -> None:
        """Answers with an error, and is over."""


class Journey:
    """One request on its way."""

    def __init__(self, routing: Routing, relay: Traveller, tier: Tier, request: Request) -> None:
        self._routing = routing
        self._relay = relay
        self._tier = tier
        self._request = request
        self._began = monotonic()
        self._tried: set[tuple[object, int]] = set()
        self._causes: list[str] = []
        """Why earlier routes did not answer."""
        self._sent = 0
        self._sent_at: Seconds = 0.0
        """When the try under way was sent."""
        self._at: Candidate | None = None
        self._remote: Remote | None = None
        self._peer: Peer | None = None
        self._trying: Circuit | None = None
        """That of where the request is under way, until it has been told how that went."""
        self._loads = ""
        """The local model that is brought in meanwhile."""
        self._counted = False
        """Whether the try under way is among those `sent`."""
        self._judge: Judge | None = None
        """While the answer is not judged."""
        self._tail = b""
        self._opening = b""
        """How the body of the answer began."""
        self._pieces = 0
        self._metering = False
        self._asked: Bytes = 0
        self.cost = 0.0
        """Of the answer, once it is over."""
        self.left = ""
        """How far the request travelled, if it left the machine."""
        routing.budget.earn()

    @property
    def over(self) -> bool:
        """Whether the rest of the answer may be passed on without being looked at."""
        return self._judge is None and self._trying is None and not self._metering

    # --- going ---------------------------------------------------------------------------------------------------

    def depart(self) -> None:
        """Takes the next route, or refuses when none is left."""
        outcome = self._routing.decide(self._tier, self._request)
        found = self._next(outcome)
        if found is None or isinstance(outcome, NoRoute):
            self._relay.refuse(self._nobody(outcome))
            return
        self._loads = outcome.load if outcome.load != found.route.model else ""
        if self._loads:
            self._routing.bring_in(self._loads, self._tier.name, str(found.route))
        elif found.route != self._tier.routes[0] and outcome.skipped and not self._causes:
            self._causes.append(outcome.skipped[0])
        self._take(found)

    def _next(self, outcome: Decision | NoRoute) -> Candidate | None:
        if isinstance(outcome, NoRoute):
            return None
        return next((one for one in outcome.candidates if (one.route, one.node) not in self._tried), None)

    def _take(self, candidate: Candidate) -> None:
        """Goes a route."""
        self._at = candidate
        relay = self._relay
        self._remote = self._peer = None
        self._counted = False
        if candidate.action is Action.SEND:
            remote = self._routing.remotes.by_name[candidate.route.upstream]
            peer = remote.peers[candidate.node]
            self._remote, self._peer, self._trying = remote, peer, peer.circuit
            self._tried.add((candidate.route, candidate.node))
            peer.circuit.begin(self._routing.clock())
            relay.model = str(candidate.route)
            relay.name(remote.upstream.model(candidate.route.model).name, leaves=True)
            relay.claimed(RemoteUse(peer, relay.model, self._waited(), self._because(candidate.why)))
            return
        relay.model = candidate.route.model
        relay.name(relay.model, leaves=False)
        if candidate.bound is None:
            self._tried.add((candidate.route, candidate.node))
        else:
            # The load goes on when the patience is over.
            self._routing.bring_in(relay.model, self._tier.name)
        relay.await_model(candidate.bound)

    def failed(self, error: AitherError, failure: Failure | None) -> bool:
        """A try failed before the client got a byte. True when the request goes on, by another route.

        None for `failure` says that the request was never sent: a model that cannot be had costs no try.
        """
        candidate, judge = self._at, self._judge
        assert candidate is not None
        self._causes.append(f"{candidate.route}: {error.message}")
        if failure is not None:
            self._note(failure, error, judge)
            if not self._again(failure):
                return False
            self._tried.add((candidate.route, candidate.node))
        elif candidate.bound is not None:
            # Nobody waits a second time while somebody else could answer.
            self._tier = replace(self._tier, patience=0.0)
        if self._next(self._routing.decide(self._tier, self._request)) is None:
            return False
        if failure is not None and not self._routing.budget.spend():
            return False
        self._judge = None
        self._relay.part()
        self.depart()
        return True

    def _again(self, failure: Failure) -> bool:
        """Whether the request may go elsewhere; where there was no connection it has not been sent yet."""
        if failure is Failure.CONNECT:
            return True
        return MATRIX[failure].again and self._sent < MAX_SENT and not self._relay.streamed

    def _note(self, failure: Failure, error: AitherError, judge: Judge | None) -> None:
        """Tells the node, or the model, that failed."""
        now = self._routing.clock()
        self._trying = None
        if self._peer is not None:
            rest = REST
            if judge is not None and judge.head is not None:
                rest = rest_seconds(judge.field(b"retry-after").decode("latin-1"))
            self._peer.failed(now, failure, error.message, rest)
            self._peer = None
        elif MATRIX[failure].breaks and self._at is not None:
            self._routing.circuit(self._at.route.model).failed(now, error.message)

    def _nobody(self, outcome: Decision | NoRoute) -> AitherError:
        why = [*self._causes, *((outcome.why,) if isinstance(outcome, NoRoute) else outcome.skipped)]
        text = f"nobody of the tier {self._tier.name} can answer: {'; '.join(why)}"
        if isinstance(outcome, NoRoute) and outcome.for_ever and not self._causes:
            return CannotServe(text, remedy="ask for another tier, or for less")
        return NoRouteLeft(text, retry_after=5.0)

    def _waited(self) -> Seconds:
        return monotonic() - self._began if self._causes else 0.0

    def _because(self, why: str) -> str:
        if self._loads:
            why = f"{why}, while {self._loads} loads"
        return f"{why}; {'; '.join(self._causes)}"[:REASON_MAX] if self._causes else why

    # --- the request ---------------------------------------------------------------------------------------------

    def send(self, head: RequestHead, target: bytes, host: bytes, length: int | None) -> bytes:
        """The head to send to where the journey is."""
        # A kept connection that was closed meanwhile is replaced without that being another try.
        self._sent += not self._counted
        self._counted = True
        self._sent_at = monotonic()
        self._judge = Judge()
        self._opening, self._tail, self._pieces, self._metering = b"", b"", 0, False
        if self._peer is None:
            self._trying = self._routing.begin(self._relay.model)
            return request_bytes(head, target + head.query, host, length)
        assert self._remote is not None
        upstream = self._remote.upstream
        self.left = str(upstream.reach)
        self._asked = length or 0
        self._relay.allow(upstream.first_byte_timeout)
        address = self._peer.address
        return request_bytes(
            replace(head, fields=address.fields(head.fields, head.path), upgrade=b""),
            address.target(target),
            host,
            length,
        )

    # --- the answer ----------------------------------------------------------------------------------------------

    def sift(self, events: list[ResponseEvent]) -> list[ResponseEvent]:
        """The events to pass on now: none while the answer is not judged, or when another route has been taken."""
        judge = self._judge
        if judge is None:
            if self._metering:
                self._meter(events)
            return events
        sentence = judge.hear(events)
        if sentence is Sentence.OPEN:
            return []
        if isinstance(sentence, Failure):
            return self._sentenced(judge, sentence)
        return self._good(judge)

    def closed(self) -> list[ResponseEvent] | None:
        """The connection ended in order: the events to pass on, if that ends an answer which was not judged yet."""
        judge = self._judge
        if judge is None or judge.head is None or judge.head.delimited:
            return None
        return self.sift([END])

    def _sentenced(self, judge: Judge, failure: Failure) -> list[ResponseEvent]:
        if judge.error is not None:
            # The relay reports it as it reports every answer that is not HTTP.
            return [judge.error]
        assert judge.head is not None
        status = judge.head.status
        said = f"it answered {status}" if failure not in (Failure.CUT, Failure.ERROR_BODY) else (
            "its answer is cut" if failure is Failure.CUT else "it answered 200 with an error"
        )  # fmt: skip
        remote = self._peer is not None
        if self.failed(UpstreamFailed(said, retry_after=1), failure):
            return []
        if failure is Failure.CUT or (failure is Failure.DENIED and remote):
            # A refusal of our key is none of the client's, and may say too much about it.
            return [UpstreamFailed(f"{self._relay.model}: {said}", retry_after=1)]
        self._judge = None
        return self._passed(judge)

    def _good(self, judge: Judge) -> list[ResponseEvent]:
        self._judge = self._trying = None
        if self._peer is not None:
            self._peer.answered(monotonic() - self._sent_at)
        elif self._at is not None:
            self._routing.well(self._at.route.model)
        if self._at is not None:
            self._routing.settle(self._request, self._at)
        return self._passed(judge)

    def _passed(self, judge: Judge) -> list[ResponseEvent]:
        events = judge.held
        if self._remote is not None:
            for event in events:
                if type(event) is ResponseHead:
                    event.fields = answer_fields(event.fields)
            self._metering = self._priced()
            if self._metering:
                self._meter(events)
        return events

    def _priced(self) -> bool:
        assert self._remote is not None and self._at is not None
        model = self._remote.upstream.model(self._at.route.model)
        return bool(model.prompt_price or model.answer_price)

    def _meter(self, events: list[ResponseEvent]) -> None:
        for event in events:
            if type(event) is bytes:
                if not self._opening:
                    self._opening = event[:TAIL]
                self._tail = (self._tail + event)[-TAIL:]
                self._pieces += event.count(b"data:")

    def end(self) -> None:
        """The request is over, however it ended."""
        if self._trying is not None:
            self._trying.abandon()
            self._trying = None
        if self._remote is None or self._at is None or not self._metering:
            return
        model = self._remote.upstream.model(self._at.route.model)
        tail = self._opening + self._tail if self._pieces else self._tail
        self.cost, _ = cost(model, self._asked, tail, self._pieces)
        self._routing.spent(self._remote.upstream.name, self.cost)
        self._metering = False

    def said(self) -> Mapping[str, object]:
        """What the record of the request says about its way: never anything of its content."""
        said: dict[str, object] = {"tier": self._tier.name, "tries": self._sent}
        if self.left:
            said["left"] = self.left
        if self.cost:
            said["cost"] = self.cost
        if self._causes:
            said["because"] = "; ".join(self._causes)[:REASON_MAX]
        return said
