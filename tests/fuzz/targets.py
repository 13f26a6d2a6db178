"""What is fuzzed, and what must hold whatever the bytes: one function a target, which raises AssertionError.

What is refused is fine. What is accepted and sent on must mean the same to another reader (h11, the standard library),
however it was cut into pieces when it came.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

import h11

from aitherd.errors import AitherError
from aitherd.proxy.bodies import FormModel, json_leaving, json_model, json_renamed
from aitherd.proxy.limits import Limits
from aitherd.proxy.request_reader import RequestReader
from aitherd.proxy.response_reader import ResponseReader
from aitherd.proxy.routes import CONTROL, guard
from aitherd.proxy.wire import (
    END,
    LAST_CHUNK,
    RequestHead,
    ResponseHead,
    Switched,
    chunk,
    framing,
    request_bytes,
    response_bytes,
)

LIMITS = Limits()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ASKED = b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}"
FORM = b"multipart/form-data; boundary=b"


@dataclass(eq=False)
class Message:
    """What came of one message."""

    head: RequestHead | ResponseHead
    body: bytes = b""
    complete: bool = False


@dataclass(eq=False)
class Reading:
    """What came of all bytes."""

    messages: list[Message] = field(default_factory=list)
    refused: bool = False
    switched: bool = False

    def take(self, events: list[object]) -> None:
        """Takes events in order."""
        for event in events:
            if isinstance(event, RequestHead | ResponseHead):
                self.messages.append(Message(event))
            elif isinstance(event, bytes):
                assert event, "a piece of a body is never empty"
                assert not self.messages[-1].complete, "a body goes on after its end"
                self.messages[-1].body += event
            elif event is END:
                assert not self.messages[-1].complete, "a message ends twice"
                self.messages[-1].complete = True
            elif isinstance(event, Switched):
                self.switched = True
            else:
                assert isinstance(event, AitherError), event
                self.refused = True

    def shown(self) -> list[tuple[object, bytes, bool]]:
        """To be compared with another reading of the same bytes."""
        return [
            (
                (head.method, head.path, head.query, head.length, head.fields)
                if isinstance(head := message.head, RequestHead)
                else (head.status, head.length, head.fields),
                message.body,
                message.complete,
            )
            for message in self.messages
            if message.complete
        ]


def _read(data: bytes, reader: RequestReader | ResponseReader, step: int) -> Reading:
    found = Reading()
    for start in range(0, len(data), step):
        part = data[start : start + step]
        if isinstance(reader, ResponseReader) and reader.chunks(part):
            # Passed on as it is: a reader of its own says what it would have been.
            inner = ResponseReader(LIMITS)
            inner.feed(CHUNKED)
            events = inner.feed(part)
            assert all(isinstance(event, bytes) for event in events), "passed on what a parser makes more of"
            found.take(list(events))
            continue
        if body := reader.again(part):
            found.take([reader.same, body, END])
            continue
        found.take(list(reader.feed(part)))
        if found.refused or found.switched:
            break
    return found


def requests(data: bytes) -> None:
    """Requests as clients send them: what goes on to an engine is one request, the same one, to h11."""
    whole = _read(data, RequestReader(LIMITS), max(len(data), 1))
    for step in (1, 7):
        parts = _read(data, RequestReader(LIMITS), step)
        assert parts.shown() == whole.shown(), "how it is cut changes what it means"
    for message in whole.messages:
        head = message.head
        assert isinstance(head, RequestHead)
        if not message.complete or head.upgrade or head.path == b"*":
            continue
        length = len(message.body) if head.length is None else head.length
        assert length == len(message.body), "the body is not as long as its head says"
        for sent, body in (
            (request_bytes(head, head.path + head.query, b"engine", length), message.body),
            (
                request_bytes(head, head.path + head.query, b"engine", None),
                (chunk(message.body) if message.body else b"") + LAST_CHUNK,
            ),
        ):
            _is_the_request(sent + body, head, message.body)


def _is_the_request(sent: bytes, head: RequestHead, body: bytes) -> None:
    other = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    other.receive_data(sent)
    request = other.next_event()
    assert isinstance(request, h11.Request), request
    assert (request.method, request.target) == (head.method, head.path + head.query)
    assert [value for name, value in request.headers if name == b"host"] == [b"engine"]
    assert _rest(other) == body, "another body"
    assert other.trailing_data[0] == b"", "bytes behind the request"


def _rest(other: h11.Connection) -> bytes:
    body = b""
    while True:
        event = other.next_event()
        if isinstance(event, h11.Data):
            body += event.data
        else:
            assert isinstance(event, h11.EndOfMessage), event
            assert not list(event.headers), "a trailer"
            return body


def responses(data: bytes) -> None:
    """Answers as engines send them: what goes on to the client is one answer, the same one, to h11."""
    whole = _read(data, ResponseReader(LIMITS), max(len(data), 1))
    for step in (1, 7):
        parts = _read(data, ResponseReader(LIMITS), step)
        assert parts.shown() == whole.shown(), "how it is cut changes what it means"
    asked = next(event for event in RequestReader(LIMITS).feed(ASKED) if isinstance(event, RequestHead))
    for message in whole.messages:
        head = message.head
        assert isinstance(head, ResponseHead)
        if not message.complete or head.status < 200:
            continue
        lines, chunked, _ = framing(asked, head, keep=True)
        body = (chunk(message.body) if message.body else b"") + LAST_CHUNK if chunked else message.body
        other = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        other.send(h11.Request(method="POST", target="/", headers=[("Host", "t")]))
        other.send(h11.EndOfMessage())
        other.receive_data(response_bytes(head, b"X-Aither-Upstream: m\r\n", lines) + body)
        answer = other.next_event()
        assert isinstance(answer, h11.Response), answer
        assert answer.status_code == head.status
        assert _rest(other) == message.body, "another body"
        assert other.trailing_data[0] == b"", "bytes behind the answer"


def chunks(data: bytes) -> None:
    """The body of a stream, read in pieces: passed on or parsed, it is what h11 reads, or it is refused."""
    whole = _read(CHUNKED + data, ResponseReader(LIMITS), len(CHUNKED))
    if whole.refused or not whole.messages or not whole.messages[0].complete:
        return
    other = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    other.send(h11.Request(method="POST", target="/", headers=[("Host", "t")]))
    other.send(h11.EndOfMessage())
    other.receive_data(CHUNKED + data)
    assert isinstance(other.next_event(), h11.Response)
    body = b""
    try:
        while isinstance(event := other.next_event(), h11.Data):
            body += event.data
    except h11.RemoteProtocolError:
        # It has had enough of zeros in front of a size, or of an extension. Neither goes on to a client.
        return
    assert isinstance(event, h11.EndOfMessage), event
    assert whole.messages[0].body == body


def bodies(data: bytes) -> None:
    """JSON bodies: the model is what the standard library finds, and renaming it changes nothing else."""
    try:
        model = json_model(data)
    except AitherError:
        return
    found = json.loads(data)
    assert found["model"] == model
    assert json.loads(json_renamed(data, "another")) == {**found, "model": "another"}
    left = json.loads(json_leaving(data, "another"))
    assert left["model"] == "another"
    assert {key.casefold() for key in left}.isdisjoint({"api_base", "api_key", "base_url", "user_config"})


def forms(data: bytes) -> None:
    """Multipart bodies: the model does not depend on how they come, and can be renamed."""
    found = []
    for step in (1, 13, max(len(data), 1)):
        form = FormModel(FORM)
        try:
            for start in range(0, len(data), step):
                if form.feed(data[start : start + step]):
                    break
        except AitherError:
            found.append("refused")
            continue
        found.append(form.model or "")
        taken = form.taken()
        assert data.startswith(taken), "something was changed"
        if form.model is not None:
            again = FormModel(FORM)
            assert again.feed(form.taken("another") + data[len(taken) :])
            assert again.model == "another"
    assert len(set(found)) == 1, found


def paths(data: bytes) -> None:
    """Paths of engines: none that controls the engine passes, in whatever way it is written."""
    target = b"/" + data
    try:
        guard(target)
    except AitherError:
        return
    decoded = target
    for _ in range(16):
        decoded = unquote_to_bytes(decoded)
    text = decoded.decode(errors="replace").casefold()
    for form in (text, posixpath.normpath(text), text.replace("//", "/"), text.split(";")[0], text.split("?")[0]):
        segments = [segment.strip() for segment in form.strip("/").split("/")]
        while segments and segments[0] in {"api", "v1", "v2"}:
            del segments[0]
        first = segments[0] if segments else ""
        assert first not in CONTROL, form
        assert "/".join(segments[:2]) not in CONTROL, form


TARGETS: Mapping[str, Callable[[bytes], None]] = MappingProxyType(
    {target.__name__: target for target in (requests, responses, chunks, bodies, forms, paths)}
)
