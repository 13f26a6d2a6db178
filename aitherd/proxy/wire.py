"""The words of HTTP/1.x without I/O: heads and events, what both readers share, and heads written as bytes.

Reading requests is `request_reader.py`, reading answers `response_reader.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from aitherd.errors import AitherError
from aitherd.proxy.limits import Limits
from aitherd.proxy.refusals import HeadTooLarge
from aitherd.proxy.repeats import Repeats


class Mark(Enum):
    """Events that carry nothing."""

    END = "end"
    """The message is complete."""


END: Final = Mark.END

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

HOP = frozenset({b"keep-alive", b"proxy-connection", b"te", b"trailer", b"proxy-authenticate", b"proxy-authorization"})
"""Fields that a hop consumes and never passes on (RFC 9110 section 7.6.1)."""

_OPTIONS = frozenset({b"keep-alive", b"close", b"upgrade", b""})
_WITH_BODY = frozenset({b"POST", b"PUT", b"PATCH"})
"""Connection tokens that are no names of fields."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client's own header lines ask of routing. They are never passed on."""

    tier: str = ""
    effort: str = ""
    local_only: bool = False
    session: str = ""
    """The same for requests that belong together."""
    batch: bool = False
    """Nobody waits for the answer."""


@dataclass(slots=True, eq=False)
class RequestHead:
    """A request's head, checked."""

    method: bytes
    path: bytes
    """The target up to the question mark, as sent."""
    query: bytes
    """From the question mark on, with it; empty without one."""
    http10: bool
    keep_alive: bool
    length: int | None
    """Bytes of the body; None when it is chunked."""
    content_type: bytes
    content_encoding: bytes
    expects_continue: bool
    upgrade: bytes
    """`websocket` when the client wants to change to that; empty otherwise."""
    fields: bytes
    """The header lines to pass on, complete."""
    wish: Wish | None = None
    key: bytes = b""
    """What the client shows to prove who it is (Authorization: Bearer, or x-api-key). Never passed on."""
    host: bytes = b""
    """As sent; empty where HTTP/1.0 has none."""
    origin: bytes = b""
    """Of the web page that has a browser send it, in small letters; empty without one."""
    lead: tuple[bytes, bytes, bytes] = field(default=(b"", b"", b""), init=False)
    """A target, a host, and the head as sent there up to its framing: it may be sent again with another length."""

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return self.length != 0

    def field(self, name: bytes) -> bytes:
        """A header that is passed on, by its name in small letters; empty when there is none, the first of several."""
        for line in self.fields.split(b"\r\n"):
            key, _, value = line.partition(b":")
            if key.lower() == name:
                return value.strip()
        return b""


@dataclass(slots=True, eq=False)
class ResponseHead:
    """An answer's head, checked."""

    status: int
    reason: bytes
    keep_alive: bool
    length: int | None
    """Bytes of the body; None when it is chunked or ends with the connection."""
    bodiless: bool
    """No body follows, whatever the headers say."""
    delimited: bool
    """The end of the body can be told from the end of the connection."""
    fields: bytes
    """The header lines to pass on, complete."""


@dataclass(slots=True, eq=False)
class Switched:
    """The message ended and what follows is not HTTP, or not until the upgrade is declined."""

    rest: bytes


RequestEvent: TypeAlias = RequestHead | bytes | Literal[Mark.END] | Switched | AitherError
ResponseEvent: TypeAlias = ResponseHead | bytes | Literal[Mark.END] | Switched | AitherError


class Reader:
    """What both directions share: collecting fields, and keeping what has no end from being kept."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._events: list[Any] = []
        self._fields: list[tuple[bytes, bytes]] = []
        self.in_head = False
        """Whether a head has begun and is not complete."""
        self._began = False
        """Whether the head in progress began in the bytes being fed."""
        self._fed = 0
        """How many those are."""
        self._size = 0
        """Bytes of the head in progress, or of chunk extensions and trailers since a body last yielded something."""
        self._between = True
        """Whether the last message was complete, and nothing of the next has come."""
        self._repeats = Repeats()
        self._refusal: AitherError | None = None

    def on_message_begin(self) -> None:
        """A parser's callback, as all that begin with `on_`."""
        self._fields = []
        self.in_head = self._began = True

    def on_header(self, name: bytes, value: bytes) -> None:
        # After the head these are trailers, which nobody reads; `bound` ends them.
        self._fields.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._events.append(body)

    def on_message_complete(self) -> None:
        self._events.append(END)

    def refuse(self, error: AitherError) -> AitherError:
        """The error that `feed` is going to yield, to be raised in a callback."""
        self._refusal = error
        return error

    def fields(self) -> list[tuple[bytes, bytes]]:
        """The fields of a complete head. Raises what `too_large` says."""
        fields = self._fields
        # What began and ended in a few bytes cannot be too long.
        if (not self._began or self._fed > self._limits.line) and (
            any(len(name) + len(value) > self._limits.line for name, value in fields)
            or self._weigh() > self._limits.head
        ):
            raise self.too_large()
        return fields

    def _weigh(self) -> int:
        return sum(len(name) + len(value) + 4 for name, value in self._fields)

    def too_large(self) -> AitherError:
        """The refusal of a head that exceeds its limits."""
        return self.refuse(
            HeadTooLarge(f"a header line may have {self._limits.line} bytes, a head {self._limits.head}")
        )

    def bound(self, *, yielded: bool) -> None:
        """Refuses a head, trailers or chunk extensions that do not end, after the bytes being fed.

        Not for bytes that completed a message and nothing else: those are bounded by the head's own checks.
        """
        if self._began:
            # Of the bytes in which a head begins only its complete lines count: the others may belong to a body before.
            self._size = self._weigh() if self.in_head else 0
        elif yielded:
            self._size = 0
        else:
            self._size += self._fed
        if self._size > self._limits.head:
            self._events.append(self.too_large())


def strike(fields: list[bytes], connection: bytes) -> frozenset[bytes]:
    """Removes the fields that a Connection header names as meant for one hop. Returns the header's tokens.

    `fields` holds name, `: `, value and line end of each, one after another.
    """
    tokens = frozenset(token.strip().lower() for token in connection.split(b","))
    names = tokens - _OPTIONS
    if names:
        fields[:] = [
            part
            for start in range(0, len(fields), 4)
            if fields[start].lower() not in names
            for part in fields[start : start + 4]
        ]
    return tokens


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of a chunked body. `data` must not be empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def request_bytes(head: RequestHead, target: bytes, host: bytes, length: int | None) -> bytes:
    """The head as sent to an engine, for a body of `length` bytes (None: chunked)."""
    there, by, lead = head.lead
    if there != target or by != host:
        lead = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (head.method, target, host, head.fields)
        head.lead = target, host, lead
    if head.upgrade:
        return b"%b%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (lead, _framed(head, length), head.upgrade)
    return b"%b%b\r\n" % (lead, _framed(head, length))


def _framed(head: RequestHead, length: int | None) -> bytes:
    """The header line that says where a request's body ends; empty where there need not be one."""
    if length is None:
        return b"Transfer-Encoding: chunked\r\n"
    return b"Content-Length: %d\r\n" % length if length or head.method in _WITH_BODY else b""


def response_bytes(head: ResponseHead, extra: bytes, framing: bytes) -> bytes:
    """The head as sent to a client; `extra` and `framing` are complete header lines of ours."""
    return b"".join((b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason), head.fields, extra, framing, b"\r\n"))


def framing(request: RequestHead, response: ResponseHead, *, keep: bool) -> tuple[bytes, bool, bool]:
    """How an answer is framed towards the client: header lines, whether in chunks, whether the connection stays.

    `keep` says whether it could stay. A client of HTTP/1.0 knows no chunks: where the length is unknown, the end of
    the connection ends its answer.
    """
    chunked = False
    lines = b""
    if response.length is not None and (not response.bodiless or request.method == b"HEAD"):
        lines = b"Content-Length: %d\r\n" % response.length
    elif not response.bodiless:
        if request.http10:
            keep = False
        else:
            chunked = True
            lines = b"Transfer-Encoding: chunked\r\n"
    if not keep:
        lines += b"Connection: close\r\n"
    elif request.http10:
        lines += b"Connection: keep-alive\r\n"
    return lines, chunked, keep
