"""The life of one client connection, from accept to close: whose turn it is, how long it may take, how it ends."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Mapping
from enum import Enum
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, cast

from aitherd.core.callers import Peer, Standing, in_no_hurry
from aitherd.core.words import Bytes, Seconds
from aitherd.errors import AitherError, ShuttingDown
from aitherd.proxy.answers import Answer, error_answer
from aitherd.proxy.callers import peer_of
from aitherd.proxy.calls import CALLS
from aitherd.proxy.event_stream import EventStream
from aitherd.proxy.exchange import Context, Exchange
from aitherd.proxy.local import Local
from aitherd.proxy.origins import Visitor
from aitherd.proxy.refusals import TooSlow, WrongMethod
from aitherd.proxy.relay import Relay
from aitherd.proxy.request_reader import RequestReader
from aitherd.proxy.routes import OPEN_TO_ALL, Handling, Match, find
from aitherd.proxy.wire import END, RequestEvent, RequestHead, Switched


class _Phase(Enum):
    """What a connection waits for."""

    IDLE = "idle"
    """The next request."""
    HEAD = "head"
    """The rest of a head."""
    EXCHANGE = "exchange"
    CLOSING = "closing"
    """The client's end: whatever it still sends is dropped."""


# Looking a member up in its enum is slow before Python 3.12, and these are looked at with every request.
_IDLE: Final = _Phase.IDLE
_HEAD: Final = _Phase.HEAD
_EXCHANGE: Final = _Phase.EXCHANGE
_CLOSING: Final = _Phase.CLOSING


_NONE: list[RequestEvent] = []
_EXCHANGES: Mapping[Handling, type[Relay | Local]] = MappingProxyType(
    {**CALLS, Handling.HERE: Local, Handling.EVENTS: EventStream}
)


class ClientConnection(asyncio.Protocol):
    """One connection of a client: one exchange at a time, what is pipelined behind it waits."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reader = RequestReader(context.limits)
        self._transport: asyncio.Transport = cast("Any", None)
        self.write: Callable[[bytes], None] = cast("Any", None)
        """Sends: the transport's own, since every piece of every answer goes through here."""
        self.visitor: Visitor = cast("Any", None)
        self._exchange: Exchange | None = None
        self._phase: _Phase = _IDLE
        self._deadline: Seconds = 0.0
        """Of the phase, monotonic; that of an exchange is reckoned from the two below."""
        self._body_since: Seconds = 0.0
        self._paused_since: Seconds = 0.0
        """0 while the client is read."""
        self._full_since: Seconds = 0.0
        """0 while the client takes what it is sent."""
        self._queue: list[RequestEvent] = []
        """Events of requests behind the one being answered."""
        self._handling = False
        self._raw = False
        """After an upgrade request: what comes is not HTTP, unless the upgrade is declined."""
        self._peer: Peer | None = None
        """Who is at the other end, of a Unix socket."""
        self._standing: Standing | None = None
        """Whose the last request was."""
        self._shown: tuple[bytes, int] = (b"", -1)
        """What that showed, and the version of the callers that it was held against."""
        self._settled: RequestHead | None = None
        """The last request's head, if it was let in: when it comes again, so is that, and goes the same way."""
        self._way: tuple[Match, type[Exchange], bool] = cast("Any", None)
        """That way: the route, who answers, and whether the request counts against its caller's quota."""
        self._held: list[bytes] = []
        self._held_bytes: Bytes = 0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.write = self._transport.write
        limits = self._context.limits
        self._transport.set_write_buffer_limits(high=limits.high_water)
        plug = transport.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.kernel_buffer)
        self._peer = peer_of(plug)
        self.visitor = Visitor(transport, remote=self._peer is None)
        if self._peer is None:
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._context.arrived(self)
        self._deadline = monotonic() + limits.keep_alive

    def data_received(self, data: bytes) -> None:
        if self._raw:
            self._receive_raw(data)
        elif self._phase is _IDLE and (body := self._reader.again(data)):
            self._begin_again(body)
        elif self._phase is not _CLOSING:
            # Nothing is read while something is queued, so this is about the exchange under way or the next.
            self._handle(self._reader.feed(data))

    def eof_received(self) -> bool | None:
        if self._exchange is not None:
            self._exchange.client_lost()
            self._transport.abort()
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._context.left(self)
        self._queue.clear()
        self._phase = _CLOSING
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_lost()

    def pause_writing(self) -> None:
        self._full_since = monotonic()
        if self._exchange is not None:
            self._exchange.client_full()

    def resume_writing(self) -> None:
        self._full_since = 0.0
        if self._exchange is not None:
            self._exchange.client_drained()
        elif self._phase is _IDLE and not self._handling:
            self._next()

    # What an exchange calls.

    def pause(self) -> None:
        if not self._paused_since and not self._transport.is_closing():
            self._paused_since = monotonic()
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._queue:
            return
        if self._paused_since:
            self._body_since += monotonic() - self._paused_since
            self._paused_since = 0.0
            if not self._transport.is_closing():
                self._transport.resume_reading()
        if self._raw and self._exchange is not None and self._exchange.tunnelling:
            held, self._held, self._held_bytes = self._held, [], 0
            for data in held:
                self._exchange.from_client(data)

    def done(self, *, keep: bool) -> None:
        exchange, self._exchange = self._exchange, None
        if not keep:
            self._close(lingering=exchange is not None and not exchange.complete)
            return
        self._phase = _IDLE
        self._deadline = monotonic() + self._context.limits.keep_alive
        if self._full_since:
            # Whatever it asks for next waits until it has taken this answer.
            self.pause()
        elif not self._handling and (self._queue or self._raw or self._reader.in_head or self._paused_since):
            self._next()

    def cut(self, *, hard: bool) -> None:
        self._exchange = None
        self._close(lingering=False)
        if hard:
            self._transport.abort()

    # What the proxy calls.

    def tick(self, now: Seconds) -> None:
        """Looks at every deadline."""
        limits = self._context.limits
        exchange = self._exchange
        if self._full_since and now - self._full_since >= limits.write_timeout:
            self._transport.abort()
        elif exchange is None:
            if now >= self._deadline:
                self._late()
        elif self._paused_since and _hung_up(self._transport):
            # A connection that is not read does not tell by itself that the client is gone.
            self._transport.abort()
        elif (
            not exchange.complete
            and not self._paused_since
            and now - self._body_since >= limits.body_grace + exchange.received / limits.body_rate
        ):
            exchange.refuse(TooSlow("the request's body came too slowly"))
        else:
            exchange.tick(now)

    def drain(self) -> None:
        """Ends the connection as soon as nothing is under way on it."""
        if self._exchange is None and self._phase is not _CLOSING:
            self._close(lingering=False)

    def abort(self) -> None:
        """Refuses what is under way, and ends the connection."""
        if self._exchange is not None:
            self._exchange.refuse(ShuttingDown("the daemon is shutting down", retry_after=1))
        if not self._transport.is_closing():
            self._transport.close()

    # Its own.

    def _late(self) -> None:
        if self._phase is _HEAD:
            self._refuse(TooSlow("the request's head came too slowly"))
        elif self._phase is _IDLE:
            self._close(lingering=False)
        else:
            self._transport.abort()

    def _handle(self, events: list[RequestEvent]) -> None:
        """Takes events in order, until one belongs to a request whose turn it is not yet."""
        self._handling = True
        while events:
            for index, event in enumerate(events):
                exchange = self._exchange
                if exchange is None:
                    if type(event) is RequestHead:
                        if self._full_since:
                            self.pause()
                            self._queue = events[index:]
                            break
                        self._begin(event)
                    elif isinstance(event, AitherError):
                        self._refuse(event)
                    elif type(event) is Switched:
                        self._upgrade_asked(event)
                elif not exchange.complete:
                    try:
                        if type(event) is bytes:
                            exchange.body(event)
                        elif event is END:
                            exchange.end()
                        elif isinstance(event, AitherError):
                            exchange.refuse(event)
                    except AitherError as error:
                        exchange.refuse(error)
                elif type(event) is Switched:
                    self._upgrade_asked(event)
                else:
                    self.pause()
                    self._queue = events[index:]
                    break
                if self._phase is _CLOSING:
                    break
            events = self._declined() if self._raw and self._exchange is None else _NONE
        self._handling = False
        if self._reader.in_head and self._phase is _IDLE:
            self._phase = _HEAD
            self._deadline = monotonic() + self._context.limits.header_timeout

    def _next(self) -> None:
        """The exchange is over and another may follow: what waits behind it."""
        events, self._queue = self._queue, []
        if self._raw:
            events = self._declined()
        self._handle(events)
        self.resume()

    def _declined(self) -> list[RequestEvent]:
        """The upgrade that was asked for did not happen: what came since is HTTP after all."""
        self._raw = False
        data, self._held, self._held_bytes = b"".join(self._held), [], 0
        self._reader.resume()
        return self._reader.feed(data) if data else []

    def _begin(self, head: RequestHead) -> None:
        self._phase = _EXCHANGE
        self._body_since = monotonic()
        context = self._context
        try:
            if head is not self._settled or context.callers.version != self._shown[1]:
                self._settle(head)
        except WrongMethod as error:
            exchange = self._exchange = Exchange(context, self, head, None)
            if head.method == b"OPTIONS":
                exchange.complete = not head.has_body
                exchange.answer(Answer(204, b"", fields=b"Allow: %b\r\n" % error.allow.encode()))
            else:
                exchange.refuse(error)
            return
        except AitherError as error:
            exchange = self._exchange = Exchange(context, self, head, None)
            exchange.refuse(error)
            return
        match, kind, counted = self._way
        exchange = self._exchange = kind(context, self, head, match)
        try:
            standing = self._standing
            if standing is not None:
                exchange.caller = standing.caller
                if head.wish is not None and head.wish.batch:
                    exchange.caller = in_no_hurry(standing.caller)
                if counted:
                    context.callers.enter(standing)
                    exchange.standing = standing
            exchange.begin()
        except AitherError as error:
            exchange.refuse(error)

    def _begin_again(self, body: bytes) -> None:
        """A whole request came, with a head that has been read before."""
        self._handling = True
        self._begin(self._reader.same)
        exchange = self._exchange
        if exchange is not None:
            try:
                exchange.body(body)
                exchange.end()
            except AitherError as error:
                exchange.refuse(error)
        self._handling = False

    def _settle(self, head: RequestHead) -> None:
        """Finds out whether a request is let in, whose it is and which way it goes. Raises AitherError if it is not."""
        context = self._context
        self._settled = None
        context.hosts.check(head, self.visitor)
        shown = (head.key, context.callers.version)
        if self._standing is None or shown != self._shown:
            self._standing = None
            if head.path not in OPEN_TO_ALL:
                self._standing = context.callers.standing(self._peer, head.key)
            self._shown = shown
        match = find(head.method, head.path)
        handling = match.route.handling
        self._way = match, _EXCHANGES[handling], handling is not Handling.HERE
        self._settled = head

    def _upgrade_asked(self, event: Switched) -> None:
        self._raw = True
        self._receive_raw(event.rest)

    def _receive_raw(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.tunnelling:
            exchange.from_client(data)
        elif data:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > self._context.limits.head:
                self.pause()

    def _refuse(self, error: AitherError) -> None:
        """Refuses what is not a request, and ends the connection."""
        answer = error_answer(error)
        self._context.metrics.count("", "", answer.status, 0.0, None, None)
        self._transport.write(answer.wire(head_only=False, closing=True, keeping=False))
        self._close(lingering=True)

    def _close(self, *, lingering: bool) -> None:
        """Ends the connection once what was written is sent.

        Lingering: closing while the client still sends would make the kernel reset the connection, and the client might
        never read the answer; so only our side is closed, and the client's is read and dropped for a while.
        """
        self._phase = _CLOSING
        self._raw = False
        self._queue.clear()
        if self._transport.is_closing():
            return
        now = monotonic()
        if lingering:
            self.resume()
            self._transport.write_eof()
            self._deadline = now + self._context.limits.linger
        else:
            self._transport.close()
            self._deadline = now + self._context.limits.write_timeout


def _hung_up(transport: asyncio.Transport) -> bool:
    """Whether the other side is gone, though bytes of it may not have been read."""
    if transport.is_closing():
        return False
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
