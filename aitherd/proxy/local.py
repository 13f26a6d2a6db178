"""Requests that the daemon answers itself: what there is, how it fares, and bringing models in and out."""

from __future__ import annotations

import asyncio
import math
import socket
from importlib import import_module
from time import monotonic, time
from urllib.parse import parse_qs

from aitherd import __version__
from aitherd.conductor.operations import ModelStatus
from aitherd.core.words import Residency, ResidencyClass
from aitherd.errors import AitherError
from aitherd.proxy.answers import Answer, error_answer, json_answer, model_list, model_object, running, tier_object
from aitherd.proxy.exchange import ClientSide, Context, Exchange
from aitherd.proxy.pages import FILES, page_answer
from aitherd.proxy.refusals import BadRequest, BodyTooLarge, NotAllowed
from aitherd.proxy.routes import MODEL, SWAP, UNLOAD, Match
from aitherd.proxy.wire import CONTINUE, RequestHead

NO_STORE = b"Cache-Control: no-store\r\n"
MOST_HOURS = 24.0
"""How far back the history goes."""
_LOADED = frozenset({Residency.STARTING, Residency.READY, Residency.SLEEPING})


class Local(Exchange):
    """A request for one of the daemon's own routes. A body is read and ignored."""

    def __init__(self, context: Context, client: ClientSide, head: RequestHead, match: Match) -> None:
        super().__init__(context, client, head, match)
        self._route = match.route
        self._name = match.name
        self._demand: asyncio.Task[None] | None = None
        """What is withdrawn when the client leaves."""

    def begin(self) -> None:
        self._check(self.head.length or 0)
        if self.head.expects_continue and self.head.has_body:
            self.send(CONTINUE)

    def body(self, data: bytes) -> None:
        self.received += len(data)
        self._check(self.received)

    def _check(self, length: int) -> None:
        if length > self.context.limits.head:
            raise BodyTooLarge("this route takes no body")

    def end(self) -> None:
        self.complete = True
        operations = self.context.operations
        if self.route in FILES:
            self.answer(page_answer(self.route, self.head.field(b"if-none-match")))
        elif self._route is SWAP:
            self._swap()
        elif self._route is UNLOAD:
            self.model = operations.resolve(self._name)
            status = operations.status(self.model)
            if status.residency_class is ResidencyClass.ESSENTIAL:
                # Tools that make room unload whatever is listed; the essential model is not theirs to stop.
                raise NotAllowed(
                    f"{self.model} is essential", remedy=f"stop it with systemctl stop {status.model_unit}"
                )
            self.context.spawn(self._unload([status]))
        elif self._route is MODEL and (tier := self.context.routing.named.get(self._name)) is not None:
            self.answer(json_answer(tier_object(self._name, tier, self.context.started)))
        elif self._route is MODEL:
            status = operations.status(operations.resolve(self._name))
            self.answer(json_answer(model_object(self._name, status, self.context.started)))
        else:
            self._overview()

    def _overview(self) -> None:
        """The routes that show everything, and the one that unloads everything."""
        operations = self.context.operations
        match self.route:
            case "/health":
                problems = operations.problems()
                state = {"status": "unhealthy" if problems else "ok", "problems": problems}
                self.answer(json_answer(state, 503 if problems else 200))
            case "/api/page":
                self.context.spawn(self._about_page())
            case "/api/history":
                self._history()
            case "/running":
                self.answer(json_answer(running(operations.statuses(), time())))
            case "/metrics":
                self.context.spawn(self._scrape())
            case "/v1/models":
                self.answer(
                    json_answer(model_list(operations.statuses(), self.context.started, self.context.routing.named))
                )
            case "/api/models/unload":
                self.context.spawn(self._unload([status for status in operations.statuses() if _unloadable(status)]))
            case _:
                raise AssertionError(f"{self.route} is in the table of routes and nowhere else")

    async def _scrape(self) -> None:
        """Answers with the metrics. The library that writes them is loaded by the first, beside whatever streams."""
        await asyncio.to_thread(import_module, "aitherd.proxy.exposition")
        from aitherd.proxy.exposition import content_type, exposition

        self.context.access.write()
        accept = self.head.field(b"accept").decode("latin-1")
        pieces: list[bytes] = []
        for piece in exposition(self.context.metrics, self.context.scene(), accept):
            pieces.append(piece)
            await asyncio.sleep(0)
        self.answer(Answer(200, b"".join(pieces), content_type(accept)))

    async def _about_page(self) -> None:
        """What the page has to know besides the events."""
        about = {
            "version": __version__,
            "machine": socket.gethostname(),
            "may_stop": await self._may_stop(),
            "tiers": {name: [str(way) for way in tier.routes] for name, tier in self.context.routing.named.items()},
        }
        self.answer(json_answer(about, fields=NO_STORE))

    async def _may_stop(self) -> bool:
        # Where keys are needed over TCP, nobody comes this far without one.
        return self.context.callers.locked or await self.client.visitor.may_stop()

    def _history(self) -> None:
        given = parse_qs(self.head.query[1:].decode("latin-1")).get("hours", ["6"])[-1]
        try:
            hours = float(given)
        except ValueError:
            hours = math.nan
        if not 0 < hours <= MOST_HOURS:
            raise BadRequest(f"hours={given!r} is no number of hours", remedy=f"the last {MOST_HOURS:g} are kept")
        past = self.context.past
        self.answer(json_answer(past.since(time() - hours * 3600) if past is not None else {}, fields=NO_STORE))

    def _swap(self) -> None:
        """Brings a model in; the answer comes when it is ready, or with `?wait=0` at once."""
        self.model = self.context.operations.resolve(self._name)
        query = parse_qs(self.head.query[1:].decode("latin-1"))
        if query.get("wait", ["1"])[-1] in {"0", "false", "no"}:
            self.context.spawn(self._bring_in(answering=False))
            status = self.context.operations.status(self.model)
            self.answer(json_answer({"model": self.model, "state": str(status.residency)}, 202))
        else:
            self._demand = self.context.spawn(self._bring_in(answering=True))

    async def _bring_in(self, *, answering: bool) -> None:
        began = monotonic()
        try:
            await self.context.operations.start(self.model)
        except AitherError as error:
            answer = error_answer(error)
        else:
            self.waited = monotonic() - began
            status = self.context.operations.status(self.model)
            state = {"model": self.model, "state": str(status.residency), "waited_ms": int(self.waited * 1000)}
            answer = json_answer(state)
        self._demand = None
        if answering:
            # Without a waiting client an error is in the conductor's records, and in the model's status.
            self.answer(answer)

    async def _unload(self, statuses: list[ModelStatus]) -> None:
        """Stops models, each drained first. Goes on when the client leaves: half an unloading helps nobody."""
        if not await self._may_stop():
            self.refuse(
                NotAllowed(
                    "whoever stops models over TCP must be root or in the daemon's group",
                    remedy="use the Unix socket, an API key, or aitherctl stop",
                )
            )
            return
        operations = self.context.operations
        ends = await asyncio.gather(*(operations.stop(status.name) for status in statuses), return_exceptions=True)
        for end in ends:
            if isinstance(end, AitherError):
                self.refuse(end)
                return
            if isinstance(end, BaseException):
                raise end
        self.answer(json_answer({"msg": "ok", "unloaded": [status.name for status in statuses]}))

    def let_go(self) -> None:
        demand, self._demand = self._demand, None
        if demand is not None:
            demand.cancel()


def _unloadable(status: ModelStatus) -> bool:
    """Whether unloading everything means this one: it is loaded, and nobody has said that it must stay."""
    return status.residency in _LOADED and status.residency_class is not ResidencyClass.ESSENTIAL and not status.held
