"""One client of `/events`: a stream of server-sent events without an end, for as long as the client reads along.

What the events are is `events.py`. (Server-sent events: WHATWG HTML, section 9.2.)
"""

from __future__ import annotations

from time import monotonic
from urllib.parse import parse_qs

from aitherd.core.words import Bytes
from aitherd.proxy.local import Local
from aitherd.proxy.refusals import BadRequest, TooManyListeners
from aitherd.proxy.wire import LAST_CHUNK, chunk

_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: aitherd\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-store\r\nX-Accel-Buffering: no\r\n"
)
_DROPPED = b": dropped: too slow. Come back with Last-Event-ID\n\n"


class EventStream(Local):
    """A listener of the feed."""

    _chunked = True
    _full = False
    _ahead: Bytes = 0
    """Written while the client's buffer was full."""

    def end(self) -> None:
        self.complete = True
        feed, limits = self.context.events, self.context.limits
        query = parse_qs(self.head.query[1:].decode("latin-1"))
        records = query.get("records", ["0"])[-1]
        if not records.isdecimal() or len(records) > 9:
            raise BadRequest("`records` is how many of the latest records to begin with")
        if len(feed) >= limits.event_listeners:
            raise TooManyListeners(f"{limits.event_listeners} listen already", retry_after=10)
        self.status = 200
        self.first_byte = monotonic() - self.began
        self._chunked = not self.head.http10
        self.send(_HEAD + (b"Transfer-Encoding: chunked\r\n\r\n" if self._chunked else b"Connection: close\r\n\r\n"))
        if self.head.method == b"HEAD":
            self.finish(keep=self._chunked and self.keeps())
        else:
            feed.join(self, self.head.field(b"last-event-id").decode("latin-1"), int(records))

    def tell(self, text: bytes) -> None:
        """Writes some events, unless too many wait to be read already: then the client has to come again."""
        if self.over:
            return
        if self._full:
            self._ahead += len(text)
            if self._ahead > self.context.limits.event_ahead:
                self.send(chunk(_DROPPED) + LAST_CHUNK if self._chunked else _DROPPED)
                self.finish(keep=False)
                return
        self.send(chunk(text) if self._chunked else text)

    def close(self) -> None:
        """The daemon ends."""
        if self._chunked:
            self.send(LAST_CHUNK)
        self.finish(keep=False)

    def client_full(self) -> None:
        self._full = True

    def client_drained(self) -> None:
        self._full = False
        self._ahead = 0

    def let_go(self) -> None:
        self.context.events.leave(self)
