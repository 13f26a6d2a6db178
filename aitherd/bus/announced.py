"""Objects that tell of their changes: which properties an object has, and which of them are announced when.

Changes are announced only where a value differs from the one announced last. Those that traffic makes (TRAFFIC) are
announced at most every TRAFFIC_INTERVAL for each object, so that a busy proxy does not flood the bus; all others at the
next turn of the announcer. Without changes there is no timer. Reading a property always gives the value of now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import structlog
from sdbus import DbusInterfaceCommonAsync, DbusPropertyEmitsChangeFlag, SdBusBaseError
from sdbus.dbus_proxy_async_property import DbusPropertyAsync

from aitherd.core.words import Seconds

TURN: Seconds = 0.05
"""Changes are collected for this long."""
TRAFFIC_INTERVAL: Seconds = 0.5
TRAFFIC = frozenset(
    {
        "InFlight",
        "Waiting",
        "Busy",
        "LastUsed",
        "StopsAt",
        "MeasuredBytes",
        "Free",
        "Foreign",
        "Leases",
        "Nodes",
        "Latency",
        "Spent",
    }
)
NOISE = {"StopsAt": 500_000}
"""Differences up to this are none: the instant is computed from two clocks (microseconds)."""


@cache
def announced_properties(kind: type) -> tuple[DbusPropertyAsync[Any], ...]:
    """The properties of a class whose changes are announced, in the order in which they are written."""
    members = (member for base in kind.__mro__ for member in vars(base).values())
    return tuple(
        member
        for member in members
        if isinstance(member, DbusPropertyAsync) and member.flags & DbusPropertyEmitsChangeFlag
    )


class Announced(DbusInterfaceCommonAsync):
    """An object that has its changes announced."""

    INTERFACE: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, Any] = {}
        self._traffic_due: Seconds = 0.0

    def touch(self) -> None:
        """Something may have changed."""

    def remember(self) -> None:
        """Takes the values of now as announced: whoever learns of the object now reads them."""
        self._told = {entry.property_name: entry.property_getter(self) for entry in announced_properties(type(self))}

    def announce(self, now: Seconds) -> bool:
        """Announces what differs; `now` is monotonic. False if something has to wait for its interval."""
        held_back = False
        traffic = False
        changes: dict[str, tuple[str, Any]] = {}
        for entry in announced_properties(type(self)):
            name, value = entry.property_name, entry.property_getter(self)
            if not self._differs(name, value):
                continue
            if name in TRAFFIC:
                if now < self._traffic_due:
                    held_back = True
                    continue
                traffic = True
            changes[name] = (entry.property_signature, value)
        if changes:
            self.properties_changed.emit((self.INTERFACE, changes, []))
            self._told.update((name, value) for name, (_, value) in changes.items())
        if traffic:
            self._traffic_due = now + TRAFFIC_INTERVAL
        return not held_back

    def _differs(self, name: str, value: Any) -> bool:
        told = self._told.get(name)
        if name in NOISE and told and value:
            return bool(abs(told - value) > NOISE[name])
        return bool(told != value)


class Announcer:
    """Collects changed objects and has them announce what changed."""

    def __init__(self, before: Callable[[], None]) -> None:
        """`before` is called at the start of each turn; objects that it touches are part of that turn."""
        self._before = before
        self._changed: set[Announced] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._log = structlog.get_logger("aitherd")

    def touch(self, one: Announced) -> None:
        """It may have changed. Cheap: this is called for every request that begins or ends."""
        one.touch()
        self._changed.add(one)
        self._arm()

    def forget(self, one: Announced) -> None:
        """The object is exported no more."""
        self._changed.discard(one)

    def wake(self) -> None:
        """There is to be a turn, even without changed objects."""
        self._arm()

    def close(self) -> None:
        """Announces nothing more."""
        self._closed = True
        self._changed.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(TURN, self._turn)

    def _turn(self) -> None:
        try:
            self._before()
            now = asyncio.get_running_loop().time()
            self._changed = {one for one in self._changed if not one.announce(now)}
        except SdBusBaseError as error:
            # The connection is gone, and with it everybody who could listen.
            self._log.warning("changes cannot be announced on the bus", error=str(error))
            self.close()
        self._timer = None
        if self._changed:
            self._arm()
