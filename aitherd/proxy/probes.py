"""Asks upstreams in the background whether they live and which models they have. Wakes nothing, costs nothing there.

There is one task for each node and none without upstreams. Requests tell as well, see `journey.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import random
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from aitherd.core.retries import Failure, of_status, rest_seconds
from aitherd.core.words import Bytes, Seconds
from aitherd.proxy.addresses import ANTHROPIC_VERSION
from aitherd.proxy.remotes import Peer, Remote

if TYPE_CHECKING:
    import httpx

LIST_MAX: Bytes = 4 * 1024 * 1024
"""A longer list of models is none."""
JITTER = 0.2
"""Part of the interval by which probes come earlier or later, so that many daemons do not keep step."""
PROBE_TIMEOUT: Seconds = 10.0


class _Listed(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Listed]


async def watch(remote: Remote, peer: Peer, clock: Callable[[], Seconds] = monotonic) -> None:
    """Probes one node for ever."""
    # Importing it takes a tenth of a second.
    await asyncio.to_thread(__import__, "httpx")
    import httpx

    verify = peer.address.tls or False
    async with httpx.AsyncClient(verify=verify, trust_env=False, timeout=PROBE_TIMEOUT, http2=False) as client:
        while True:
            await probe(client, peer, clock)
            interval = remote.upstream.probe_interval
            await asyncio.sleep(interval * (1 + JITTER * (2 * random() - 1)))


async def probe(client: httpx.AsyncClient, peer: Peer, clock: Callable[[], Seconds]) -> None:
    """Asks one node once for its models, and notes what came of it."""
    import httpx

    lines = (peer.address.own + ANTHROPIC_VERSION).decode().splitlines()
    headers = dict(line.split(": ", 1) for line in lines)
    try:
        async with client.stream("GET", f"{peer.node}/models", headers=headers) as answer:
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > LIST_MAX:
                    break
    except httpx.ConnectError as error:
        peer.failed(clock(), Failure.CONNECT, f"it cannot be reached: {error}")
    except httpx.TimeoutException:
        peer.failed(clock(), Failure.SILENT, "it did not answer a probe in time")
    except httpx.HTTPError as error:
        peer.failed(clock(), Failure.BROKEN, f"it broke off a probe: {error}")
    else:
        failure = of_status(answer.status_code)
        if failure in (None, Failure.UNKNOWN):
            # Not everything that serves a model lists it.
            peer.models = _listed(bytes(body)) if failure is None else frozenset()
            peer.succeeded(probe=True)
        else:
            assert failure is not None
            reason = f"it answers {answer.status_code} to a probe"
            peer.failed(clock(), failure, reason, rest_seconds(answer.headers.get("retry-after", "")))


def _listed(body: bytes) -> frozenset[str]:
    try:
        return frozenset(one.id for one in msgspec.json.decode(body, type=_List).data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()
