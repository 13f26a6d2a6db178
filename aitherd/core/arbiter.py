"""The arbiter: what has to happen so that a model becomes ready, or why nothing can.

It lists the essential model never; busy, held, young and moving models never; a resident one when nothing else makes
room. Bytes count as room when they are measured as free, or are expected back from a model that may give way.

The parts: `placement.py` where there is room, `eviction.py` who gives way, `sleepers.py` who leaves host memory to who
falls asleep, `refusal.py` why not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, islice

from aitherd.core import refusal, sleepers
from aitherd.core.eviction import INFINITE, Release, Search, stays, ways
from aitherd.core.placement import allowed, promised, stands_on
from aitherd.core.policy import DEFAULTS, Policy
from aitherd.core.words import (
    HOST,
    NO_BYTES,
    Bytes,
    DeviceId,
    ModelView,
    Plan,
    Refusal,
    Residency,
    ResidencyClass,
    Seconds,
    Step,
    Verb,
    World,
    format_bytes,
    format_seconds,
)

__all__ = ["Policy", "decide", "impossible"]

AWAKE = frozenset({Residency.STARTING, Residency.READY, Residency.STOPPING})
"""Where a model occupies its swap slot."""
MILDEST_FIRST = {Verb.FREE: 0, Verb.SLEEP: 1, Verb.STOP: 2}


def decide(world: World, model: str, now: Seconds, policy: Policy = DEFAULTS) -> Plan | Refusal:
    """The cheapest plan that makes `model` ready, or why there is none. The same world gives the same answer.

    A plan without steps says that it is ready. Raises KeyError for a model that is not in the world.
    """
    view = world.models[model]
    match view.residency:
        case Residency.READY:
            return Plan(model, (), stands_on(view, world), NO_BYTES, f"{model} is ready")
        case Residency.STARTING | Residency.STOPPING | Residency.QUARANTINED:
            return refusal.moving(view, world)
    mates: dict[str, ModelView] = {}
    if view.swap_slot is not None:
        for other in world.models.values():
            if other.swap_slot == view.swap_slot and other.residency in AWAKE and other.name != model:
                mates[other.name] = other
    for mate in mates.values():
        if why := stays(mate, now, policy):
            essential = mate.residency_class is ResidencyClass.ESSENTIAL
            return refusal.slot_taken(view, mate, why, for_ever=essential)
    return _Decision(world, view, mates, now, policy).outcome()


def impossible(world: World) -> tuple[Refusal, ...]:
    """The models that can never stand beside the essential ones, whatever gives way. Totals are enough to tell."""
    ours = (view for view in world.models.values() if not view.foreign)
    return tuple(never for view in ours if (never := refusal.never(view, world)) is not None)


class _Decision:
    """One decision about a model that is absent, failed or asleep."""

    def __init__(
        self, world: World, view: ModelView, mates: Mapping[str, ModelView], now: Seconds, policy: Policy
    ) -> None:
        self._world = world
        self._view = view
        self._mates = mates
        self._now = now
        self._policy = policy
        self._promised = promised(world, view.name)
        self._room = {device: seen.free - seen.reserve for device, seen in world.devices.items() if seen.fresh}
        for holder in self._promised:
            if holder.device in self._room:
                self._room[holder.device] -= holder.bytes
        self._forced = [
            [way for way in ways(mate, now, policy) if way.verb is not Verb.FREE] for mate in mates.values()
        ]

    def outcome(self) -> Plan | Refusal:
        """The plan or the refusal."""
        view, world, room, policy = self._view, self._world, self._room, self._policy
        if view.vram <= 0:
            return self._plan(*self._place((), 0, {}, ()), {})
        devices, span, own = allowed(view, world), view.span, NO_BYTES
        if view.residency is Residency.SLEEPING:
            # It wakes where it fell asleep.
            devices, own = stands_on(view, world) or devices[:span], view.held_bytes
            span = max(len(devices), 1)
        each = -(-view.vram // span)
        seen = [device for device in devices if device in room]
        yielding = self._yielding()
        most = {device: room[device] + own.get(device, 0) for device in seen}
        for other in (*yielding, *self._mates.values()):
            for device, count in other.held_bytes.items():
                if device in most:
                    most[device] += count
        need = {device: max(each - own.get(device, 0), 0) for device in seen}
        able = [device for device in seen if most[device] >= each or not need[device]]
        if len(able) < span:
            never = refusal.never(view, world)
            if never is not None:
                return never
            if refusal.only_unseen(view, world, devices, seen):
                return refusal.blind(view, world, devices)
            return refusal.not_now(view, world, each, most, self._promised, self._now, policy)
        placement, victims = self._place(able, span, need, yielding)
        if victims and policy.waited is not None and not policy.urgent:
            cheaper = self._once_idle(able, span, need, yielding)
            saves = sum([way.cost for way in victims]) - sum([way.cost for way in cheaper]) if cheaper else 0.0
            if saves * policy.thrift > policy.waited:
                busy = [name for way in cheaper if (name := way.model) not in {other.name for other in yielding}]
                return refusal.worth_waiting(view, world, busy, [way.model for way in victims], placement)
        return self._plan(placement, victims, need)

    def _once_idle(
        self, able: Sequence[DeviceId], span: int, need: Mapping[DeviceId, Bytes], yielding: Sequence[ModelView]
    ) -> tuple[Release, ...]:
        """Who would give way if all who work now had done what they work on."""
        done = [
            idle
            for other in self._world.models.values()
            if other.busy
            and other.held_bytes
            and other.name != self._view.name
            and not other.foreign
            and other.name not in self._mates
            and not stays(idle := replace(other, busy=False), self._now, self._policy)
        ]
        return self._place(able, span, need, (*yielding, *done))[1] if done else ()

    def _yielding(self) -> list[ModelView]:
        """Models that hold bytes and may give way. Those in the swap slot have to, and are not among them."""
        return [
            other
            for name, other in self._world.models.items()
            if other.held_bytes
            and name != self._view.name
            and name not in self._mates
            and not stays(other, self._now, self._policy)
        ]

    def _place(
        self, able: Sequence[DeviceId], span: int, need: Mapping[DeviceId, Bytes], yielding: Sequence[ModelView]
    ) -> tuple[tuple[DeviceId, ...], tuple[Release, ...]]:
        """The devices whose victims cost least, with the victims. Where nobody has to give way, the tightest fit."""
        # A sleeper that holds all it needs takes nothing more, even where less than the reserve is free.
        left = {device: self._room[device] - need[device] if need[device] else 0 for device in able}
        fitting = sorted((device for device in able if left[device] >= 0), key=lambda device: left[device])
        if len(fitting) >= span and not self._mates:
            return tuple(sorted(fitting[:span])), ()
        groups = self._ways(able, yielding)
        host = self._host_room(need)
        search = Search(self._policy, host)

        def cheapest(place: tuple[DeviceId, ...], bound: float) -> tuple[float, tuple[Release, ...]] | None:
            candidates = groups[place[0]] if place else {}
            for device in place[1:]:
                candidates = candidates | groups[device]
            short = {device: -left[device] for device in place}
            return search.cheapest(short, self._forced, tuple(candidates.values()), bound)

        ranked = sorted(able, key=lambda device: (max(-left[device], 0), left[device]))
        floor = dict.fromkeys(ranked, 0.0)
        places: Iterable[tuple[DeviceId, ...]] = combinations(ranked, span)
        if span > 1:
            # What a device costs alone is the least that it costs together with others.
            alone = {device: found for device in ranked if (found := cheapest((device,), INFINITE)) is not None}
            floor = {device: found[0] for device, found in alone.items()}
            ranked.sort(key=lambda device: floor[device])
            victims = tuple(way for device in ranked[:span] for way in alone[device][1])
            apart = not self._mates and sum(map(len, groups.values())) == len(set().union(*groups.values()))
            if apart and (host is None or sum(way.host for way in victims) <= host):
                # Nobody who gives way on one device does on another: what is cheapest alone is cheapest together.
                return tuple(sorted(ranked[:span])), victims
            places = islice(combinations(ranked, span), self._policy.placements)
        best: tuple[tuple[DeviceId, ...], tuple[Release, ...]] | None = None
        bound = INFINITE
        for place in places:
            if all(floor[device] < bound for device in place) and (found := cheapest(place, bound)) is not None:
                bound, best = found[0], (tuple(sorted(place)), found[1])
        assert best is not None, "stopping all who may give way makes room, and stopping takes no host memory"
        place, victims = best
        candidates = {name: group for device in place for name, group in groups[device].items()}
        short = {device: -left[device] for device in place}
        return place, self._contested(victims, bound, short, tuple(candidates.values()), host)

    def _contested(
        self,
        victims: tuple[Release, ...],
        cost: float,
        short: Mapping[DeviceId, Bytes],
        candidates: Sequence[Sequence[Release]],
        host: Bytes | None,
    ) -> tuple[Release, ...]:
        """The victims, or cheaper ones: where host memory has no room for who could sleep, sleepers that are worth less
        leave it."""
        groups = (*self._forced, *candidates)
        if host is None or sum([max([way.host for way in group]) for group in groups]) <= host:
            return victims
        others = [other for other in self._world.models.values() if other is not self._view]
        rivals = sleepers.exits([other for other in others if other.name not in self._mates], self._now, self._policy)
        most = host + sum([rival.gives[HOST] for rival in rivals])
        found = Search(self._policy, most).cheapest(short, self._forced, candidates, cost) if rivals else None
        if found is None:
            return victims
        price, asleep = found
        going = {way.model for way in asleep}
        missing = sum([way.host for way in asleep]) - host
        rivals = tuple(rival for rival in rivals if rival.model not in going)
        exits = sleepers.make_room(rivals, missing, self._policy, cost - price) if missing > 0 else (0.0, ())
        return (*exits[1], *asleep) if exits is not None else victims

    def _ways(
        self, devices: Sequence[DeviceId], yielding: Sequence[ModelView]
    ) -> Mapping[DeviceId, dict[str, Sequence[Release]]]:
        """By device, the ways of each model that holds bytes there."""
        groups: dict[DeviceId, dict[str, Sequence[Release]]] = {device: {} for device in devices}
        for other in yielding:
            group: Sequence[Release] = ()
            for device in other.held_bytes:
                if device in groups:
                    group = group or ways(other, self._now, self._policy)
                    groups[device][other.name] = group
        return groups

    def _host_room(self, need: Mapping[DeviceId, Bytes]) -> Bytes | None:
        """Host bytes that sleepers may take; None where host memory is not among the devices."""
        if HOST not in self._world.devices:
            return None
        return max(self._room.get(HOST, 0) - need.get(HOST, 0), 0)

    def _plan(
        self, placement: tuple[DeviceId, ...], victims: Sequence[Release], needs: Mapping[DeviceId, Bytes]
    ) -> Plan:
        view, room = self._view, self._room
        need = {device: needs[device] for device in placement}
        takes = _sizes(need) or "no device memory"
        # Who leaves host memory goes first: nobody may fall asleep there before there is room. Then who has to be
        # drained: where that is in vain, nobody else has given way for nothing.
        models = self._world.models
        releases = sorted(
            victims,
            key=lambda way: (HOST not in way.gives, not models[way.model].busy, MILDEST_FIRST[way.verb], way.model),
        )
        steps = [self._release(way) for way in releases]
        steps.append(self._rise(need, takes))
        spare = {
            device: room[device] - count + sum([way.gives.get(device, 0) for way in victims])
            for device, count in need.items()
        }
        why = f"{view.name} needs {takes}"
        if need:
            why += f"; above the reserve {_sizes({device: room[device] for device in need}) or 'nothing'} is free"
        if releases:
            why += f"; {' and '.join([way.model for way in releases])} must give way"
        return Plan(view.name, tuple(steps), placement, spare, why)

    def _release(self, way: Release) -> Step:
        takes = {device: -count for device, count in way.gives.items() if count > 0}
        if way.host > 0 and HOST in self._room:
            takes[HOST] = way.host
        victim, view = self._world.models[way.model], self._view
        purpose = f"makes room for {view.name}"
        if way.model in self._mates:
            purpose = f"leaves the swap slot {view.swap_slot} to {view.name}"
        if HOST in way.gives:
            purpose = f"leaves host memory to who falls asleep for {view.name}"
        idle = format_seconds(max(self._now - max(victim.last_used, victim.ready_since), 0.0))
        why = f"{purpose}, unused for {idle}"
        if back := _sizes(way.gives):
            why += f"; {back} expected back"
        return Step(way.verb, way.model, takes, way.seconds, why, way.level)

    def _rise(self, need: Mapping[DeviceId, Bytes], takes: str) -> Step:
        view = self._view
        if view.residency is Residency.SLEEPING:
            seconds = next((rung.wake for rung in view.ladder if rung.level == view.level), view.start_seconds)
            return Step(Verb.WAKE, view.name, need, seconds, f"takes {takes}")
        return Step(Verb.START, view.name, need, view.start_seconds, f"takes {takes}")


def _sizes(parts: Mapping[DeviceId, Bytes]) -> str:
    return " and ".join([f"{format_bytes(count)} on {device}" for device, count in sorted(parts.items()) if count > 0])
