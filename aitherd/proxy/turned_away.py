"""Clients that there is no room for: how many there may be, and what the next one is told.

A descriptor that is missing when an engine is to be reached would fail a request that has been accepted, so clients
are bounded by what the process may open. Without any descriptor left the event loop closes what it accepts.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import cast

from aitherd.proxy.answers import error_answer
from aitherd.proxy.limits import Limits
from aitherd.proxy.refusals import TooManyClients

_FEWEST = 8
_AT_ONCE = 64
"""How many may be told at a time; more are closed without a word."""


def room(limits: Limits) -> int:
    """How many clients there may be at once: each needs a descriptor, and its request another one to its engine."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return limits.connections
    return max(min(limits.connections, (soft - limits.descriptors) // 2), _FEWEST)


class TurnedAway(asyncio.Protocol):
    """Tells one client to come again, and reads what it sends until it has seen that."""

    def __init__(self, limits: Limits, others: set[TurnedAway]) -> None:
        """`others` are all that there are of its kind."""
        self._limits = limits
        self._others = others
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        self._others.add(self)
        if len(self._others) > _AT_ONCE:
            transport.abort()
            return
        # Closing while the client still sends would make the kernel reset the connection, the answer lost.
        error = TooManyClients("there are as many clients as there may be", retry_after=1)
        transport.write(error_answer(error).wire(head_only=False, closing=True, keeping=False))
        if transport.get_extra_info("socket").family != socket.AF_UNIX:
            transport.write_eof()
            self._timer = asyncio.get_running_loop().call_later(self._limits.linger, transport.abort)
        else:
            transport.close()

    def data_received(self, data: bytes) -> None:
        """It is not read."""

    def connection_lost(self, error: Exception | None) -> None:
        self._others.discard(self)
        if self._timer is not None:
            self._timer.cancel()
