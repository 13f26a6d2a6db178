"""The request's side of a relay: its body, kept whole or sent on as it comes, within bounds."""

from __future__ import annotations

from time import monotonic

from aitherd.core.words import Bytes, Seconds
from aitherd.errors import AitherError
from aitherd.proxy.exchange import ClientSide, Context, Exchange
from aitherd.proxy.refusals import BodyTooLarge
from aitherd.proxy.routes import Match
from aitherd.proxy.upstream import UpstreamConnection
from aitherd.proxy.wire import CONTINUE, LAST_CHUNK, RequestHead, chunk


class Sending(Exchange):
    """A request that is sent on."""

    streamed = False
    """Whether the body was sent on as it came, so that it is not at hand any more."""
    _ahead: Bytes = 0
    """Bytes in `parts` of a body that is streamed."""
    _connection: UpstreamConnection | None = None
    _deadline: Seconds = 0.0
    """Monotonic; 0 while nothing is expected of the engine."""

    def __init__(self, context: Context, client: ClientSide, head: RequestHead, match: Match) -> None:
        super().__init__(context, client, head, match)
        self.parts: list[bytes] = []
        """Of the body, not sent yet; kept for another try where the whole body was at hand."""
        self.length: int | None = head.length
        """Of the body as it is sent on; None for chunked."""
        self._target = match.target

    def begin(self) -> None:
        if self.head.length and self.head.length > self.context.limits.body:
            raise self.too_large()
        self.head.upgrade = b""

    def invite(self) -> None:
        """Lets a client go on that waits to be told that its body is welcome."""
        if self.head.expects_continue and self.head.has_body:
            self.send(CONTINUE)

    def body(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > self.context.limits.body:
            raise self.too_large()

    def stream(self, data: bytes) -> None:
        """Sends a piece of the body on, or keeps it, within bounds, until there is somebody to send it to."""
        if self.over:
            return
        if self._connection is not None:
            self._deadline = monotonic() + self.context.limits.first_byte_timeout
            self._connection.transport.write(chunk(data) if self.length is None else data)
            return
        self.parts.append(data)
        self._ahead += len(data)
        if self._ahead > self.context.limits.ahead:
            self.client.pause()

    def stream_end(self) -> None:
        """The streamed body is complete."""
        self.complete = True
        if self._connection is not None and self.length is None:
            self._connection.transport.write(LAST_CHUNK)

    def too_large(self) -> AitherError:
        """The refusal of the body."""
        return BodyTooLarge(f"a body may have {self.context.limits.body} bytes")
