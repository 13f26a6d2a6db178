"""Who may be made to give way, what each way costs, and the cheapest set of ways that makes room.

A way costs what bringing its model back is expected to cost: reload seconds times how soon it is likely to be used, the
geometric mean of how often (uses, decayed) and how lately it was. Neither alone does as well on sessions that come in
bursts. The sizes enter through the search. Where the room is needed, and what to say, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from operator import add, attrgetter, gt
from typing import NamedTuple

from aitherd.core.policy import Policy
from aitherd.core.words import (
    Bytes,
    DeviceId,
    ModelView,
    Residency,
    ResidencyClass,
    Seconds,
    Verb,
    format_seconds,
)

# Looking a member up in its enum costs ten times a global's price, and these are needed for each model of a decision.
ESSENTIAL, RESIDENT = ResidencyClass.ESSENTIAL, ResidencyClass.RESIDENT
READY, SLEEPING = Residency.READY, Residency.SLEEPING
FREE, SLEEP, STOP = Verb.FREE, Verb.SLEEP, Verb.STOP

INFINITE = float("inf")
UNLIMITED: Bytes = 2**63

RARELY = 0.01
"""Uses that a model is credited with although nobody uses it: the cheaper reload gives way, and nobody in vain."""
QUICKEST: Seconds = 0.1
"""No reload is counted as quicker than this."""
DELAY = 0.001
"""Weight of the step's own seconds: between ways that cost the same, the quicker."""
DRAIN = 30.0
"""Added for a model that works, where an overdue line may have it drained: who is idle goes first, unless bringing that
back is expected to take much longer than a drain."""
SLEEPER = 3.0
"""What stopping a sleeper loses weighs so many times as much. It gives little room, and its next start takes the device
for long: all who want another model meanwhile wait for it as well."""
LAST = 1e9
"""Added for a resident model that would have to leave: any number of others goes first."""


class Release(NamedTuple):
    """One way in which one model can give bytes back. A tuple, because a decision makes hundreds."""

    model: str
    verb: Verb
    level: int
    """Sleep level, for `sleep`."""
    gives: Mapping[DeviceId, Bytes]
    """Bytes expected back, by device."""
    host: Bytes
    """Host bytes that it takes in exchange."""
    seconds: Seconds
    cost: float


def stays(model: ModelView, now: Seconds, policy: Policy) -> str:
    """Why `model` may not be made to give way, as a clause for people; empty when it may."""
    if model.residency_class is ESSENTIAL:
        return "essential"
    if model.residency is not READY and model.residency is not SLEEPING:
        return str(model.residency)
    if model.held:
        return "held"
    if model.busy and (model.foreign or not (policy.urgent and policy.patience)):
        return "busy"
    if model.waiting:
        return "requests wait for it"
    if not policy.urgent and (young := _youth(model, policy)) > now - model.ready_since:
        return f"ready for less than {format_seconds(young)}"
    return ""


def ripens(model: ModelView, policy: Policy) -> Seconds:
    """Monotonic instant from which on `model` is not too young to give way."""
    return model.ready_since + _youth(model, policy)


def _youth(model: ModelView, policy: Policy) -> Seconds:
    """How long it stays at least once it is ready: the longer, the longer bringing it back takes."""
    back = min([rung.wake for rung in model.ladder], default=model.start_seconds)
    return min(policy.min_residency, max(back - policy.quick, 0.0))


def ways(model: ModelView, now: Seconds, policy: Policy) -> tuple[Release, ...]:
    """The ways in which a model that may give way can give bytes back, as far as it has them: free, sleep, stop.

    Stopping is always among them, last, and gives the most; the others are listed where they cost less than it. Only a
    service that is not ours has one way alone, which gives all that it can give.
    """
    held, name = model.held_bytes, model.name
    idle = max(now - model.last_used, 0.0)
    often = model.frequency * 0.5 ** (idle / policy.half_life)
    uses = RARELY + sqrt(often * policy.lately / (idle + policy.lately))
    resident = (LAST if model.residency_class is RESIDENT else 0.0) + (DRAIN if model.busy else 0.0)
    back = model.start_seconds
    asleep = model.residency is SLEEPING
    if asleep:
        # What stopping a sleeper loses is that it wakes faster than it starts.
        back -= next((rung.wake for rung in model.ladder if rung.level == model.level), 0.0)
        back *= SLEEPER
    stop = uses * (back if back > QUICKEST else QUICKEST) + DELAY * model.stop_seconds + resident
    found: list[Release] = []
    if model.foreign:
        cost = uses * max(back, QUICKEST) + DELAY * model.free_seconds
        return (Release(name, FREE, 0, held, 0, model.free_seconds, cost),)
    if not asleep:
        if model.freeable > 0 and not model.busy and (total := sum(held.values())) > 0:
            # Reloading a part is taken to cost that part of a start. It stays ready: no penalty for a resident.
            part = min(model.freeable / total, 1.0)
            cost = uses * max(back * part, QUICKEST) + DELAY * model.free_seconds
            if cost < stop:
                gives = {device: int(count * part) for device, count in held.items()}
                found.append(Release(name, FREE, 0, gives, 0, model.free_seconds, cost))
        for rung in model.ladder:
            cost = uses * (rung.wake if rung.wake > QUICKEST else QUICKEST) + DELAY * rung.seconds + resident
            if cost < stop:
                residue = -(-rung.residue // (len(held) or 1))
                gives = {device: count - residue for device, count in held.items() if count > residue}
                found.append(Release(name, SLEEP, rung.level, gives, rung.host, rung.seconds, cost))
    found.append(Release(name, STOP, 0, held, 0, model.stop_seconds, stop))
    return tuple(found)


class _Way(NamedTuple):
    """A release as the search sees it."""

    density: float
    """Cost of a byte that helps."""
    cost: float
    gives: tuple[Bytes, ...]
    """Bytes that help, in the order of the devices that are short."""
    helps: Bytes
    """Their sum."""
    host: Bytes
    release: Release


class Search:
    """One decision's search for victims. Its budget of nodes is shared by all the places that are considered."""

    def __init__(self, policy: Policy, host_room: Bytes | None) -> None:
        """`host_room` is what sleepers may take of host memory; None, where it is not measured, is no limit."""
        self._left = policy.search_nodes
        self._host_room = UNLIMITED if host_room is None else host_room

    def cheapest(
        self,
        short: Mapping[DeviceId, Bytes],
        forced: Sequence[Sequence[Release]],
        free: Sequence[Sequence[Release]],
        bound: float = INFINITE,
    ) -> tuple[float, tuple[Release, ...]] | None:
        """The cheapest set of releases that gives what is `short`, with its cost; None when none is below `bound`.

        Each inner sequence holds the ways of one model as `ways` lists them; one is chosen from each of `forced` and at
        most one from each of `free`. No way in the result can be left out.
        """
        wanted = {device: count for device, count in short.items() if count > 0}
        groups = _groups(forced, wanted)
        mandatory = len(groups)
        optional = [group for group in _groups(free, wanted) if group[0].helps]
        optional.sort(key=_order)
        groups += optional
        counts = tuple(wanted.values())
        chosen = self._descend(groups, mandatory, counts, bound)
        if chosen is None:
            return None
        kept = self._relax(groups, mandatory, counts, chosen)
        return sum([way.cost for way in kept]), tuple([way.release for way in kept])

    def _descend(
        self, groups: Sequence[Sequence[_Way]], mandatory: int, wanted: tuple[Bytes, ...], bound: float
    ) -> dict[int, _Way] | None:
        """Branch and bound: depth first, the ways that cost least a byte first, so that the first set found is good."""
        if not groups:
            return None if wanted else {}
        count, several = len(groups), len(wanted) > 1
        # From each group on: the least cost of a byte, and the most that can still be given, in all and by device.
        density = [INFINITE] * (count + 1)
        total = [0] * (count + 1)
        most = [(0,) * len(wanted)] * (count + 1)
        for at in range(count - 1, -1, -1):
            least = groups[at][0].density
            density[at] = least if least < density[at + 1] else density[at + 1]
            widest = max(groups[at], key=_helps) if len(groups[at]) > 1 else groups[at][0]
            total[at] = total[at + 1] + widest.helps
            if several:
                most[at] = tuple(map(add, most[at + 1], widest.gives))
        best: dict[int, _Way] | None = None
        path: dict[int, _Way] = {}

        def visit(at: int, short: tuple[Bytes, ...], missing: Bytes, host: Bytes, cost: float) -> None:
            nonlocal best, bound
            if missing > total[at] or (several and any(map(gt, short, most[at]))):
                return
            self._left -= 1
            if self._left < 0 and bound < INFINITE:
                return
            after = at + 1
            least = density[after]
            for way in groups[at]:
                _, price, gives, helps, takes, _ = way
                paid, left, rest = cost + price, missing - helps, short
                if takes > host or paid >= bound or (left > 0 and paid + left * least >= bound):
                    continue
                if several:
                    rest = tuple(
                        [still - some if still > some else 0 for still, some in zip(short, gives, strict=True)]
                    )
                    left = sum(rest)
                if left <= 0 and after >= mandatory:
                    best, bound = {**path, at: way}, paid
                elif after < count:
                    path[at] = way
                    visit(after, rest, left if left > 0 else 0, host - takes, paid)
                    del path[at]
            if at >= mandatory and after < count and cost + missing * least < bound:
                visit(after, short, missing, host, cost)

        visit(0, wanted, sum(wanted), self._host_room, 0.0)
        return best

    def _relax(
        self, groups: Sequence[Sequence[_Way]], mandatory: int, wanted: tuple[Bytes, ...], chosen: Mapping[int, _Way]
    ) -> list[_Way]:
        """Leaves out, or makes milder, whatever an unfinished search chose in vain; the costliest first."""
        if self._left >= 0:
            return list(chosen.values())
        kept = dict(chosen)
        for at in sorted(chosen, key=lambda at: -chosen[at].cost):
            others = [way for other, way in kept.items() if other != at]
            host = self._host_room - sum(way.host for way in others)
            if at >= mandatory and _enough(others, wanted):
                del kept[at]
                continue
            for way in sorted(groups[at], key=lambda way: way.cost):
                if way.host <= host and _enough([*others, way], wanted):
                    kept[at] = way
                    break
        return list(kept.values())


def _groups(models: Sequence[Sequence[Release]], wanted: Mapping[DeviceId, Bytes]) -> list[list[_Way]]:
    """The ways of each model, those that cost least a byte first, those that do not help last."""
    found = []
    devices = tuple(wanted.items())
    several = len(devices) != 1
    for ways in models:
        group = []
        for way in ways:
            given = way.gives
            if several:
                gives = tuple([min(given.get(device, 0), count) for device, count in devices])
                helps = sum(gives)
            else:
                device, count = devices[0]
                helps = given.get(device, 0)
                if helps > count:
                    helps = count
                gives = (helps,)
            group.append(_Way(way.cost / helps if helps else INFINITE, way.cost, gives, helps, way.host, way))
        if len(group) > 1:
            group.sort(key=_density)
        found.append(group)
    return found


_density = attrgetter("density")
_helps = attrgetter("helps")


def _order(group: Sequence[_Way]) -> tuple[float, str]:
    return group[0].density, group[0].release.model


def _enough(ways: Sequence[_Way], wanted: tuple[Bytes, ...]) -> bool:
    return all(sum(way.gives[device] for way in ways) >= count for device, count in enumerate(wanted))
