"""One request relayed to the engine of a model, and the engine's answer relayed back.

How it goes: claim the model (at once if it is ready, else by a task that waits) → take a connection → send → pass the
answer on as it comes. Which model it is, the subclasses in `calls.py` find out. Each side is read only as fast as the
other takes it. Once the engine has sent a byte nothing is ever sent again; once the client has got a byte an error can
only be shown by cutting its connection, never by an end that looks like one.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from aitherd.conductor.operations import Use
from aitherd.core.retries import Failure
from aitherd.core.routing import Request
from aitherd.core.upstreams import Tier
from aitherd.core.words import Bytes, Seconds
from aitherd.errors import AitherError, QueueFull, WaitedTooLong
from aitherd.proxy.answers import MESSAGES, Answer
from aitherd.proxy.journey import Journey, RemoteUse
from aitherd.proxy.needs import streams
from aitherd.proxy.passing import Passing
from aitherd.proxy.refusals import UpstreamFailed, UpstreamSilent
from aitherd.proxy.turns import Turn
from aitherd.proxy.upstream import UpstreamConnection
from aitherd.proxy.waiting import Preface
from aitherd.proxy.wire import (
    END,
    LAST_CHUNK,
    ResponseEvent,
    ResponseHead,
    Switched,
    chunk,
    request_bytes,
    response_bytes,
)

_JOINED: Bytes = 64 * 1024
"""A body up to this size goes into one write with its head; a longer one is not copied for that."""


class Relay(Passing):
    """A request for a model. Subclasses set `model` and call `claim`, once."""

    _task: asyncio.Task[None] | None = None
    _turn: Turn | None = None
    """At a model that is given so many requests at once."""
    _resent = False
    """Whether sending the request again is out of the question: it was, or cannot be."""
    _journey: Journey | None = None
    """The way through a tier, for a request that asked for one."""
    _preface: Preface | None = None
    """What a stream was told while it waited for its model."""
    _looks = False
    """Whether one of those two has to see the answer."""
    _comment_at: Seconds = 0.0
    """Monotonic; 0 while the model is not waited for."""

    # The model and the way to it.

    def claim(self) -> None:
        """Claims the model and sends the request, now if the model is ready."""
        use = self.context.operations.try_use(self.model)
        if use is None:
            self._comment_at = monotonic() + self.context.limits.comment_interval
            self._task = self.context.spawn(self._wait(None))
        else:
            self.claimed(use)

    def travel(self, tier: Tier, request: Request) -> None:
        """Goes through a tier, to whoever of it answers."""
        self._journey = Journey(self.context.routing, self, tier, request)
        self._looks = True
        self._journey.depart()

    def await_model(self, bound: Seconds | None) -> None:
        """Claims the model, waiting for it up to `bound` seconds, and sends the request."""
        use = self.context.operations.try_use(self.model)
        if use is None:
            self._comment_at = self._comment_at or monotonic() + self.context.limits.comment_interval
            self._task = self.context.spawn(self._wait(bound))
        else:
            self.claimed(use)

    async def _wait(self, bound: Seconds | None) -> None:
        try:
            use = await self.context.operations.use(self.model, bound, self.caller)
        except AitherError as error:
            self._task = None
            self._failed(error, None)
        else:
            self._task = None
            self.claimed(use)

    def _failed(self, error: AitherError, failure: Failure | None) -> None:
        """There will be no answer from where the request is: another route of its tier, or a refusal."""
        if failure is not None:
            self._blame()
        if self.over or self._journey is None or not self._journey.failed(error, failure):
            self.refuse(error)

    def name(self, model: str, *, leaves: bool) -> None:
        """Puts a model's name into the body, for a request that goes through a tier. Subclasses that can do."""
        raise NotImplementedError

    def allow(self, first_byte: Seconds) -> None:
        """Sets the time by which something of the answer must have come, in seconds from now."""
        self._deadline = monotonic() + first_byte

    def claimed(self, use: Use | RemoteUse) -> None:
        """Sends the request to what was claimed."""
        self._comment_at = 0.0
        if self.over:
            use.release()
            return
        self._use = use
        self.waited = use.waited
        lane = None if type(use) is RemoteUse else self.context.lane(use.model)
        if lane is None:
            self._begin()
            return
        asked = monotonic()
        self._deadline = asked + self.context.limits.first_byte_timeout
        self._comment_at = asked + self.context.limits.comment_interval
        self._turn = Turn(self.caller, self._begin, self._turned_away)
        try:
            self._turn.join(lane)
        except QueueFull as error:
            self._turned_away(error)

    def _turned_away(self, error: AitherError) -> None:
        """The model has too many requests: another route of the tier, or a refusal."""
        self._failed(error, None)

    def _begin(self) -> None:
        """It is the request's turn: sends it."""
        use = self._use
        assert use is not None
        if self._turn is not None:
            use.waited += monotonic() - self._turn.since
            self.waited = use.waited
            self._comment_at = 0.0
        # A body that is streamed cannot be sent again, so it gets a connection that nobody can have closed meanwhile.
        connection = self.context.pool.take(use.endpoint) if self.complete else None
        if connection is None:
            self._task = self.context.spawn(self._connect(use))
        else:
            self._transmit(connection)

    async def _connect(self, use: Use | RemoteUse) -> None:
        try:
            connection = await self.context.pool.connect(use.endpoint)
        except AitherError as error:
            self._task = None
            self._failed(error, Failure.CONNECT)
        else:
            self._task = None
            if self.over:
                connection.drop()
            else:
                self._transmit(connection)

    def _transmit(self, connection: UpstreamConnection) -> None:
        head = self.head
        self._connection = connection
        self._deadline = monotonic() + self.context.limits.first_byte_timeout
        connection.open(self, head_only=head.method == b"HEAD")
        if self._journey is None:
            sent = request_bytes(head, self._target + head.query, connection.host, self.length)
        else:
            sent = self._journey.send(head, self._target, connection.host, self.length)
        parts = self.parts
        if not self.complete:
            # From here on the body is streamed, and cannot be sent a second time. The client is read again before the
            # engine may turn out to be full.
            self.parts = []
            self._resent = self.streamed = True
            self.client.resume()
        if self.length is None:
            parts = [chunk(part) for part in parts]
            if self.complete:
                parts.append(LAST_CHUNK)
        if self.length and self.length > _JOINED:
            connection.transport.write(sent)
            for part in parts:
                connection.transport.write(part)
        else:
            connection.transport.write(b"".join((sent, *parts)))

    # The answer.

    def answered(self, events: list[ResponseEvent]) -> None:
        """The engine sent something: passed on in one write."""
        if self._looks:
            events = self._looked_at(events)
            if not events:
                return
        if len(events) == 1 and type(data := events[0]) is bytes:
            # One more piece of a stream. As from now on its chunks need not be taken apart.
            if self._tokens is not None:
                self._tokens.passed(data)
            self.send(chunk(data) if self._chunked else data)
            self._stirred = True
            response, connection = self._response, self._connection
            if self._chunked and not self._looks and connection is not None and response is not None:
                connection.through = self._passed if response.length is None and response.delimited else None
            return
        out: list[bytes] = []
        body: list[bytes] = []
        ended = surplus = False
        for event in events:
            if ended:
                surplus = True
            elif type(event) is bytes:
                body.append(event)
            elif event is END:
                # Informational answers end as well.
                ended = self._response is not None
            elif type(event) is ResponseHead:
                if event.status >= 200:
                    out.append(self._answer_begins(event))
                elif event.status == 101:
                    self._switching(event)
                elif event.status != 100 and not self.head.http10:
                    out.append(response_bytes(event, b"", b""))
            elif type(event) is Switched:
                self._switched(event.rest)
            elif isinstance(event, AitherError):
                self._pass_on(out, body, ended=False)
                self._misspoke(event)
            if self.over:
                return
        self._pass_on(out, body, ended=ended)
        if ended:
            self._ended(reusable=not surplus)
        elif self._deadline:
            self._deadline = monotonic() + self.context.limits.stall_timeout

    def answered_whole(self, head: ResponseHead, body: bytes) -> None:
        """The engine sent all of its answer at once."""
        if self._looks or head.status < 200:
            self.answered([head, body, END])
            return
        begin = self._answer_begins(head)
        if self._tokens is not None:
            self._tokens.passed(body)
        self.send(begin + body)
        self._ended(reusable=True)

    def _looked_at(self, events: list[ResponseEvent]) -> list[ResponseEvent]:
        """What may be passed on of an answer that may still turn out to be none, or has to fit into a stream."""
        for event in events:
            self._blame(event.status if type(event) is ResponseHead else 0)
        if self._journey is not None:
            events = self._journey.sift(events)
            if self._journey.over and self._preface is None:
                self._looks = False
        if self._preface is not None and events:
            head, events = self._preface.adapt(events, self._who() if self._use is not None else b"")
            if head is not None:
                self._response = head
                self.first_byte = monotonic() - self.began
        return events

    def _ended(self, *, reusable: bool) -> None:
        """The engine's answer is complete and sent."""
        connection, response = self._connection, self._response
        assert response is not None
        self._connection = None
        if connection is not None:
            if reusable and self.complete and response.keep_alive and response.delimited:
                self.context.pool.give(connection)
            else:
                connection.drop()
        # The daemon may have begun to end since the head went out.
        self.finish(keep=self._keep and not self.context.draining)

    def _misspoke(self, error: AitherError) -> None:
        """The engine failed: shown to the client in the way that is left."""
        if self._response is None:
            self._failed(error, Failure.SILENT if isinstance(error, UpstreamSilent) else Failure.BROKEN)
        else:
            self._blame()
            # Where only the end of the connection ends the answer, an orderly one would look like the answer's.
            self.break_off(hard=self._response.length is None and not self._chunked)

    def upstream_lost(self, error: Exception | None) -> None:
        """The engine's connection is gone: the answer's end, another try, or a failure."""
        connection, self._connection = self._connection, None
        if self._journey is not None and error is None and (rest := self._journey.closed()) is not None:
            if rest:
                self.answered(rest)
        elif self.tunnelling:
            self.finish(keep=False)
        elif self._response is not None:
            if error is None and not self._response.delimited:
                self._pass_on([], [], ended=True)
                self._ended(reusable=False)
            else:
                self._misspoke(UpstreamFailed("the engine broke off"))
        elif connection is not None and connection.reused and not connection.heard and not self._resent:
            # The engine closed it before it can have seen the request, which is still at hand: once more.
            self._resent = True
            assert self._use is not None
            self._task = self.context.spawn(self._connect(self._use))
        else:
            self._failed(UpstreamFailed(f"the engine of {self.model} closed its connection unanswered"), Failure.BROKEN)

    # Time, the end.

    def tick(self, now: Seconds) -> None:
        if self._stirred:
            self._stirred = False
            if self._use is not None:
                self._use.moved()
            if self._deadline:
                self._deadline = now + self.context.limits.stall_timeout
        elif self._deadline and now >= self._deadline:
            if self._turn is not None and not self._turn.taken:
                self._failed(WaitedTooLong(f"its turn at {self.model} did not come in time", retry_after=1), None)
                return
            self._misspoke(UpstreamSilent(f"the engine of {self.model} did not answer in time", retry_after=1))
        elif self._comment_at and now >= self._comment_at:
            self._comment(now)

    def _comment(self, now: Seconds) -> None:
        """Tells a stream that its model is still waited for."""
        self._comment_at = now + self.context.limits.comment_interval
        if self._preface is None:
            if self.head.http10 or not self.complete or not streams(self.route, b"".join(self.parts)):
                self._comment_at = 0.0
                return
            self._preface = Preface(named=self.route.startswith(MESSAGES))
            self._looks = self._chunked = True
            self._keep = self.keeps()
            self.status = 200
            self.send(self._preface.head(self.model, keep=self._keep))
        self.send(self._preface.comment(self.model, now - self.began))

    def answer(self, answer: Answer) -> None:
        if self._preface is not None and self._response is None and not self.over:
            self.send(self._preface.failure(answer))
            self.finish(keep=self._keep and self.keeps())
        else:
            super().answer(answer)

    def let_go(self) -> None:
        self.parts = []
        if self._tokens is not None:
            self._tokens.ended()
        self.part()
        if self._journey is not None:
            self._journey.end()
            self.said = self._journey.said()

    def part(self) -> None:
        """Gives back whatever was claimed and connected."""
        self._deadline = self._comment_at = 0.0
        self._resent = self.streamed
        self._looks = self._journey is not None or self._preface is not None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.leave()
        use, self._use = self._use, None
        if use is not None:
            use.release()
