"""What others do: the policies that the daemon is held against, over the same traces, sizes and times.

`reloads` counts what a policy of eviction costs when requests come one after another; `queue` runs a way of queueing
with one of them, as a small simulation of its own: one load at a time, nobody who works is stopped.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aitherd.core.words import Bytes, Seconds
from tests.simulator.traces import Arrival, Kind, Trace, by_name

STOPPING: Seconds = 1.3
"""From the signal until the bytes are back."""


@dataclass(slots=True)
class Standing:
    """What a policy knows of a resident model."""

    kind: Kind
    used: Seconds
    uses: int
    credit: float
    """GreedyDual-Size: the level at its last use, and what a byte of it costs."""
    in_flight: int = 0


Rank = Callable[[Standing], float]
"""The lowest goes first."""

POLICIES: dict[str, Rank] = {
    "LRU": lambda standing: standing.used,
    "LFU": lambda standing: standing.uses,
    "GDS": lambda standing: standing.credit,
}


class Shelf:
    """The resident models of one device under one policy."""

    def __init__(self, fleet: Sequence[Kind], capacity: Bytes, policy: str) -> None:
        self.fleet = by_name(fleet)
        self.standing: dict[str, Standing] = {}
        self.cost = 0.0
        self.loads = 0
        self._capacity = capacity
        self._rank = POLICIES[policy]
        self._level = 0.0
        self._uses: dict[str, int] = {}

    def use(self, name: str, now: Seconds) -> None:
        """A request for a resident model."""
        standing = self.standing[name]
        self._uses[name] = standing.uses = self._uses.get(name, 0) + 1
        standing.used = now
        standing.credit = self._level + standing.kind.load / standing.kind.size

    def victims(self, name: str) -> list[str] | None:
        """Who has to go for `name`; None when too many work."""
        short = self.fleet[name].size + sum(one.kind.size for one in self.standing.values()) - self._capacity
        found = []
        for standing in sorted(self.standing.values(), key=self._rank):
            if short <= 0:
                break
            if not standing.in_flight:
                found.append(standing.kind.name)
                short -= standing.kind.size
        return found if short <= 0 else None

    def drop(self, name: str) -> None:
        """Evicts."""
        self._level = max(self._level, self.standing.pop(name).credit)

    def add(self, name: str, now: Seconds) -> None:
        """Loads."""
        kind = self.fleet[name]
        self.standing[name] = Standing(kind, now, self._uses.get(name, 0), self._level + kind.load / kind.size)
        self.cost += kind.load
        self.loads += 1


def reloads(trace: Trace, fleet: Sequence[Kind], capacity: Bytes, policy: str) -> Seconds:
    """Load seconds when requests come one after another."""
    shelf = Shelf(fleet, capacity, policy)
    for arrival in trace:
        if arrival.model not in shelf.standing:
            for victim in shelf.victims(arrival.model) or ():
                shelf.drop(victim)
            shelf.add(arrival.model, arrival.at)
        shelf.use(arrival.model, arrival.at)
    return shelf.cost


@dataclass(slots=True)
class Outcome:
    """What came of a trace."""

    waits: list[tuple[Arrival, Seconds]] = field(default_factory=list)
    """Each request with how long it waited for its model."""
    loads: int = 0
    cost: Seconds = 0.0


def queue(trace: Trace, fleet: Sequence[Kind], capacity: Bytes, policy: str, *, lines: bool, alone: bool) -> Outcome:
    """Runs `trace`. With `lines`, a line per model, the oldest first; else one line for all, first come first served.

    With `alone`, one model at a time.
    """
    shelf = Shelf(fleet, 0 if alone else capacity, policy)
    outcome = Outcome()
    waiting: list[Arrival] = []
    events: list[tuple[Seconds, int, str, str]] = [
        (arrival.at, index, "arrives", str(index)) for index, arrival in enumerate(trace)
    ]
    heapq.heapify(events)
    loading = ""
    serial = len(trace)

    def later(at: Seconds, what: str, name: str) -> None:
        nonlocal serial
        serial += 1
        heapq.heappush(events, (at, serial, what, name))

    def serve(now: Seconds) -> None:
        for arrival in list(waiting):
            if arrival.model in shelf.standing:
                waiting.remove(arrival)
                shelf.use(arrival.model, now)
                shelf.standing[arrival.model].in_flight += 1
                outcome.waits.append((arrival, now - arrival.at))
                later(now + arrival.work, "ends", arrival.model)
            elif not lines:
                return

    def gone(name: str) -> list[str] | None:
        if not alone:
            return shelf.victims(name)
        return None if any(one.in_flight for one in shelf.standing.values()) else list(shelf.standing)

    while events:
        now, _, what, name = heapq.heappop(events)
        if what == "arrives":
            waiting.append(trace[int(name)])
        elif what == "ends":
            shelf.standing[name].in_flight -= 1
        else:
            loading = ""
            shelf.add(name, now)
        serve(now)
        if not loading:
            for model in dict.fromkeys(arrival.model for arrival in waiting):
                victims = gone(model)
                if victims is not None:
                    for victim in victims:
                        shelf.drop(victim)
                    loading = model
                    later(now + (STOPPING if victims else 0.0) + shelf.fleet[model].load, "loaded", model)
                    break
                if not lines:
                    break
    outcome.loads, outcome.cost = shelf.loads, shelf.cost
    return outcome
