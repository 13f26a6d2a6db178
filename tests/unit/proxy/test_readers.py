"""The readers: however bytes are cut, the same events come out; nothing that is fed makes them fail."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitherd.errors import AitherError
from aitherd.proxy.limits import Limits
from aitherd.proxy.request_reader import RequestReader
from aitherd.proxy.response_reader import ResponseReader
from aitherd.proxy.wire import END, RequestHead, ResponseHead, Switched

REQUESTS = (
    b"\r\nGET /a?b=c HTTP/1.1\r\nHost: t\r\nX-A: 1\r\nConnection: keep-alive, X-B\r\nX-B: 2\r\n\r\n"
    b"POST /b HTTP/1.1\r\nhost: [::1]:80\r\ncontent-length: 5\r\nExpect: 100-continue\r\n\r\nhello"
    b"POST /c HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n"
    b"2\r\nde\r\n0\r\nT: 1\r\nU: 2\r\n\r\n"
    b"PUT /u HTTP/1.1\r\nHost: t\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 4\r\n\r\nGET "
    b"OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n"
    b"GET /d HTTP/1.0\r\n\r\n"
)
ANSWERS = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\nhello"
    b"HTTP/1.1 201 \r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n"
    b"HTTP/1.1 204 No Content\r\n\r\n"
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"
    b"HTTP/1.1 200 OK\r\n\r\nto the end"
)


def flat(events: list[Any]) -> list[Any]:
    """Events as plain values, neighbouring pieces of a body joined."""
    out: list[Any] = []
    for event in events:
        if isinstance(event, bytes):
            if out and isinstance(out[-1], bytes):
                out[-1] += event
            else:
                out.append(event)
        elif isinstance(event, RequestHead | ResponseHead):
            out.append({name: getattr(event, name) for name in type(event).__slots__})
        elif isinstance(event, AitherError):
            out.append((type(event), event.message))
        else:
            out.append(event)
    return out


def fed(reader: RequestReader | ResponseReader, data: bytes, cuts: list[int]) -> list[Any]:
    """What comes out when `data` is cut at `cuts`."""
    events: list[Any] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(edges):
        if start < stop:
            events += reader.feed(data[start:stop])
            if events and isinstance(events[-1], AitherError | Switched):
                break
    return flat(events)


def test_what_the_requests_say() -> None:
    heads = [event for event in RequestReader(Limits()).feed(REQUESTS) if isinstance(event, RequestHead)]
    assert [(head.method, head.path, head.query, head.length) for head in heads] == [
        (b"GET", b"/a", b"?b=c", 0),
        (b"POST", b"/b", b"", 5),
        (b"POST", b"/c", b"", None),
        (b"PUT", b"/u", b"", 4),
        (b"OPTIONS", b"*", b"", 0),
        (b"GET", b"/d", b"", 0),
    ]
    assert heads[0].fields == b"X-A: 1\r\n"
    assert [head.expects_continue for head in heads] == [False, True, False, False, False, False]
    assert [head.keep_alive for head in heads] == [True, True, True, True, True, False]


@given(st.lists(st.integers(0, 2000)))
def test_requests_read_the_same_however_they_are_cut(cuts: list[int]) -> None:
    whole = fed(RequestReader(Limits()), REQUESTS, [])
    assert fed(RequestReader(Limits()), REQUESTS, cuts) == whole
    assert whole.count(END) == 6


@given(st.lists(st.integers(0, 2000)))
def test_answers_read_the_same_however_they_are_cut(cuts: list[int]) -> None:
    whole = fed(ResponseReader(Limits()), ANSWERS, [])
    assert fed(ResponseReader(Limits()), ANSWERS, cuts) == whole
    assert whole.count(END) == 5
    assert whole[-1] == b"to the end"


HEADS = st.sampled_from(
    [
        b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\nX: y\r\n\r\n",
        b"POST /b HTTP/1.1\r\nContent-Length: %d\r\nHost: t\r\nConnection: X\r\nX: 1\r\n\r\n",
        b"POST /b HTTP/1.1\r\nContent-Length: %d\r\nHost: t\r\nConnection: close\r\n\r\n",
        b"POST /c HTTP/1.1\r\ncontent-length: %d\r\nHost: t\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: 0%d\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: %d \r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: +%d\r\n\r\n",
        b"\r\nPOST /a HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n",
    ]
)
BODIES = st.sampled_from([b"", b"x", b"12345", b"\r\n\r\n", b"Content-Length: 5\r\n\r\nabcde", b"y" * 1000])


@given(st.lists(st.tuples(HEADS, BODIES, st.sampled_from([0, 0, 0, 1, -1])), min_size=2, max_size=6))
def test_a_head_that_comes_again_reads_as_if_it_were_new(messages: list[tuple[bytes, bytes, int]]) -> None:
    wire = [head % max(len(body) + wrong, 0) + body for head, body, wrong in messages]
    by_message: list[Any] = []
    reader = RequestReader(Limits())
    for message in wire:
        by_message += reader.feed(message)
        if by_message and isinstance(by_message[-1], AitherError):
            break
    data = b"".join(wire)
    # A byte at a time nothing is ever recognised.
    assert flat(by_message) == fed(RequestReader(Limits()), data, list(range(len(data))))


@given(
    st.lists(st.tuples(st.sampled_from([b"", b"X: y\r\n", b"Connection: close\r\n"]), BODIES), min_size=2, max_size=6)
)
def test_an_answers_head_that_comes_again_reads_as_if_it_were_new(answers: list[tuple[bytes, bytes]]) -> None:
    wire = [b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (line, len(body), body) for line, body in answers]
    by_answer: list[Any] = []
    reader = ResponseReader(Limits())
    for answer in wire:
        reader.expect(head_only=False)
        by_answer += reader.feed(answer)
        if isinstance(by_answer[-1], AitherError):
            break
    data = b"".join(wire)
    assert flat(by_answer) == fed(ResponseReader(Limits()), data, list(range(len(data))))


PIECES = st.sampled_from(
    [
        *(b"GET ", b"POST ", b"/x", b" HTTP/1.1\r\n", b"Host: t\r\n", b"\r\n", b"Content-Length: 3\r\n", b"abc"),
        *(b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"\x00", b":", b"\n"),
        *(b"Upgrade: x\r\nConnection: upgrade\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 101 S\r\n"),
    ]
)


@given(st.lists(PIECES | st.binary(max_size=5)), st.lists(st.integers(0, 500)))
def test_nothing_makes_the_request_reader_fail(pieces: list[bytes], cuts: list[int]) -> None:
    events = fed(RequestReader(Limits()), b"".join(pieces), cuts)
    # A body or an end never comes without its head.
    begun = False
    for event in events:
        if isinstance(event, dict):
            assert not begun
            begun = True
        elif event is END:
            assert begun
            begun = False
        elif isinstance(event, bytes):
            assert begun


@given(st.lists(PIECES | st.binary(max_size=5)), st.booleans())
def test_nothing_makes_the_response_reader_fail(pieces: list[bytes], head_only: bool) -> None:
    reader = ResponseReader(Limits())
    reader.expect(head_only=head_only)
    fed(reader, b"".join(pieces), [])


def test_the_answer_to_head_has_no_body_and_the_next_one_has() -> None:
    reader = ResponseReader(Limits())
    reader.expect(head_only=True)
    head, end = reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert isinstance(head, ResponseHead)
    assert (head.bodiless, head.length, end) == (True, 5, END)
    reader.expect(head_only=False)
    assert reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")[1:] == [b"hi", END]


def test_an_upgrade_gives_back_what_follows_and_reading_can_go_on() -> None:
    reader = RequestReader(Limits())
    upgrade = b"GET / HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\n"
    head, end, switched = reader.feed(upgrade + b"GET /next")
    assert isinstance(head, RequestHead)
    assert isinstance(switched, Switched)
    assert (head.upgrade, end, switched.rest) == (b"websocket", END, b"GET /next")
    reader.resume()
    events = reader.feed(switched.rest + b" HTTP/1.1\r\nHost: t\r\n\r\n")
    assert isinstance(events[0], RequestHead)
    assert events[0].path == b"/next"


@pytest.mark.parametrize("rest", [b"X: " + b"a" * 100, b"X: a\r\n" * 100])
def test_a_head_without_end_is_refused_early(rest: bytes) -> None:
    reader = RequestReader(Limits(head=1000))
    reader.feed(b"GET / HTTP/1.1\r\n")
    total = 0
    events: list[Any] = []
    while not events:
        events = reader.feed(rest)
        total += len(rest)
    assert events[0].code == "headers_too_large"
    assert total <= 2000
