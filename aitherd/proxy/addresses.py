"""Where an upstream is reached, with what it is shown there: TLS, and the key that no client ever sees."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from aitherd.core.upstreams import Node, Upstream
from aitherd.core.words import Seconds

PASSED_ON = frozenset(
    {b"accept", b"content-type", b"openai-beta", b"anthropic-version", b"anthropic-beta", b"idempotency-key"}
)
"""The only fields of a client that leave the machine. Answers are wanted as they are, so not even Accept-Encoding."""
ANTHROPIC_VERSION = b"anthropic-version: 2023-06-01\r\n"
"""What a request for messages that names no version means. Anthropic refuses requests without one."""
KEPT_BACK = frozenset({b"set-cookie", b"openai-organization", b"openai-project", b"access-control-allow-origin"})
"""Fields of an upstream's answer that are between it and us."""


@dataclass(frozen=True, slots=True, eq=False)
class Address:
    """One node, ready to be connected to."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    connect_timeout: Seconds
    named: bytes
    """For the Host header."""
    prefix: bytes
    """What its paths begin with in place of `/v1`."""
    own: bytes = field(repr=False)
    """Header lines of ours, the key among them."""
    label: str = ""

    def __str__(self) -> str:
        return self.label

    def target(self, path: bytes) -> bytes:
        """The path of a request there."""
        return self.prefix + path.removeprefix(b"/v1")

    def fields(self, client: bytes, path: bytes = b"") -> bytes:
        """The header lines to send, given those that a client sent with a request for `path`."""
        kept = {line.partition(b":")[0].lower(): line for line in client.split(b"\r\n") if line}
        lines = b"".join(line + b"\r\n" for name, line in kept.items() if name in PASSED_ON)
        versioned = b"anthropic-version" in kept or not path.startswith(b"/v1/messages")
        return lines + self.own + (b"" if versioned else ANTHROPIC_VERSION)


def address(upstream: Upstream, node: Node, key: str) -> Address:
    """The address of a node. Raises OSError when the certificates to trust cannot be read."""
    host = f"[{node.host}]" if ":" in node.host else node.host
    default = node.port == (443 if node.tls else 80)
    shown = f"x-api-key: {key}" if upstream.key_header == "x-api-key" else f"Authorization: Bearer {key}"
    own = "User-Agent: aitherd\r\n" + (f"{shown}\r\n" if key else "")
    return Address(
        host=node.host,
        port=node.port,
        tls=tls(upstream.authority) if node.tls else None,
        connect_timeout=upstream.connect_timeout,
        named=(host if default else f"{host}:{node.port}").encode(),
        prefix=node.path.encode(),
        own=own.encode(),
        label=str(node),
    )


def tls(authority: str) -> ssl.SSLContext:
    """Certificates and host names are always checked. Raises OSError when `authority` cannot be read."""
    context = ssl.create_default_context(cafile=authority or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def credential(name: str) -> str:
    """A key that systemd passed (systemd.exec(5), CREDENTIALS_DIRECTORY). Raises OSError, ValueError for no key."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise FileNotFoundError("no credentials were passed to aitherd")
    key = (Path(directory) / name).read_text(encoding="ascii").strip()
    if not key or not key.isprintable():
        raise ValueError("it holds no key")
    return key


def answer_fields(lines: bytes) -> bytes:
    """The header lines of an upstream's answer that a client gets."""
    return b"".join(
        line + b"\r\n" for line in lines.split(b"\r\n") if line and line.partition(b":")[0].lower() not in KEPT_BACK
    )
