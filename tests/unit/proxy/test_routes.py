"""Whose path is whose."""

from __future__ import annotations

from urllib.parse import quote_from_bytes, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitherd.errors import AitherError
from aitherd.proxy.refusals import BadRequest, NoSuchRoute, WrongMethod
from aitherd.proxy.routes import CONTROL, MODEL, SWAP, UNLOAD, UPSTREAM, Handling, Route, find, guard


@pytest.mark.parametrize(
    ("path", "route", "name", "target"),
    [
        (b"/v1/models/a%2Fb", MODEL, "a/b", b""),
        (b"/swap/request-vision", SWAP, "vision", b""),
        (b"/api/models/unload/vision", UNLOAD, "vision", b""),
        (b"/upstream/vision", UPSTREAM, "vision", b"/"),
        (b"/upstream/vision/a/b%20c", UPSTREAM, "vision", b"/a/b%20c"),
    ],
)
def test_paths_that_carry_a_name(path: bytes, route: Route, name: str, target: bytes) -> None:
    match = find(b"POST" if route in {SWAP, UNLOAD} else b"GET", path)
    assert (match.route, match.name, match.target) == (route, name, target)


@pytest.mark.parametrize(
    "path", [b"/page", b"/v1", b"/v1/models/", b"/upstream", b"/upstream/", b"/upstream//x", b"/V1/models", b"*"]
)
def test_paths_that_are_nobodys(path: bytes) -> None:
    with pytest.raises(NoSuchRoute):
        find(b"GET", path)


def test_methods() -> None:
    assert find(b"POST", b"/v1/embeddings").route.handling is Handling.JSON
    with pytest.raises(WrongMethod, match="use POST, OPTIONS"):
        find(b"GET", b"/v1/embeddings")
    assert find(b"DELETE", b"/upstream/x/y").route is UPSTREAM


TRICKS = st.sampled_from(["", "/", "/api", "/v1", "//", "/.", "/x/..", "%2f", "/%2e", "\\", "/API", "/v1/api"])


@given(
    TRICKS,
    st.sampled_from(sorted(CONTROL)),
    st.sampled_from(["", "/", "/x", ";x", "%3b", "%20", "%2f..", "%00"]),
    st.integers(0, 2),
)
def test_no_spelling_of_a_control_path_passes(before: str, control: str, after: str, times: int) -> None:
    path = f"{before}/{control}{after}".encode()
    for _ in range(times):
        path = b"".join(b"%%%02x" % byte if byte not in b"/%" else bytes([byte]) for byte in path)
    with pytest.raises((NoSuchRoute, BadRequest)):
        guard(path)


@given(st.binary())
def test_what_passes_is_plain(text: bytes) -> None:
    path = b"/" + quote_from_bytes(text, safe="/%").encode()
    try:
        guard(path)
    except AitherError:
        return
    segments = unquote_to_bytes(path).split(b"/")
    assert not {b".", b".."} & set(segments)
    assert b"" not in segments[1:-1]
    assert segments[1].decode(errors="replace").casefold() not in CONTROL
