"""Suspends of the machine: logind says when one is over, and the clocks say that there was one.

What has to be done about it is not known here. logind: org.freedesktop.login1(5); clocks: clock_gettime(2).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sdbus import SdBus
from sdbus.exceptions import SdBusBaseError
from sdbus.sd_bus_internals import SdBusMessage

from aitherd.core.words import Seconds
from aitherd.host import dbus
from aitherd.host.dbus import Refused

LOGIND = "org.freedesktop.login1"
LOGIND_PATH = "/org/freedesktop/login1"
BROKER, BROKER_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"


def slept() -> Seconds:
    """How long the machine has been suspended since it booted. It grows by nothing but a suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


async def watch(bus: SdBus, resumed: Callable[[], None]) -> None:
    """Calls `resumed` whenever logind says that a suspend is over, until cancelled.

    On a bus without logind, as a user's is, nobody says so, and only the clocks tell.
    """
    senders: asyncio.Queue[str] = asyncio.Queue()

    def told(signal: SdBusMessage) -> None:
        (begins,) = signal.parse_to_tuple()
        if not begins and signal.sender is not None:
            senders.put_nowait(signal.sender)

    try:
        slot = await bus.match_signal_async(LOGIND, LOGIND_PATH, f"{LOGIND}.Manager", "PrepareForSleep", told)
    except SdBusBaseError:
        # The connection is gone, which ends the daemon anyway.
        return
    try:
        while True:
            if await _is_logind(bus, await senders.get()):
                resumed()
    finally:
        slot.close()


async def _is_logind(bus: SdBus, sender: str) -> bool:
    """The broker filters what is broadcast, not what somebody sends to us alone."""
    try:
        (owner,) = await dbus.ask(bus, BROKER, BROKER_PATH, BROKER, "GetNameOwner", "s", LOGIND)
    except Refused:
        return False
    return bool(owner == sender)
