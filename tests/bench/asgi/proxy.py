"""A proxy as one writes it in Python with uvicorn and httpx: runs in the peers' environment, see `peers.py`."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"host", b"content-length"})
_MADE = _HOP - {b"content-length"}
_client = httpx.AsyncClient(base_url=os.environ.get("BENCH_ENGINE", ""), timeout=60.0, limits=httpx.Limits())


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Sends a request on and streams its answer back."""
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(name, value) for name, value in scope["headers"] if name not in _HOP]
    request = _client.build_request(scope["method"], scope["path"], headers=headers, content=body)
    response = await _client.send(request, stream=True)
    kept = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in _MADE]
    await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
    async for part in response.aiter_raw():
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
    await response.aclose()
