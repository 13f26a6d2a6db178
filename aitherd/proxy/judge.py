"""Whether an answer is one: looked at before its first byte goes to the client, and passed on as soon as that is clear.

A status may say that it is not, but so may a body: JSON that is cut, or an error under a 200. Of a stream the first
event is looked at, of JSON all of it, of anything else nothing.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from aitherd.core.retries import Failure, of_status
from aitherd.core.words import Bytes
from aitherd.errors import AitherError
from aitherd.proxy.wire import END, ResponseEvent, ResponseHead

JSON_MAX: Bytes = 8 * 1024 * 1024
"""A longer JSON body is passed on without being looked at."""
EVENT_MAX: Bytes = 64 * 1024
"""And so is a stream whose first event is longer."""
_UTF8_BOM = b"\xef\xbb\xbf"


class Sentence(Enum):
    """What is known about an answer, when it is no failure."""

    OPEN = "open"
    """Not enough yet."""
    GOOD = "good"


class Judge:
    """Takes the events of one answer until it is judged."""

    def __init__(self) -> None:
        self.held: list[ResponseEvent] = []
        """Of the answer, not passed on yet."""
        self.head: ResponseHead | None = None
        self.error: AitherError | None = None
        """What the reader said, of an answer that is broken."""
        self._size: Bytes = 0

    @property
    def body(self) -> bytes:
        """What came of the body."""
        return b"".join(event for event in self.held if type(event) is bytes)

    def hear(self, events: list[ResponseEvent]) -> Sentence | Failure:
        """Takes events, in order, and judges what there is."""
        self.held += events
        ended = False
        for event in events:
            if type(event) is ResponseHead:
                if event.status == 101:
                    return Sentence.GOOD
                if event.status >= 200:
                    self.head = event
            elif type(event) is bytes:
                self._size += len(event)
            elif isinstance(event, AitherError):
                self.error = event
                return Failure.BROKEN
            elif event is END:
                ended = self.head is not None
        if self.head is None:
            return Sentence.OPEN
        failure = of_status(self.head.status)
        if failure is not None:
            return failure
        if self.head.status != 200:
            return Sentence.GOOD
        return self._body(self.head, ended=ended)

    def field(self, name: bytes) -> bytes:
        """A header of the answer; empty when it has none."""
        assert self.head is not None
        for line in self.head.fields.split(b"\r\n"):
            key, _, value = line.partition(b":")
            if key.lower() == name:
                return value.strip()
        return b""

    def _body(self, head: ResponseHead, *, ended: bool) -> Sentence | Failure:
        kind = self.field(b"content-type").lower()
        if self.field(b"content-encoding"):
            return Sentence.GOOD
        if kind.startswith(b"text/event-stream"):
            return self._stream(ended=ended)
        if not kind.startswith(b"application/json"):
            return Sentence.GOOD
        if self._size > JSON_MAX:
            return Sentence.GOOD
        return _json(self.body) if ended else Sentence.OPEN

    def _stream(self, *, ended: bool) -> Sentence | Failure:
        body = self.body.removeprefix(_UTF8_BOM).replace(b"\r\n", b"\n")
        kind = b""
        for line in body.split(b"\n")[:-1]:
            if line.startswith(b"event:"):
                kind = line[6:].strip()
            elif line.startswith(b"data:"):
                data = line[5:].strip()
                return Failure.ERROR_BODY if kind == b"error" or _says_error(data) else Sentence.GOOD
        if ended:
            return Failure.CUT
        return Sentence.GOOD if self._size > EVENT_MAX else Sentence.OPEN


def _json(body: bytes) -> Sentence | Failure:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Failure.CUT
    return Failure.ERROR_BODY if _is_error(found) else Sentence.GOOD


def _says_error(data: bytes) -> bool:
    try:
        return _is_error(msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # `[DONE]`, and whatever else is nobody's error.
        return False


def _is_error(found: object) -> bool:
    """OpenAI's envelope, and those of its imitators: an `error`, and nothing that answers."""
    return (
        isinstance(found, dict)
        and bool(found.get("error"))
        and not any(found.get(key) for key in ("choices", "data", "output", "results"))
    )
