"""Reads what clients send, strictly. Bytes in, events out; no I/O.

llhttp (through httptools) parses; what it lets through and a strict server must not is refused here: transfer codings
other than chunked, chunked on HTTP/1.0, a missing, doubled or odd Host, targets that are not a plain path
(RFC 9112 sections 3.2, 6.1, 6.3, 11.2).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, cast

import httptools

from aitherd.core.words import Priority
from aitherd.proxy.limits import Limits
from aitherd.proxy.refusals import BadRequest, TargetTooLong, WrongExpectation, WrongVersion
from aitherd.proxy.wire import END, HOP, Reader, RequestEvent, RequestHead, Switched, Wish, strike

_TARGET = re.compile(rb"/[!-\"$-~]*")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_LENGTH = re.compile(rb"[0-9]{1,18}")

_VERSIONS = frozenset({"1.1", "1.0"})
_DROPPED, _READ, _SHOWN = "dropped", "read", "shown"
_BEARER = b"bearer "
_KINDS = dict.fromkeys(HOP | {b"http2-settings"}, _DROPPED) | {
    # What a client shows to us is none of the engine's business.
    b"authorization": _SHOWN, b"x-api-key": _SHOWN, b"api-key": _SHOWN,
    b"connection": _READ, b"host": _READ, b"content-length": _READ, b"transfer-encoding": _READ, b"expect": _READ,
    b"origin": _READ,
    b"upgrade": _READ, b"content-type": _READ, b"content-encoding": _READ,
    b"x-aither-tier": _READ, b"x-aither-effort": _READ, b"x-aither-local": _READ,
    b"x-aither-session": _READ, b"x-aither-priority": _READ,
}  # fmt: skip
"""Fields that are not simply passed on."""


class RequestReader(Reader):
    """Turns what a client sends into events: for each request a RequestHead, its body in pieces, END.

    An AitherError among the events is how the client has to be refused; nothing may be fed after it. After Switched,
    feed nothing until `resume`.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._target = b""
        self._head: RequestHead | None = None
        self.same: RequestHead = cast("Any", None)
        """The head that `_repeats` remembers; only its length differs from request to request."""
        self._silent = False
        """Whether the head in progress is one that has been read already."""
        self._parser = httptools.HttpRequestParser(self)

    def again(self, data: bytes) -> bytes:
        """The body, if `data` is one whole request with the head of one before, which `same` then is; else empty.

        Instead of `feed`, which would have yielded that head, this body and END.
        """
        if not self._between or not (body := self._repeats.body(data)):
            return b""
        self.same.length = len(body)
        return body

    def feed(self, data: bytes) -> list[RequestEvent]:
        """The events that `data` completes, in order."""
        events: list[RequestEvent] = []
        self._events = events
        self._began = False
        self._fed = len(data)
        left: bytes | memoryview = data
        while True:
            try:
                self._parser.feed_data(left)
            except httptools.HttpParserUpgrade as switch:
                left = memoryview(left)[switch.args[0] :]
                if self._head is not None and self._head.upgrade:
                    events.append(Switched(bytes(left)))
                    break
                self._decline()
            except httptools.HttpParserError as error:
                events.append(self._refusal or BadRequest(f"not HTTP/1.1: {error}"))
                break
            else:
                if self.in_head or not events:
                    self.bound(yielded=bool(events))
                break
        if self._between or (events and events[-1] is END):
            self._pause_after(data, events)
        return events

    def _pause_after(self, data: bytes, events: list[RequestEvent]) -> None:
        """Notes where `data` leaves the reader, and the head of a request that came whole."""
        begun_between = self._between
        # After a message that is the connection's last, whatever comes is for the parser to refuse.
        head = self._head
        self._between = bool(events) and events[-1] is END and head is not None and head.keep_alive
        if begun_between and self._between and len(events) == 3:
            self._repeats.remember(data)
            self.same = cast("RequestHead", head)

    def _decline(self) -> None:
        """Reads on after a request that asked for an upgrade which is none of ours, so that it is an ordinary request.

        httptools takes such a request to end with its head. Where a body follows, it must not be read as a request: a
        new parser is told the body's framing, and the end that came too early is taken back.
        """
        self.resume()
        head = self._head
        if head is not None and head.has_body:
            self._events.pop()
            framing = b"Transfer-Encoding: chunked" if head.length is None else b"Content-Length: %d" % head.length
            self._silent = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\nHost: t\r\n%b\r\n\r\n" % framing)
            self._silent = False

    def resume(self) -> None:
        """Reads on as HTTP after an upgrade that was declined."""
        self._parser = httptools.HttpRequestParser(self)
        self.in_head = False

    def on_message_begin(self) -> None:
        self._target = b""
        self._fields = []
        self.in_head = self._began = True

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > self._limits.line:
            raise self.refuse(TargetTooLong(f"a request target may have {self._limits.line} bytes"))

    def on_headers_complete(self) -> None:
        self.in_head = False
        if self._silent:
            return
        parser = self._parser
        method = parser.get_method()
        version = parser.get_http_version()
        if version not in _VERSIONS:
            raise self.refuse(WrongVersion(f"HTTP/{version} is not spoken here", remedy="use HTTP/1.1"))
        target = self._target
        if _TARGET.fullmatch(target) is None and not (target == b"*" and method == b"OPTIONS"):
            raise self.refuse(BadRequest("the request target must be a path", remedy="send `/path`, not a whole URL"))
        path, mark, query = target.partition(b"?")
        head = RequestHead(
            method, path, mark + query, version == "1.0", parser.should_keep_alive(), 0, b"", b"", False, b"", b""
        )
        self._read_fields(head)
        self._head = head
        self._events.append(head)

    def _wished(self, wish: Wish, name: bytes, value: bytes) -> Wish:
        text = value.decode("latin-1")
        if name == b"x-aither-local":
            # A word that is not understood must not let a request out.
            if text != "only":
                raise self.refuse(BadRequest("X-Aither-Local can only be `only`", remedy="leave it out otherwise"))
            return replace(wish, local_only=True)
        if name == b"x-aither-priority":
            if text not in tuple(Priority):
                known = " or ".join(Priority)
                raise self.refuse(BadRequest(f"X-Aither-Priority can be {known}", remedy="leave it out otherwise"))
            return replace(wish, batch=text == Priority.BATCH)
        if name == b"x-aither-session":
            return replace(wish, session=text)
        return replace(wish, tier=text) if name == b"x-aither-tier" else replace(wish, effort=text)

    def _read_fields(self, head: RequestHead) -> None:
        hosts = codings = lengths = 0
        nominated = b""
        upgrade = b""
        fields: list[bytes] = []
        for name, value in self.fields():
            low = name.lower()
            kind = _KINDS.get(low)
            if kind is None:
                fields += (name, b": ", value, b"\r\n")
            elif kind is _DROPPED:
                continue
            elif kind is _SHOWN:
                key = value.strip()
                if key[: len(_BEARER)].lower() == _BEARER:
                    key = key[len(_BEARER) :].strip()
                if head.key and head.key != key:
                    raise self.refuse(BadRequest("a request shows one key"))
                head.key = key
            elif low == b"host":
                hosts += 1
                if _HOST.fullmatch(value.strip()) is None:
                    raise self.refuse(BadRequest("the Host header is not a host"))
                head.host = value.strip()
            elif low == b"content-length":
                lengths += 1
                if _LENGTH.fullmatch(value.strip()) is None:
                    raise self.refuse(BadRequest("the Content-Length header is not a length"))
                head.length = int(value)
            elif low == b"content-type":
                head.content_type = value
                fields += (name, b": ", value, b"\r\n")
            elif low == b"connection":
                nominated = nominated + b"," + value if nominated else value
            elif low == b"transfer-encoding":
                codings += 1
                if value.strip().lower() != b"chunked" or head.http10:
                    raise self.refuse(BadRequest("the only transfer coding is chunked, on HTTP/1.1"))
            elif low == b"origin":
                head.origin = value.strip().lower()
                fields += (name, b": ", value, b"\r\n")
            elif low == b"content-encoding":
                head.content_encoding = value.strip().lower()
                fields += (name, b": ", value, b"\r\n")
            elif low == b"upgrade":
                upgrade = value.strip().lower()
            elif low == b"expect":
                if value.strip().lower() != b"100-continue":
                    raise self.refuse(WrongExpectation("Expect may only ask for 100-continue"))
                head.expects_continue = not head.http10
            else:
                head.wish = self._wished(head.wish or Wish(), low, value.strip())
        if hosts > 1 or (hosts == 0 and not head.http10):
            raise self.refuse(BadRequest("a request has exactly one Host header"))
        if codings:
            if codings > 1 or lengths:
                raise self.refuse(BadRequest("a request has one Content-Length or one Transfer-Encoding"))
            head.length = None
        elif lengths > 1:
            raise self.refuse(BadRequest("a request has one Content-Length"))
        if nominated and nominated.lower() not in {b"keep-alive", b"close"}:
            tokens = strike(fields, nominated)
            # An upgrade to anything else (h2c) would open a way around the paths that are never passed on.
            if b"upgrade" in tokens and upgrade == b"websocket" and head.method == b"GET" and not head.has_body:
                head.upgrade = b"" if head.http10 else upgrade
        head.fields = b"".join(fields)
