"""Connections to engines and upstreams, and the pool that keeps idle ones for the next request. Knows no clients."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol, TypeAlias, cast

from aitherd.core.words import Endpoint, Seconds
from aitherd.proxy.addresses import Address
from aitherd.proxy.limits import Limits
from aitherd.proxy.refusals import UpstreamFailed
from aitherd.proxy.response_reader import SIZE_LINE, ResponseReader, sizes
from aitherd.proxy.wire import ResponseEvent, ResponseHead

_RETRY_FIRST: Seconds = 0.001
_RETRY_MOST: Seconds = 0.05


Place: TypeAlias = Endpoint | Address
"""Where there is something to connect to: an engine, or a node of an upstream."""


class Owner(Protocol):
    """Whoever uses a connection at the moment."""

    def answered(self, events: list[ResponseEvent]) -> None:
        """The engine sent something."""

    def answered_whole(self, head: ResponseHead, body: bytes) -> None:
        """The engine sent an answer, whole and nothing else."""

    def tunnelled(self, data: bytes) -> None:
        """The engine sent something after the connection became a tunnel."""

    def upstream_lost(self, error: Exception | None) -> None:
        """The connection is gone; `error` is None when the engine closed it in order."""

    def upstream_full(self) -> None:
        """The engine reads slower than it is written to."""

    def upstream_drained(self) -> None:
        """It has caught up."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to one engine. It has an owner while a request uses it, and none while it is spare."""

    def __init__(self, pool: Pool, place: Place, limits: Limits) -> None:
        self._pool = pool
        self._reader = ResponseReader(limits)
        self.transport: asyncio.Transport = cast("Any", None)
        if isinstance(place, Address):
            self.key: str | int | Address | None = place
            self.host = place.named
        else:
            self.key = place.socket or place.port
            self.host = b"localhost" if place.port is None else b"127.0.0.1:%d" % place.port
        self.owner: Owner | None = None
        self.heard = False
        """Whether the engine has sent a byte since the request was sent."""
        self.reused = False
        """Whether it served a request before this one, so that the engine may have closed it meanwhile."""
        self.tunnel = False
        self.through: Callable[[bytes], None] | None = None
        """Takes whole chunks of the answer as they are, instead of the owner."""
        self._held = False
        self.spare_since: Seconds = 0.0

    def open(self, owner: Owner, *, head_only: bool) -> None:
        """Begins a request of `owner`; `head_only` for HEAD."""
        self.owner = owner
        self.heard = False
        self.through = None
        self._reader.expect(head_only=head_only)

    def drop(self) -> None:
        """Ends it at once, whatever is still under way. The owner hears no more."""
        self.owner = self.through = None
        self.transport.abort()

    def hold(self) -> None:
        """Stops reading the answer."""
        if not self.transport.is_closing():
            self._held = True
            self.transport.pause_reading()

    def go_on(self) -> None:
        """Reads the answer again."""
        if self._held and not self.transport.is_closing():
            self._held = False
            self.transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        owner = self.owner
        if owner is None:
            # An engine that talks without being asked cannot be trusted with the next request.
            self.transport.abort()
            return
        self.heard = True
        through = self.through
        if through is not None:
            reader = self._reader
            line = data.find(b"\r\n", 0, SIZE_LINE)
            # Nearly always it is one chunk with a size that has been seen before.
            one = reader.may_chunk and sizes.get(data[:line]) == len(data) - line - 4 and data.endswith(b"\r\n")
            if one or reader.chunks(data):
                through(data)
                return
        if self.tunnel:
            owner.tunnelled(data)
        elif body := self._reader.again(data):
            owner.answered_whole(self._reader.same, body)
        else:
            owner.answered(self._reader.feed(data))

    def connection_lost(self, error: Exception | None) -> None:
        self._pool.closed(self)
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.upstream_lost(error)

    def pause_writing(self) -> None:
        if self.owner is not None:
            self.owner.upstream_full()

    def resume_writing(self) -> None:
        if self.owner is not None:
            self.owner.upstream_drained()


class Pool:
    """All connections to engines. Spare ones are taken newest first, so that bursts do not keep old ones alive."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._all: set[UpstreamConnection] = set()
        self._spare: dict[str | int | Address | None, deque[UpstreamConnection]] = {}
        """By socket path, port or address."""

    def take(self, place: Place) -> UpstreamConnection | None:
        """A spare connection, or None."""
        spare = self._spare.get((place.socket or place.port) if type(place) is Endpoint else cast("Address", place))
        while spare:
            connection = spare.pop()
            if not connection.transport.is_closing():
                connection.reused = True
                return connection
        return None

    def give(self, connection: UpstreamConnection) -> None:
        """Takes back a connection whose answer is complete."""
        connection.owner = connection.through = None
        spare = self._spare.get(connection.key)
        if spare is None:
            spare = self._spare[connection.key] = deque()
        if connection.transport.is_closing() or len(spare) >= self._limits.upstream_spare:
            connection.transport.close()
            return
        # The end of an answer may have been what filled its client.
        connection.go_on()
        connection.spare_since = monotonic()
        spare.append(connection)

    async def connect(self, place: Place) -> UpstreamConnection:
        """A new connection. Raises UpstreamFailed."""
        remote = isinstance(place, Address)
        bound = place.connect_timeout if isinstance(place, Address) else self._limits.connect_timeout
        what = "upstream" if remote else "engine"
        try:
            async with asyncio.timeout(bound):
                transport, made = await self._open(place)
        except TimeoutError:
            raise UpstreamFailed(f"the {what} at {place} does not accept connections", retry_after=1) from None
        except OSError as error:
            # Errors of TLS and of names have their text elsewhere.
            said = error.strerror or str(error)
            raise UpstreamFailed(f"the {what} at {place} cannot be reached: {said}", retry_after=1) from None
        transport.set_write_buffer_limits(high=self._limits.high_water)
        return made

    async def _open(self, place: Place) -> tuple[asyncio.Transport, UpstreamConnection]:
        loop = asyncio.get_running_loop()

        def connection() -> UpstreamConnection:
            return UpstreamConnection(self, place, self._limits)

        if isinstance(place, Address):
            name = place.host if place.tls else None
            transport, made = await loop.create_connection(
                connection, place.host, place.port, ssl=place.tls, server_hostname=name
            )
        elif place.port is not None:
            transport, made = await loop.create_connection(connection, "127.0.0.1", place.port)
        else:
            plug = await _plug(str(place.socket))
            try:
                transport, made = await loop.create_unix_connection(connection, sock=plug)
            except BaseException:
                plug.close()
                raise
            return transport, made
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return transport, made

    def opened(self, connection: UpstreamConnection) -> None:
        """A connection tells that it exists."""
        self._all.add(connection)

    def closed(self, connection: UpstreamConnection) -> None:
        """A connection tells that it is gone."""
        self._all.discard(connection)
        spare = self._spare.get(connection.key)
        if spare and connection.owner is None and connection in spare:
            spare.remove(connection)

    def tick(self, now: Seconds) -> bool:
        """Closes what has been spare for too long. True while anything is spare. `now` is monotonic."""
        for key, spare in list(self._spare.items()):
            while spare and now - spare[0].spare_since >= self._limits.upstream_idle:
                spare.popleft().transport.close()
            if not spare:
                del self._spare[key]
        return bool(self._spare)

    def close(self) -> None:
        """Ends every connection."""
        self._spare.clear()
        for connection in tuple(self._all):
            connection.transport.abort()


async def _plug(path: str) -> socket.socket:
    """A connected Unix socket.

    With a full backlog (cpp-httplib's is 5) connecting fails at once with EAGAIN, which asyncio takes for progress
    (unix(7), connect): so it is done here, again and again until there is room or the caller's time is over.
    """
    delay = _RETRY_FIRST
    while True:
        plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            plug.setblocking(False)
            plug.connect(path)
        except BlockingIOError:
            plug.close()
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_MOST)
        except BaseException:
            plug.close()
            raise
        else:
            return plug
