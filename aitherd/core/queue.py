"""Waiting lines: which model that is waited for is brought in next, and who of a line goes first.

Only the order is decided here. Whether there is room for a model is the arbiter's to say; who waits, and how a wait
ends, is the conductor's business. A ready model has no line: its requests never wait behind a swap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from aitherd.core.callers import Caller
from aitherd.core.policy import DEFAULTS, Policy
from aitherd.core.words import Priority, Seconds

QUICKEST: Seconds = 0.1
"""A load is never counted as quicker than this, so that an expected duration of 0 does not outweigh everything."""
NOBODY: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Line:
    """Those who wait for one model."""

    model: str
    waiting: int
    """Requests; 0 when nobody waits and its class wants it up, which weighs as one request does."""
    oldest_since: Seconds
    """Since when the oldest waits."""
    seconds: Seconds
    """Expected time until the model is ready once its turn has come: a cold start, or a wake."""
    batch: int = 0
    """Those of `waiting` that are batch requests."""


def order(lines: Iterable[Line], now: Seconds, policy: Policy = DEFAULTS) -> tuple[str, ...]:
    """The models in the order in which to bring them in.

    First the lines whose oldest request has waited beyond the age bound, the oldest first, so that no line starves.
    Then the others by what a second of loading buys: requests, of which batch ones weigh less and all weigh more the
    longer the oldest has waited, over load seconds. Equal lines go by age, then by name.
    """
    return tuple(line.model for line in sorted(lines, key=lambda line: _rank(line, now, policy)))


def overdue_from(line: Line, policy: Policy = DEFAULTS) -> Seconds:
    """Monotonic instant from which on the oldest of `line` has waited for as long as the age bound allows."""
    return line.oldest_since + max(policy.age_bound, policy.age_loads * line.seconds)


def displaced(line: Sequence[Caller], newcomer: Caller) -> int | None:
    """Who leaves a full line, oldest first, for a request of `newcomer`; None when that has to go away instead.

    The youngest batch request leaves for an interactive one. Among requests of one priority it is the youngest of the
    caller with the most of them for its weight, if that has more than the newcomer would have: so that nobody can fill
    a line alone, and two callers never take turns at displacing each other.
    """
    if newcomer.priority is Priority.INTERACTIVE:
        batch = next((at for at in reversed(range(len(line))) if line[at].priority is Priority.BATCH), None)
        if batch is not None:
            return batch
    equals = [caller for caller in line if caller.priority is newcomer.priority]
    shares = {
        caller.name: sum(one.name == caller.name for one in equals) / caller.weight
        for caller in equals
        if caller.name != newcomer.name
    }
    if not shares:
        return None
    most = max(shares, key=lambda name: shares[name])
    if shares[most] <= (sum(one.name == newcomer.name for one in equals) + 1) / newcomer.weight:
        return None
    return max(at for at, one in enumerate(line) if one.name == most and one.priority is newcomer.priority)


def turns(line: Sequence[Caller], under_way: Mapping[str, int] = NOBODY) -> tuple[int, ...]:
    """The places of a line, oldest first, in the order in which they are served.

    Interactive requests come before batch ones. Among equals callers take turns by their weights, counting what each
    has `under_way` already; of one caller's the oldest goes first.
    """
    count = dict(under_way)
    places: list[tuple[bool, float, int]] = []
    for at, caller in enumerate(line):
        count[caller.name] = count.get(caller.name, 0) + 1
        places.append((caller.priority is Priority.BATCH, count[caller.name] / caller.weight, at))
    return tuple(at for _, _, at in sorted(places))


def _rank(line: Line, now: Seconds, policy: Policy) -> tuple[float, float, str]:
    age = max(now - line.oldest_since, 0.0)
    if now >= overdue_from(line, policy):
        return (float("-inf"), line.oldest_since, line.model)
    weight = line.waiting - line.batch * (1.0 - policy.batch_weight) if line.waiting else 1.0
    demand = weight * (1.0 + age / policy.age_bound)
    return (-demand / max(line.seconds, QUICKEST), line.oldest_since, line.model)
