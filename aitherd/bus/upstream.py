"""One upstream on the bus, and what the bus asks of whoever routes requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sdbus import DbusPropertyConstFlag, DbusPropertyEmitsChangeFlag, dbus_property_async

from aitherd.bus.announced import Announced
from aitherd.bus.names import UPSTREAM
from aitherd.bus.values import NodeRow, node, text
from aitherd.core.routing import Explanation, Request
from aitherd.core.upstreams import UpstreamStatus


class Routes(Protocol):
    """Where requests go, as the router knows it."""

    def explain(self, asked: str, tier: str, effort: str, request: Request) -> Explanation:
        """Where a request for `asked` would go now; `tier` and `effort` as its headers may say them, else empty.

        Changes nothing and asks nobody. Raises UnknownModel, UnknownTier or BadRequest as the request would.
        """

    def statuses(self) -> tuple[UpstreamStatus, ...]:
        """All upstreams, by name."""

    def status(self, upstream: str) -> UpstreamStatus | None:
        """One upstream; None when it is not configured any more."""

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """Calls `changed(upstream)` after each change of an upstream's status, `changed("")` when there are others.

        Returns the function that ends the subscription.
        """


class UpstreamObject(Announced, interface_name=UPSTREAM):
    """A server outside of this machine. Money is in the currency of its prices."""

    INTERFACE = UPSTREAM

    def __init__(self, status: UpstreamStatus, routes: Routes) -> None:
        super().__init__()
        self._last = status
        self._routes = routes

    @property
    def _status(self) -> UpstreamStatus:
        self._last = self._routes.status(self._last.name) or self._last
        return self._last

    @dbus_property_async("s", flags=DbusPropertyConstFlag, property_name="Name")
    def name(self) -> str:
        """As aitherd.toml names it."""
        return text(self._last.name)

    @dbus_property_async("s", flags=DbusPropertyEmitsChangeFlag, property_name="Kind")
    def kind(self) -> str:
        """Where it is: lan or cloud."""
        return str(self._status.reach)

    @dbus_property_async("s", flags=DbusPropertyEmitsChangeFlag, property_name="State")
    def state(self) -> str:
        """up, degraded (some of its nodes are given a rest), down (all are), capped (nothing may be spent today any
        more), or unusable.
        """
        return self._status.state

    @dbus_property_async("s", flags=DbusPropertyEmitsChangeFlag, property_name="Problem")
    def problem(self) -> str:
        """Why it is unusable; empty when it is not."""
        return text(self._status.problem)

    @dbus_property_async("a(sssuuut)", flags=DbusPropertyEmitsChangeFlag, property_name="Nodes")
    def nodes(self) -> list[NodeRow]:
        """Of each address: URL, circuit (closed, open, half-open), what failed last, requests in flight, how many there
        may be, weight, smoothed time to the first byte of an answer in microseconds (0: none yet).
        """
        return [node(one) for one in self._status.nodes]

    @dbus_property_async("as", flags=DbusPropertyEmitsChangeFlag, property_name="Models")
    def models(self) -> list[str]:
        """The models that its addresses list; empty when that is not known."""
        return [text(name) for name in sorted({name for one in self._status.nodes for name in one.models})]

    @dbus_property_async("u", flags=DbusPropertyEmitsChangeFlag, property_name="InFlight")
    def in_flight(self) -> int:
        """Requests that it answers now."""
        return sum(one.in_flight for one in self._status.nodes)

    @dbus_property_async("t", flags=DbusPropertyEmitsChangeFlag, property_name="Latency")
    def latency(self) -> int:
        """The shortest of its addresses' times to the first byte, in microseconds; 0 before there is any."""
        return min((row[-1] for row in map(node, self._status.nodes) if row[-1]), default=0)

    @dbus_property_async("d", flags=DbusPropertyEmitsChangeFlag, property_name="Spent")
    def spent(self) -> float:
        """What its answers have cost today (UTC)."""
        return self._status.spent

    @dbus_property_async("d", flags=DbusPropertyEmitsChangeFlag, property_name="DailyCap")
    def daily_cap(self) -> float:
        """What they may cost in a day; negative without a bound."""
        cap = self._status.cap
        return -1.0 if cap is None else cap
