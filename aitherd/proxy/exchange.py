"""One request and its answer, as far as every kind has it in common; and what all exchanges of a proxy share.

Who answers is decided by the subclass: an engine (`relay.py`) or the daemon itself (`local.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, Protocol

from aitherd.conductor.operations import Leasing, Operations, Past
from aitherd.conductor.records import Records
from aitherd.core.callers import ANYBODY, Caller, Standing
from aitherd.core.words import Bytes, Seconds
from aitherd.errors import AitherError
from aitherd.proxy.access import AccessLog, Outcome
from aitherd.proxy.answers import Answer, error_answer
from aitherd.proxy.callers import Callers
from aitherd.proxy.events import Feed
from aitherd.proxy.limits import Limits
from aitherd.proxy.metrics import Metrics
from aitherd.proxy.origins import Hosts, Visitor
from aitherd.proxy.routes import Match
from aitherd.proxy.routing import Routing
from aitherd.proxy.scene import Scene
from aitherd.proxy.turns import Lane
from aitherd.proxy.upstream import Pool
from aitherd.proxy.wire import RequestHead

NOTHING: Mapping[str, Any] = MappingProxyType({})
_RENAMES_FOR: Seconds = 1.0
_COMPLETE: Final = Outcome.COMPLETE


class ClientSide(Protocol):
    """What an exchange, and the proxy, may do to the connection of a client."""

    visitor: Visitor

    def write(self, data: bytes, /) -> None:
        """Sends."""

    def pause(self) -> None:
        """Reads no more of the request's body."""

    def resume(self) -> None:
        """Reads on."""

    def done(self, *, keep: bool) -> None:
        """The exchange is over; `keep` says that another may follow."""

    def cut(self, *, hard: bool) -> None:
        """Ends the connection without completing the answer; `hard` without sending what is buffered."""

    def tick(self, now: Seconds) -> None:
        """Looks at every deadline; `now` is monotonic."""

    def drain(self) -> None:
        """Ends the connection as soon as nothing is under way on it."""

    def abort(self) -> None:
        """Refuses what is under way, and ends the connection."""


class Context:
    """What the exchanges of one proxy share."""

    def __init__(
        self,
        operations: Operations,
        limits: Limits,
        started: int,
        routing: Routing | None = None,
        callers: Callers | None = None,
        leasing: Leasing | None = None,
        records: Records | None = None,
        past: Past | None = None,
    ) -> None:
        self.operations = operations
        self.past = past
        self.hosts = Hosts(limits.hosts)
        self.leasing = leasing
        self.records = records
        self.routing = routing or Routing(operations)
        self.callers = callers or Callers()
        self.limits = limits
        self.started = started
        """Unix time."""
        self.pool = Pool(limits)
        self.metrics = Metrics()
        self.access = AccessLog(self.metrics, limits, past)
        self.events = Feed(operations, records, self.scene, limits, started)
        self.draining = False
        self.wind: Callable[[], None] = lambda: None
        """Has the deadlines of connections be looked at from now on."""
        self.clients: set[ClientSide] = set()
        """Open client connections."""
        self.no_clients = asyncio.Event()
        """Set while there are none."""
        self.no_clients.set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._renames: dict[str, tuple[Seconds, str | None]] = {}
        self._lanes: dict[str, tuple[Seconds, Lane | None]] = {}
        self.routing.full = self.full

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs `work`, which handles its own errors, until it ends or the proxy is drained."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def arrived(self, client: ClientSide) -> None:
        """A client connected."""
        self.clients.add(client)
        self.wind()
        self.metrics.connections += 1
        self.no_clients.clear()

    def left(self, client: ClientSide) -> None:
        """A client's connection is gone."""
        self.clients.discard(client)
        self.metrics.connections -= 1
        if not self.clients:
            self.no_clients.set()

    def scene(self) -> Scene:
        """All that there is to show now."""
        return Scene(
            self.operations.statuses(),
            self.operations.devices(),
            self.leasing.list() if self.leasing is not None else (),
            tuple(self.routing.samples()),
            self.operations.problems(),
            {str(event): count for event, count in self.records.counts.items()} if self.records is not None else {},
            {model: tally.tokens.total for model, tally in self.metrics.models.items()},
        )

    def rename(self, model: str) -> str | None:
        """The name that the engine of `model` has for a request that asked for it by the name of its file.

        None when the engine may be left to find out. Engines know the names that the model serves. What is served
        changes with the configuration only, so it is looked up once a second at most.
        """
        now = monotonic()
        known = self._renames.get(model)
        if known is None or known[0] < now:
            serves = self.operations.status(model).serves
            known = self._renames[model] = (now + _RENAMES_FOR, serves[0] if serves and model not in serves else None)
        return known[1]

    def lane(self, model: str) -> Lane | None:
        """Where requests of `model` take turns; None where they need not. Its bound is looked up once a second."""
        now = monotonic()
        known = self._lanes.get(model)
        if known is None or known[0] < now:
            status = self.operations.status(model)
            lane = known[1] if known is not None else None
            if status.concurrency is None:
                # Turns that are taken end in the lane that they were given in.
                lane = None
            else:
                lane = lane or Lane(model)
                lane.bound, lane.limit = status.concurrency, status.max_waiting
            known = self._lanes[model] = (now + _RENAMES_FOR, lane)
        return known[1]

    def full(self, model: str) -> bool:
        """Whether a request for `model` would have to wait for its turn."""
        lane = self.lane(model)
        return lane is not None and lane.full

    def served(self, model: str) -> str:
        """A name by which the engine of `model` knows it."""
        return self.rename(model) or model

    def account(self, exchange: Exchange) -> None:
        """Takes note of an exchange that ended."""
        exchange.seconds = monotonic() - exchange.began
        self.metrics.in_flight -= 1
        self.access.add(exchange)


class Exchange:
    """One request and its answer. On its own it can only refuse; subclasses answer."""

    model = ""
    """Empty until it is known, and for requests that are about none."""
    first_byte: Seconds | None = None
    """From `began` to the answer's head."""
    waited: Seconds | None = None
    """How long it waited for its model; None before it has one."""
    received: Bytes = 0
    """Of the request's body."""
    sent: Bytes = 0
    """To the client, heads included."""
    status = 0
    """Of the answer; 0 before there is one."""
    complete = False
    """Whether the whole request has been received."""
    seconds: Seconds = 0.0
    """How long it took, once it is over."""
    said: Mapping[str, Any] = NOTHING
    """Further fields of its record."""
    outcome: Outcome = _COMPLETE
    over = False
    tunnelling = False
    standing: Standing | None = None
    """Of whoever asks, while the request counts against its quota."""
    caller: Caller = ANYBODY

    def __init__(self, context: Context, client: ClientSide, head: RequestHead, match: Match | None) -> None:
        self.context = context
        self.client = client
        self.head = head
        self.route = "" if match is None else match.route.name
        self.began: Seconds = monotonic()
        context.metrics.in_flight += 1

    def begin(self) -> None:
        """The head is known. May raise AitherError to refuse, as `body` and `end` may."""

    def body(self, data: bytes) -> None:
        """A piece of the body came."""
        self.received += len(data)

    def end(self) -> None:
        """The request is complete."""
        self.complete = True

    def from_client(self, data: bytes) -> None:
        """Bytes of a tunnel came from the client."""

    def client_full(self) -> None:
        """The client reads slower than it is written to."""

    def client_drained(self) -> None:
        """The client has caught up."""

    def client_lost(self) -> None:
        """The client is gone."""
        if not self.over:
            self._end(Outcome.COMPLETE if self.tunnelling else Outcome.LEFT)

    def tick(self, now: Seconds) -> None:
        """Time has passed; `now` is monotonic."""

    def let_go(self) -> None:
        """Gives back whatever the exchange holds. Called once, when it is over."""

    def answer(self, answer: Answer) -> None:
        """Answers in the daemon's own name, and is over. In the middle of another answer the client is cut instead."""
        if self.over:
            return
        if self.status:
            self.break_off(hard=False)
            return
        keep = self.keeps()
        data = answer.wire(head_only=self.head.method == b"HEAD", closing=not keep, keeping=keep and self.head.http10)
        self.status = answer.status
        self.first_byte = monotonic() - self.began
        self.send(data)
        self._end(_COMPLETE)
        self.client.done(keep=keep)

    def refuse(self, error: AitherError) -> None:
        """Answers with an error, and is over."""
        self.answer(error_answer(error, self.route))

    def break_off(self, *, hard: bool) -> None:
        """Cuts the client in the middle of its answer, and is over."""
        if not self.over:
            self._end(Outcome.BROKEN)
            self.client.cut(hard=hard)

    def finish(self, *, keep: bool) -> None:
        """The answer has been sent completely, and the exchange is over."""
        self._end(_COMPLETE)
        self.client.done(keep=keep)

    def keeps(self) -> bool:
        """Whether the client's connection can serve another request after this answer."""
        return self.complete and self.head.keep_alive and not self.context.draining

    def send(self, data: bytes) -> None:
        """Sends to the client."""
        self.sent += len(data)
        self.client.write(data)

    def _end(self, outcome: Outcome) -> None:
        self.over = True
        self.outcome = outcome
        standing, self.standing = self.standing, None
        if standing is not None:
            standing.leave()
        self.let_go()
        self.context.account(self)
