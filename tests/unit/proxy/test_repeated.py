"""What is not parsed because it came before, or is plain, means what a parser makes of it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitherd.proxy.limits import Limits
from aitherd.proxy.request_reader import RequestReader
from aitherd.proxy.response_reader import ResponseReader
from aitherd.proxy.wire import END

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def post(body: bytes) -> bytes:
    return b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def test_a_head_that_came_before_is_known_with_another_length() -> None:
    reader = RequestReader(Limits())
    assert reader.again(post(b"first")) == b""
    head, *_ = reader.feed(post(b"first"))
    assert reader.again(post(b"a longer second")) == b"a longer second"
    assert reader.same is head
    assert reader.same.length == 15
    # What follows is read as if the parser had seen it all.
    assert [type(event) for event in reader.feed(post(b"x"))] == [type(head), bytes, type(END)]


@pytest.mark.parametrize(
    "data",
    [
        post(b"12345")[:-1],
        post(b"12345") + b"x",
        post(b"12345") * 2,
        post(b"12345").replace(b"Length: 5", b"Length: +5"),
        post(b"12345").replace(b"Length: 5", b"Length:  5"),
        post(b"12345").replace(b"Host: a", b"Host: b"),
        post(b"12345").replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
        post(b""),
    ],
)
def test_anything_else_is_left_to_the_parser(data: bytes) -> None:
    reader = RequestReader(Limits())
    reader.feed(post(b"12345"))
    assert reader.again(data) == b""


def answers(*, head: bytes = HEAD) -> ResponseReader:
    reader = ResponseReader(Limits())
    reader.feed(head)
    return reader


def test_whole_chunks_need_not_be_taken_apart() -> None:
    reader = answers()
    assert reader.chunks(chunks(b"data: one\n\n"))
    assert reader.chunks(chunks(b"two", b"x" * 70_000, b"three"))
    assert reader.feed(b"0\r\n\r\n") == [END]
    assert not reader.chunks(chunks(b"more"))


@pytest.mark.parametrize(
    "data",
    [
        b"0\r\n\r\n",
        b"5\r\nhello\r",
        b"5\r\nhello\r\n3",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\r\nhello\r\n",
        b"05\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"1_0\r\n0123456789abcdef\r\n",
        b"5\nhello\r\n",
        b"5\r\nhello\n\n",
        b"5\r\nhello!!",
        b"fffffffff\r\nhello\r\n",
        b"\r\n5\r\nhello\r\n",
    ],
)
def test_chunks_that_are_anything_but_whole_and_plain_are_left_to_the_parser(data: bytes) -> None:
    assert not answers().chunks(data)


@pytest.mark.parametrize(
    "before", [b"5\r\nhel", b"5", b"5\r", b"5\r\n", b"5\r\nhello", b"5\r\nhello\r", b"5;x", b"0\r\n", b"0\r\nX: y\r\n"]
)
def test_no_chunk_begins_in_the_middle_of_one(before: bytes) -> None:
    reader = answers()
    reader.feed(before)
    assert not reader.chunks(chunks(b"smuggled"))


def test_a_body_of_known_length_has_no_chunks() -> None:
    reader = answers(head=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    assert not reader.chunks(chunks(b"body"))


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_however_a_stream_is_cut_the_client_gets_the_same_bytes(pieces: list[bytes], cuts: list[int]) -> None:
    data = chunks(*pieces) + b"0\r\n\r\n"
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    reader = answers()
    body, ended = b"", False
    for start, stop in pairwise(edges):
        part = data[start:stop]
        if reader.chunks(part):
            plain = ResponseReader(Limits())
            plain.feed(HEAD)
            body += b"".join(event for event in plain.feed(part) if isinstance(event, bytes))
            continue
        for event in reader.feed(part):
            assert isinstance(event, bytes) or event is END
            if isinstance(event, bytes):
                body += event
            else:
                ended = True
    assert (body, ended) == (b"".join(pieces), True)
