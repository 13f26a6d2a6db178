"""Reads what engines answer, and refuses what could be read in two ways. Bytes in, events out; no I/O."""

from __future__ import annotations

import re

import httptools

from aitherd.proxy.limits import Limits
from aitherd.proxy.refusals import UpstreamFailed
from aitherd.proxy.wire import END, HOP, Reader, ResponseEvent, ResponseHead, Switched, strike

_LENGTH = re.compile(rb"[0-9]{1,18}")

_FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"alt-svc"})
_OURS = frozenset({b"x-aither-upstream", b"x-aither-reason", b"x-aither-waited-ms"})
_OWN = HOP | _FRAMING | _OURS
"""Fields that are not passed on as they came."""


class ResponseReader(Reader):
    """Turns what an engine sends into events: ResponseHead (informational ones first), the body in pieces, END.

    An AitherError among the events means that the engine misspoke; nothing may be fed after it.
    """

    __slots__ = ("_bodiless", "_head_only", "_parser", "_reason")

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._reason = b""
        self._head_only = False
        self._bodiless = False
        self._parser = httptools.HttpResponseParser(self)

    def expect(self, *, head_only: bool) -> None:
        """Says what the next answer is to: `head_only` for HEAD, whose answer has no body whatever its headers say."""
        self._head_only = head_only
        self._tail = 0

    def feed(self, data: bytes) -> list[ResponseEvent]:
        """The events that `data` completes, in order."""
        events: list[ResponseEvent] = []
        self._events = events
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as switch:
            events.append(Switched(data[switch.args[0] :]))
        except httptools.HttpParserError as error:
            events.append(self._refusal or UpstreamFailed(f"the engine does not speak HTTP/1.1: {error}"))
        else:
            if self._in_head or not events:
                self._bound(len(data), bool(events))
        if self._bodiless:
            # The parser waits for a body that will not come.
            self._bodiless = False
            self._parser = httptools.HttpResponseParser(self)
        return events

    def on_message_begin(self) -> None:
        self._reason = b""
        super().on_message_begin()

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_message_complete(self) -> None:
        if not self._bodiless:
            self._events.append(END)

    def on_headers_complete(self) -> None:
        self._in_head = False
        status = self._parser.get_status_code()
        head_only = self._head_only and status >= 200
        head = ResponseHead(
            status, self._reason, self._parser.should_keep_alive(), None, head_only or status in {204, 304}, False, []
        )
        chunked = False
        nominated: list[bytes] = []
        for name, value in self._fields:
            low = name.lower()
            if low not in _OWN:
                head.fields += (name, b": ", value, b"\r\n")
            elif low == b"content-length":
                if head.length is not None or _LENGTH.fullmatch(value.strip()) is None:
                    raise self.refuse(UpstreamFailed("the engine's Content-Length is not one length"))
                head.length = int(value)
            elif low == b"transfer-encoding":
                if chunked or value.strip().lower() != b"chunked":
                    raise self.refuse(UpstreamFailed("the engine uses a transfer coding other than chunked"))
                chunked = True
            elif low == b"connection":
                nominated += [token.strip().lower() for token in value.split(b",")]
        if chunked and head.length is not None:
            raise self.refuse(UpstreamFailed("the engine's answer has both Content-Length and Transfer-Encoding"))
        head.delimited = head.bodiless or chunked or head.length is not None
        strike(head.fields, nominated)
        self._events.append(head)
        if head_only:
            self._bodiless = True
            self._events.append(END)
