"""The files of the live page, as they lie in `page/`: read once, sent with what a browser may do with them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aitherd.proxy.answers import Answer

DIRECTORY = Path(__file__).with_name("page")
FILES = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/page/style.css": ("style.css", b"text/css; charset=utf-8"),
    "/page/main.js": ("main.js", b"text/javascript; charset=utf-8"),
    "/page/show.js": ("show.js", b"text/javascript; charset=utf-8"),
    "/page/timeline.js": ("timeline.js", b"text/javascript; charset=utf-8"),
    "/page/trial.js": ("trial.js", b"text/javascript; charset=utf-8"),
    "/page/wire.js": ("wire.js", b"text/javascript; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", b"image/svg+xml"),
}
"""Path to the name of its file and its type."""

POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""Nothing from anywhere else, nothing written into the page itself, in nobody's frame. `blob:` and `data:` are pictures
that the person at the page chooses."""
PROTECTION = (
    b"Content-Security-Policy: %b\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"
    b"Referrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n"
    b"Cross-Origin-Opener-Policy: same-origin\r\n" % POLICY
)


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    tag: bytes


def page_answer(path: str, tags: bytes) -> Answer:
    """The file for `path`, a key of FILES; only that it has not changed to a client with its tag (If-None-Match)."""
    file = _read(path)
    # With an upgrade of the daemon the files change: they are asked for every time, and seldom sent.
    fields = b"ETag: %b\r\nCache-Control: no-cache\r\n" % file.tag + PROTECTION
    if tags.strip() == b"*" or file.tag in {tag.strip().removeprefix(b"W/") for tag in tags.split(b",")}:
        return Answer(304, b"", fields=fields)
    return Answer(200, file.body, FILES[path][1], fields)


@cache
def _read(path: str) -> _File:
    body = (DIRECTORY / FILES[path][0]).read_bytes()
    return _File(body, b'"%b"' % hashlib.sha256(body).hexdigest()[:20].encode())
