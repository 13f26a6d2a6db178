"""A client without a library, so that its own cost is not in the figure: one connection a request, blocking."""

from __future__ import annotations

import json
import socket
from time import perf_counter
from typing import TypeAlias

Address: TypeAlias = tuple[socket.AddressFamily, str | tuple[str, int]]

TIMEOUT_S = 60.0


def get(address: Address, path: str) -> int:
    """The status of a GET, 0 when nobody answers."""
    try:
        with _connected(address) as plug:
            plug.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return int(plug.recv(4096).split()[1])
    except (OSError, IndexError):
        return 0


def post(address: Address, path: str, body: object) -> bytes:
    """The whole answer to a POST."""
    with _connected(address) as plug:
        plug.sendall(_request(path, body))
        parts = []
        while part := plug.recv(65536):
            parts.append(part)
        return b"".join(parts)


def first_byte(address: Address, model: str) -> float:
    """Seconds until the body of a streamed chat begins. Raises RuntimeError when the answer is not 200."""
    ask = {"model": model, "max_tokens": 1, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    began = perf_counter()
    with _connected(address) as plug:
        plug.sendall(_request("/v1/chat/completions", ask))
        answer = b""
        while not answer.partition(b"\r\n\r\n")[2]:
            part = plug.recv(65536)
            if not part:
                break
            answer += part
        seconds = perf_counter() - began
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{model} does not answer: {answer.decode(errors='replace')}")
        while plug.recv(65536):
            """To the end, so that nothing is in flight any more."""
    return seconds


def _request(path: str, body: object) -> bytes:
    data = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data


def _connected(address: Address) -> socket.socket:
    family, place = address
    plug = socket.socket(family)
    plug.settimeout(TIMEOUT_S)
    try:
        plug.connect(place)
    except OSError:
        plug.close()
        raise
    return plug
