"""The proxy as a whole: its listeners, the clock that looks at deadlines, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from time import monotonic, time
from typing import Any

from aitherd.conductor.operations import Leasing, Operations, Past
from aitherd.conductor.records import Records
from aitherd.core.words import Seconds
from aitherd.proxy.callers import Callers
from aitherd.proxy.connection import ClientConnection
from aitherd.proxy.exchange import Context
from aitherd.proxy.limits import Limits
from aitherd.proxy.metrics import Metrics
from aitherd.proxy.routing import Routing
from aitherd.proxy.turned_away import TurnedAway, room

BACKLOG = 4096
"""Clients that may wait to be accepted; the kernel caps it at net.core.somaxconn."""


class Proxy:
    """The proxy: give it listening sockets with `serve`, end it with `close_listeners` and `drain`."""

    def __init__(
        self,
        operations: Operations,
        limits: Limits | None = None,
        routing: Routing | None = None,
        callers: Callers | None = None,
        *,
        leasing: Leasing | None = None,
        records: Records | None = None,
        past: Past | None = None,
    ) -> None:
        """`routing` knows the tiers, `callers` who asks; without them there are no tiers, quotas and keys.

        `leasing`, `records` and `past` are only shown.
        """
        self._context = Context(operations, limits or Limits(), int(time()), routing, callers, leasing, records, past)
        self._room = room(self._context.limits)
        self._turned_away: set[TurnedAway] = set()
        self._servers: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None
        self._context.wind = self._wind

    @property
    def metrics(self) -> Metrics:
        """What the proxy has counted."""
        return self._context.metrics

    def tokens(self, model: str) -> int:
        """Tokens of a model's answers since the daemon began."""
        tally = self.metrics.models.get(model)
        return 0 if tally is None else tally.tokens.total

    async def serve(self, sockets: list[socket.socket]) -> None:
        """Accepts clients on `sockets` (Unix or TCP, bound) from now on. A Unix socket's path is left in place."""
        loop = asyncio.get_running_loop()
        for plug in sockets:
            if plug.family == socket.AF_UNIX:
                # systemd goes on listening there.
                kept: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
                server = await loop.create_unix_server(self._accept, sock=plug, backlog=BACKLOG, **kept)
            else:
                server = await loop.create_server(self._accept, sock=plug, backlog=BACKLOG)
            self._servers.append(server)

    def close_listeners(self) -> None:
        """Accepts no more clients. Connections live on."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def drain(self, timeout: Seconds) -> None:
        """Lets requests under way end for up to `timeout` seconds, refuses those that have not, closes everything."""
        self._context.draining = True
        self._context.events.close()
        for connection in tuple(self._context.clients):
            connection.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._context.no_clients.wait(), timeout)
        for connection in tuple(self._context.clients):
            connection.abort()
        tasks = tuple(self._context.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._context.routing.close()
        self._context.pool.close()
        self._context.access.close()
        # Transports that were told to close do so in the loop's next turns.
        await asyncio.sleep(0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _accept(self) -> asyncio.Protocol:
        if len(self._context.clients) >= self._room:
            self._context.metrics.refused += 1
            return TurnedAway(self._context.limits, self._turned_away)
        return ClientConnection(self._context)

    def _wind(self) -> None:
        """Has the clock go, now that there is a connection. Earlier it could end before the connection is made."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._context.limits.tick, self._tick)

    def _tick(self) -> None:
        """Looks at all deadlines. Runs only while there are connections, so that idling costs nothing."""
        now = monotonic()
        for connection in tuple(self._context.clients):
            connection.tick(now)
        spare = self._context.pool.tick(now)
        again = bool(self._context.clients) or spare
        self._timer = asyncio.get_running_loop().call_later(self._context.limits.tick, self._tick) if again else None
