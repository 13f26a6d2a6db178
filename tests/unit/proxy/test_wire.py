"""How heads are written."""

from __future__ import annotations

import pytest

from aitherd.proxy.wire import RequestHead, ResponseHead, chunk, framing, request_bytes, response_bytes, strike


def request(method: bytes = b"GET", *, http10: bool = False) -> RequestHead:
    return RequestHead(method, b"/", b"", http10, True, 0, b"", b"", False, b"", b"A: 1\r\n")


def response(status: int = 200, length: int | None = None, *, bodiless: bool = False) -> ResponseHead:
    return ResponseHead(status, b"OK", True, length, bodiless, True, b"")


CASES = [
    # method, HTTP/1.0, length, bodiless, may keep -> lines, chunked, keeps
    (b"GET", False, 5, False, True, b"Content-Length: 5\r\n", False, True),
    (b"GET", False, None, False, True, b"Transfer-Encoding: chunked\r\n", True, True),
    (b"GET", False, None, False, False, b"Transfer-Encoding: chunked\r\nConnection: close\r\n", True, False),
    (b"GET", True, 5, False, True, b"Content-Length: 5\r\nConnection: keep-alive\r\n", False, True),
    (b"GET", True, None, False, True, b"Connection: close\r\n", False, False),
    (b"GET", False, None, True, True, b"", False, True),
    (b"GET", False, 5, True, True, b"", False, True),
    (b"HEAD", False, 5, True, True, b"Content-Length: 5\r\n", False, True),
    (b"HEAD", False, None, True, True, b"", False, True),
    (b"HEAD", True, None, True, True, b"Connection: keep-alive\r\n", False, True),
]


@pytest.mark.parametrize(("method", "http10", "length", "bodiless", "may", "lines", "chunked", "keeps"), CASES)
def test_framing(
    method: bytes, http10: bool, length: int | None, bodiless: bool, may: bool, lines: bytes, chunked: bool, keeps: bool
) -> None:
    answer = response(length=length, bodiless=bodiless)
    assert framing(request(method, http10=http10), answer, keep=may) == (lines, chunked, keeps)


def test_heads_as_bytes() -> None:
    assert request_bytes(request(), b"/x?y", b"h", 0) == b"GET /x?y HTTP/1.1\r\nHost: h\r\nA: 1\r\n\r\n"
    assert b"Content-Length: 0\r\n" in request_bytes(request(b"POST"), b"/", b"h", 0)
    assert b"Transfer-Encoding: chunked\r\n" in request_bytes(request(), b"/", b"h", None)
    assert response_bytes(response(), b"X: 1\r\n", b"Y: 2\r\n") == b"HTTP/1.1 200 OK\r\nX: 1\r\nY: 2\r\n\r\n"
    assert chunk(b"x" * 17) == b"11\r\n" + b"x" * 17 + b"\r\n"


def test_fields_that_connection_names_are_struck() -> None:
    fields = [b"A", b": ", b"1", b"\r\n", b"b", b": ", b"2", b"\r\n"]
    assert strike(fields, b"close, B,upgrade") == {b"close", b"b", b"upgrade"}
    assert fields == [b"A", b": ", b"1", b"\r\n"]
