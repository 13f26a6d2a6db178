"""Where requests may go, as people write it: routes, URLs, names of credentials, prices. Text to values, and no I/O."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from aitherd.config.problem import BadValue
from aitherd.core.upstreams import Node, Route

MAX_PRICE = 1_000_000.0
_UPSTREAM = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_CREDENTIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_URL_REMEDY = 'write it as "https://api.example.com/v1" or "http://spark.local:8120"'


def parse_route(value: object) -> Route:
    """`MODEL`, or `UPSTREAM/MODEL` where the model may have slashes of its own. Raises BadValue."""
    if not isinstance(value, str) or not value.isprintable() or " " in value or len(value) > 255:
        raise BadValue("not a route", 'name a model, as in "vision", or one of an upstream, as in "spark/reasoning"')
    upstream, slash, model = value.partition("/")
    if not slash:
        upstream, model = "", value
    if not model or (slash and not _UPSTREAM.fullmatch(upstream)):
        raise BadValue("not a route", 'write UPSTREAM/MODEL, as in "spark/reasoning"')
    return Route(model, upstream)


def parse_url(value: object) -> Node:
    """The root of an API of OpenAI's kind: with its path, or without for `/v1`. Raises BadValue."""
    if not isinstance(value, str):
        raise BadValue("not a URL", _URL_REMEDY)
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadValue(f"not a URL: {error}", _URL_REMEDY) from None
    if parts.scheme not in ("http", "https") or _HOST.fullmatch(host) is None or port == 0:
        raise BadValue("not an address of a server", _URL_REMEDY)
    if parts.username is not None or parts.password is not None:
        raise BadValue(
            "it has a password in it", 'store it as a systemd credential, and name that in key = "…"', secret=True
        )
    path = parts.path.rstrip("/")
    if parts.query or parts.fragment or _PATH.fullmatch(path) is None or ".." in path:
        raise BadValue("it has more than an address and a plain path", _URL_REMEDY)
    tls = parts.scheme == "https"
    return Node(tls, host, port or (443 if tls else 80), path or "/v1")


def parse_credential(value: object) -> str:
    """The name of a systemd credential. Raises BadValue."""
    if not isinstance(value, str) or _CREDENTIAL.fullmatch(value) is None:
        # What is no name may be the key itself, written here by mistake; it must not be shown again.
        raise BadValue(
            "not the name of a credential",
            "the key itself belongs into LoadCredentialEncrypted= of aitherd.service",
            secret=True,
        )
    return value


def parse_price(value: object) -> float:
    """An amount of money, in whatever currency its owner counts. Raises BadValue."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_PRICE:
        raise BadValue("not an amount", f"write a number from 0 to {MAX_PRICE:.0f}, as in 2.50")
    return float(value)


def parse_file(value: object) -> str:
    """An absolute path. Raises BadValue."""
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise BadValue("not an absolute path", 'write it as "/etc/aither/ca.pem"')
    return value
