"""Reads what engines answer, and refuses what could be read in two ways. Bytes in, events out; no I/O."""

from __future__ import annotations

import re
from typing import Any, cast

import httptools

from aitherd.errors import AitherError
from aitherd.proxy.limits import Limits
from aitherd.proxy.refusals import UpstreamFailed
from aitherd.proxy.wire import END, HOP, Reader, ResponseEvent, ResponseHead, Switched, strike

_LENGTH = re.compile(rb"[0-9]{1,18}")
_REASON = re.compile(rb"[\t -~\x80-\xff]*")
"""RFC 9112 section 4. llhttp lets other bytes through."""
_SIZE = re.compile(rb"[1-9A-Fa-f][0-9A-Fa-f]{0,6}")
SIZE_LINE = 9
"""Bytes of the longest such line, its end included."""

_SIZES_KEPT = 1024
_FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"alt-svc"})
_OURS = frozenset({b"x-aither-upstream", b"x-aither-reason", b"x-aither-waited-ms"})
_OWN = HOP | _FRAMING | _OURS
"""Fields that are not passed on as they came."""


sizes: dict[bytes, int] = {}
"""Lines that begin chunks and the sizes that they say: a stream has few different ones."""


def _size(line: bytes) -> int:
    """The size of a chunk that begins with this line; 0 for one that is not plain."""
    if _SIZE.fullmatch(line) is None:
        return 0
    if len(sizes) >= _SIZES_KEPT:
        sizes.clear()
    size = sizes[line] = int(line, 16)
    return size


class ResponseReader(Reader):
    """Turns what an engine sends into events: ResponseHead (informational ones first), the body in pieces, END.

    An AitherError among the events means that the engine misspoke; nothing may be fed after it.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._reason = b""
        self._head_only = False
        self._bodiless = False
        self._chunked = False
        """Whether the body under way is."""
        self._head: ResponseHead | None = None
        self.same: ResponseHead = cast("Any", None)
        """The head that `_repeats` remembers; only its length differs from answer to answer."""
        self._in_chunk = False
        self.may_chunk = False
        """Whether exactly here the next chunk may begin."""
        self._parser = httptools.HttpResponseParser(self)

    def expect(self, *, head_only: bool) -> None:
        """Says what the next answer is to: `head_only` for HEAD, whose answer has no body whatever its headers say."""
        self._head_only = head_only

    def again(self, data: bytes) -> bytes:
        """The body, if `data` is one whole answer with the head of one before, which `same` then is; else empty.

        Instead of `feed`, which would have yielded that head, this body and END.
        """
        if not self._between or self._head_only or not (body := self._repeats.body(data)):
            return b""
        self.same.length = len(body)
        return body

    def chunks(self, data: bytes) -> bool:
        """Whether `data` is chunks of the body under way, each whole, plain and not the last.

        Instead of `feed`, which would have yielded what is in them. They can be passed on as they are.
        """
        if not self.may_chunk:
            return False
        at, end = 0, len(data)
        while at < end:
            line = data.find(b"\r\n", at, at + SIZE_LINE)
            if line < 0:
                return False
            size = sizes.get(data[at:line]) or _size(data[at:line])
            at = line + size + 4
            if not size or at > end or data[at - 2 : at] != b"\r\n":
                return False
        return True

    def feed(self, data: bytes) -> list[ResponseEvent]:
        """The events that `data` completes, in order."""
        events: list[ResponseEvent] = []
        self._events = events
        self._began = False
        self._fed = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as switch:
            events.append(Switched(data[switch.args[0] :]))
        except httptools.HttpParserError as error:
            events.append(self._refusal or UpstreamFailed(f"the engine does not speak HTTP/1.1: {error}"))
        else:
            if self.in_head or not events:
                self.bound(yielded=bool(events))
        if self._bodiless:
            # The parser waits for a body that will not come.
            self._bodiless = False
            self._parser = httptools.HttpResponseParser(self)
        if self._between or (events and events[-1] is END):
            self._pause_after(data, events)
        # In front of a chunk's size there is always the end of a line. Part of a size, or of a line, ends otherwise.
        self.may_chunk = self._chunked and not self._in_chunk and not self._between and data.endswith(b"\r\n")
        return events

    def _pause_after(self, data: bytes, events: list[ResponseEvent]) -> None:
        """Notes where `data` leaves the reader, and the head of an answer that came whole."""
        begun_between = self._between
        # After a message that is the connection's last, whatever comes is for the parser to refuse.
        head = self._head
        self._between = bool(events) and events[-1] is END and head is not None and head.keep_alive
        if begun_between and self._between and len(events) == 3 and not self._head_only:
            self._repeats.remember(data)
            self.same = cast("ResponseHead", head)

    def on_chunk_header(self) -> None:
        self._in_chunk = True

    def on_chunk_complete(self) -> None:
        self._in_chunk = False

    def on_message_begin(self) -> None:
        self._reason = b""
        self._fields = []
        self.in_head = self._began = True

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_message_complete(self) -> None:
        self._chunked = False
        if not self._bodiless:
            self._events.append(END)

    def on_headers_complete(self) -> None:
        self.in_head = False
        status = self._parser.get_status_code()
        if _REASON.fullmatch(self._reason) is None:
            raise self.refuse(UpstreamFailed("the engine's status line has a control character"))
        head_only = self._head_only and status >= 200
        fields: list[bytes] = []
        length: int | None = None
        chunked = False
        nominated = b""
        for name, value in self.fields():
            low = name.lower()
            if low not in _OWN:
                fields += (name, b": ", value, b"\r\n")
            elif low == b"content-length":
                if length is not None or _LENGTH.fullmatch(value.strip()) is None:
                    raise self.refuse(UpstreamFailed("the engine's Content-Length is not one length"))
                length = int(value)
            elif low == b"transfer-encoding":
                if chunked or value.strip().lower() != b"chunked":
                    raise self.refuse(UpstreamFailed("the engine uses a transfer coding other than chunked"))
                chunked = True
            elif low == b"connection":
                nominated = nominated + b"," + value if nominated else value
        self._chunked = chunked
        self._in_chunk = False
        if chunked and length is not None:
            raise self.refuse(UpstreamFailed("the engine's answer has both Content-Length and Transfer-Encoding"))
        if nominated:
            strike(fields, nominated)
        bodiless = head_only or status == 204 or status == 304
        delimited = bodiless or chunked or length is not None
        keep_alive = self._parser.should_keep_alive()
        lines = b"".join(fields)
        self._head = ResponseHead(status, self._reason, keep_alive, length, bodiless, delimited, lines)
        self._events.append(self._head)
        if head_only:
            self._bodiless = True
            self._events.append(END)

    def too_large(self) -> AitherError:
        """The engine's head, not the client's, is too large."""
        return self.refuse(UpstreamFailed(f"the engine's head is longer than {self._limits.head} bytes"))
