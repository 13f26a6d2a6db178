"""What is noted of every exchange that ended: in the counters always, in the journal one by one or, in a flood, summed.

The journal takes so many records of a service in a time and drops the others (RateLimitBurst= of journald.conf(5)):
requests by the thousand would cost it the decisions that matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from time import monotonic
from typing import Any, Final, Protocol, TypeAlias

import structlog

from aitherd.conductor.operations import Past
from aitherd.core.callers import Caller
from aitherd.core.words import Bytes, Seconds
from aitherd.proxy.limits import Limits
from aitherd.proxy.metrics import Metrics

_AT_ONCE = 32
_LATE: Seconds = 0.05
_WINDOW: Seconds = 1.0


class Outcome(StrEnum):
    """How an exchange ended. Every exchange ends once."""

    COMPLETE = "complete"
    """With a whole answer, be it an error."""
    LEFT = "client left"
    BROKEN = "upstream broke off"
    """In the middle of the answer, which the client sees as a connection that is cut."""

    # It is part of a key for every request, and an enum's own hash takes a call.
    __hash__ = str.__hash__


_COMPLETE: Final = Outcome.COMPLETE


class Ended(Protocol):
    """An exchange that is over, as far as it is noted."""

    caller: Caller
    model: str
    route: str
    status: int
    outcome: Outcome
    seconds: Seconds
    first_byte: Seconds | None
    waited: Seconds | None
    received: Bytes
    sent: Bytes
    said: Mapping[str, Any]
    """Further fields of its record; one that has any is recorded by itself."""


_Kind: TypeAlias = tuple[str, str, str, int, Outcome]
"""What exchanges have in common that are summed: caller, model, route, status, outcome."""


class _Sum:
    """Of exchanges of one kind."""

    __slots__ = ("count", "longest", "received", "seconds", "sent")

    def __init__(self) -> None:
        self.count = 0
        self.seconds: Seconds = 0.0
        self.longest: Seconds = 0.0
        self.received: Bytes = 0
        self.sent: Bytes = 0


class AccessLog:
    """Takes note of exchanges. Counting costs as much as relaying: it is done for several at a time, a moment later."""

    def __init__(self, metrics: Metrics, limits: Limits, past: Past | None = None) -> None:
        self._metrics = metrics
        self._past = past
        self._limits = limits
        self._ended: list[Ended] = []
        """Neither counted nor recorded yet."""
        self._sums: dict[_Kind, _Sum] = {}
        self._since: Seconds = 0.0
        """Beginning of the window, monotonic."""
        self._left = 0
        """How many more may be recorded one by one in it."""
        self._timer: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger("aitherd.access")

    def add(self, exchange: Ended) -> None:
        """An exchange ended."""
        self._ended.append(exchange)
        if len(self._ended) >= _AT_ONCE:
            self.write()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LATE, self.write)

    def write(self) -> None:
        """Counts what has ended, and records it, without its content."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = monotonic()
        if now - self._since >= _WINDOW:
            self._write_sums()
            self._since, self._left = now, self._limits.records
        ended, self._ended = self._ended, []
        for exchange in ended:
            outcome = exchange.outcome
            status = exchange.status
            counted = status if outcome is _COMPLETE else 499 if outcome is Outcome.LEFT else 502
            self._metrics.count(
                exchange.model, exchange.route, counted, exchange.seconds, exchange.first_byte, exchange.waited,
                exchange.received, exchange.sent,
            )  # fmt: skip
            if exchange.waited and self._past is not None:
                self._past.waited(exchange.model, exchange.waited)
            if self._left > 0 or exchange.said:
                self._left -= 1
                self._record(exchange)
            else:
                self._sum(exchange)
        if self._sums:
            self._timer = asyncio.get_running_loop().call_later(self._since + _WINDOW - now, self.write)

    def close(self) -> None:
        """Writes everything. There must be no more."""
        self.write()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._write_sums()

    def _record(self, exchange: Ended) -> None:
        self._log.info(
            f"{_about(exchange.route, exchange.model)}: {exchange.status}, {exchange.outcome.value} "
            f"after {exchange.seconds:.3f} s",
            aither_event="request",
            aither_model=exchange.model,
            caller=exchange.caller.name,
            route=exchange.route,
            status=exchange.status,
            outcome=exchange.outcome.value,
            waited=exchange.waited,
            first_byte=exchange.first_byte,
            received=exchange.received,
            sent=exchange.sent,
            seconds=exchange.seconds,
            **exchange.said,
        )

    def _sum(self, exchange: Ended) -> None:
        kind = (exchange.caller.name, exchange.model, exchange.route, exchange.status, exchange.outcome)
        found = self._sums.get(kind)
        if found is None:
            found = self._sums[kind] = _Sum()
        found.count += 1
        found.seconds += exchange.seconds
        if exchange.seconds > found.longest:
            found.longest = exchange.seconds
        found.received += exchange.received
        found.sent += exchange.sent

    def _write_sums(self) -> None:
        for (caller, model, route, status, outcome), found in self._sums.items():
            self._log.info(
                f"{_about(route, model)}: {found.count} more with {status}, {outcome.value}, "
                f"the longest after {found.longest:.3f} s",
                aither_event="requests",
                aither_model=model,
                caller=caller,
                route=route,
                status=status,
                outcome=outcome.value,
                requests=found.count,
                received=found.received,
                sent=found.sent,
                seconds=found.seconds,
                longest=found.longest,
            )
        self._sums.clear()


def _about(route: str, model: str) -> str:
    return f"{route} for {model}" if model else route
