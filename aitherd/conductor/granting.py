"""How leases are granted: a demand for device bytes, checked, waited for, and answered once its bytes are free.

To the arbiter a lease is a model that is absent and needs so many bytes: what may give way for a model may give way
for a lease. When its turn comes the scheduler decides; leases in force are in `leases.py`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from aitherd.conductor.books import Clock
from aitherd.conductor.leases import MOST, Leases, title
from aitherd.conductor.operations import Grant, Lease
from aitherd.conductor.records import Event, Records
from aitherd.conductor.store import KeptLease
from aitherd.core import refusal
from aitherd.core.arbiter import decide
from aitherd.core.placement import allowed, used_by
from aitherd.core.policy import Policy
from aitherd.core.words import (
    HOST,
    NO_BYTES,
    Bytes,
    DeviceId,
    ModelView,
    Plan,
    Refusal,
    RefusalKind,
    Residency,
    ResidencyClass,
    Seconds,
    Step,
    Verb,
    World,
    format_bytes,
    format_seconds,
)
from aitherd.errors import (
    AitherError,
    CannotFit,
    DeviceBlind,
    InvalidLease,
    QueueFull,
    ShuttingDown,
    WaitedTooLong,
)
from aitherd.failpoints import Point, reach
from aitherd.host.processes import name_of, origin_of

STEPS_MAX = 32
"""So many steps may make room for one lease before it is looked at anew after others."""
LONGEST: Seconds = 366 * 86400.0
PURPOSE_MAX = 80
"""Characters of a purpose that are kept."""
BLIND_RETRY: Seconds = 5.0


class Room(Protocol):
    """What the scheduler does for a lease whose turn it is."""

    def policy(self) -> Policy:
        """The arbiter's parameters."""

    async def survey(self) -> World:
        """The world, measured after the call."""

    async def make_room(self, step: Step) -> bool:
        """Carries out one step that gives bytes back; False when its model turned out to be busy."""

    def later(self, name: str) -> None:
        """The turn is over without success; the next one comes in a moment, or when something changes."""


@dataclass(eq=False, slots=True)
class Demand:
    """A lease that somebody waits for."""

    id: str
    purpose: str
    bytes: Bytes
    devices: tuple[DeviceId, ...]
    """The one that was asked for; empty for any."""
    pid: int
    started: int
    seconds: Seconds
    """How long it is to last; 0 for as long as its holder lives."""
    since: Seconds
    """Unix time."""
    answer: asyncio.Future[Grant]
    stage: str = ""
    refusal: str = ""

    @property
    def name(self) -> str:
        """What it is called in sentences, and in the world of its decision."""
        return title(self.id, self.purpose)


class Granting:
    """Leases that are waited for (`operations.Leasing`)."""

    def __init__(
        self,
        clock: Clock,
        records: Records,
        world: Callable[[], World],
        save: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """`world` is the world as known now, `save` makes leases outlive the daemon, `changed` tells of changes."""
        self.leases = Leases(clock, records, lambda: world().devices, save=save, changed=changed)
        """Those in force."""
        self._clock = clock
        self._records = records
        self._world = world
        self._changed = changed
        self._waiting: dict[str, Demand] = {}

    @property
    def waiting(self) -> tuple[Demand, ...]:
        """Who waits, oldest first."""
        return tuple(demand for demand in self._waiting.values() if not demand.answer.done())

    # --- operations.Leasing --------------------------------------------------------------------------------------

    async def acquire(
        self,
        count: Bytes,
        device: DeviceId | None,
        purpose: str,
        pid: int,
        seconds: Seconds = 0.0,
        timeout: Seconds | None = None,
    ) -> Grant:
        demand = self._demand(count, device, purpose, pid, seconds)
        world = self._world()
        if (never := refusal.never(_view(demand, demand.devices, count), world)) is not None:
            # Nothing that anybody does can make room: no need to wait for one's turn to learn that.
            self._note_refusal(demand, never)
            raise CannotFit(never.why, remedy=REMEDY)
        self._waiting[demand.id] = demand
        self._records.add(
            Event.DEMAND,
            f"{demand.name} wants {format_bytes(count)} on {device or 'any device'}, PID {pid}",
            lease=demand.id,
            bytes=count,
            pid=pid,
        )
        self._changed()
        try:
            async with asyncio.timeout(timeout):
                return await demand.answer
        except TimeoutError:
            self._withdraw(demand)
            raise WaitedTooLong(
                f"{demand.name} was not granted within {format_seconds(timeout or 0.0)}: "
                + (demand.stage or "other transitions were under way"),
                remedy="try again later, or wait longer",
            ) from None
        except asyncio.CancelledError:
            self._withdraw(demand)
            raise
        finally:
            del self._waiting[demand.id]
            self._changed()

    async def release(self, id: str) -> None:
        self.leases.release(id)

    def list(self) -> tuple[Lease, ...]:
        waiting = [
            Lease(
                id=demand.id,
                purpose=demand.purpose,
                bytes=demand.bytes,
                device="".join(demand.devices),
                used=0,
                pid=demand.pid,
                since=demand.since,
                ends=0.0,
                waiting=True,
                stage=demand.stage,
            )
            for demand in self.waiting
        ]
        return (*self.leases.list(), *waiting)

    # --- granting ------------------------------------------------------------------------------------------------

    async def grant(self, demand: Demand, room: Room) -> None:
        """Makes room for a lease and grants it, or says why not now. The caller owns the devices meanwhile."""
        told: tuple[tuple[Verb, str], ...] = ()
        for _ in range(STEPS_MAX):
            world = await room.survey()
            if demand.answer.done():
                return
            outcome = self._decide(demand, world, room.policy())
            if isinstance(outcome, Refusal):
                self._refuse(demand, outcome, room)
                return
            releases = outcome.steps[:-1]
            if not releases:
                self._give(demand, outcome.placement[0])
                return
            shape = tuple((step.verb, step.model) for step in releases)
            if shape != told[len(told) - len(shape) :]:
                self._records.add_plan(f"to grant {demand.name}", outcome, releases, lease=demand.id)
                told = shape
            self._say(demand, f"{releases[0].verb} {releases[0].model}: {releases[0].why}")
            await room.make_room(releases[0])
        room.later(demand.name)

    def ended(self, demand: Demand, error: AitherError | None) -> None:
        """Ends the wait for a lease if its turn ended with `error`."""
        if error is not None and not demand.answer.done():
            demand.answer.set_exception(error)

    def close(self) -> None:
        """Ends all waits, and no lease in force: the daemon goes away."""
        for demand in self.waiting:
            self.ended(demand, ShuttingDown("aitherd is going away", remedy="try again", retry_after=1.0))
        self.leases.close()

    def _demand(self, count: Bytes, device: DeviceId | None, purpose: str, pid: int, seconds: Seconds) -> Demand:
        if count <= 0:
            raise InvalidLease(
                f"a lease of {count} bytes is none", remedy="ask for what the program will use, as in 8G"
            )
        if not 0 <= seconds <= LONGEST:
            raise InvalidLease(
                f"a lease cannot last {seconds:.0f} s", remedy="0 lasts as long as its holder lives; a year at most"
            )
        views = self._world().devices
        known = sorted(name for name in views if name != HOST)
        if device is not None and device not in known:
            raise InvalidLease(
                f"there is no device {device!r} to lease", remedy=f"the devices are: {', '.join(known) or 'none'}"
            )
        if len(self.leases) + len(self._waiting) >= MOST:
            raise QueueFull(f"there are {MOST} leases already", remedy="see aitherctl leases", retry_after=5.0)
        purpose = " ".join("".join(c if c.isprintable() else " " for c in purpose).split())
        origin = origin_of(pid)
        id = secrets.token_hex(3)
        while id in self.leases or id in self._waiting:
            id = secrets.token_hex(3)
        return Demand(
            id=id,
            purpose=purpose[:PURPOSE_MAX] or name_of(pid) or f"PID {pid}",
            bytes=count,
            devices=() if device is None else (device,),
            pid=pid,
            started=0 if origin is None else origin.started,
            seconds=seconds,
            since=self._clock.unix(),
            answer=asyncio.get_running_loop().create_future(),
        )

    def _decide(self, demand: Demand, world: World, policy: Policy) -> Plan | Refusal:
        outcome: Plan | Refusal | None = refusal.never(_view(demand, demand.devices, demand.bytes), world)
        if outcome is not None:
            return outcome
        for devices, need in self._places(demand, world):
            if need <= 0 and world.devices[devices[0]].fresh:
                return Plan(demand.name, (), devices, NO_BYTES, f"{demand.name} needs nothing that its holder has not")
            view = _view(demand, devices, max(need, 1))
            outcome = decide(
                replace(world, models={**world.models, demand.name: view}),
                demand.name,
                self._clock.monotonic(),
                policy,
            )
            if isinstance(outcome, Plan):
                break
        assert outcome is not None, "there is one place at least"
        return outcome

    def _places(self, demand: Demand, world: World) -> Iterator[tuple[tuple[DeviceId, ...], Bytes]]:
        """Devices to try together, with the bytes needed there: where its holder is already, then the others."""
        devices = allowed(_view(demand, demand.devices, demand.bytes), world)
        used = {name: used_by(demand.pid, world.devices[name]) if name in world.devices else 0 for name in devices}
        for name in sorted(devices, key=lambda name: -used[name]):
            if used[name] > 0:
                # What it uses beyond the leases that it has counts for this one.
                before = self.leases.promised(demand.pid, name)
                need = max(before + demand.bytes - used[name], 0) - max(before - used[name], 0)
                yield (name,), need
        if others := tuple(name for name in devices if not used[name]):
            yield others, demand.bytes

    def _give(self, demand: Demand, device: DeviceId) -> None:
        reach(Point.LEASE_DECIDED)
        since = self._clock.unix()
        terms = KeptLease(
            bytes=demand.bytes,
            device=device,
            purpose=demand.purpose,
            pid=demand.pid,
            started=demand.started,
            since=since,
            ends=since + demand.seconds if demand.seconds else 0.0,
        )
        theirs = self.leases.begin(demand.id, terms)
        demand.answer.set_result(Grant(demand.id, device, theirs))

    def _withdraw(self, demand: Demand) -> None:
        """Nobody waits for the answer any more."""
        if demand.answer.done() and not demand.answer.cancelled() and demand.answer.exception() is None:
            # Granted in the same turn of the loop. Its end is heard as any other.
            demand.answer.result().descriptor.close()
            return
        demand.answer.cancel()
        self._records.add(
            Event.ENDED, f"{demand.name} is waited for no more; it was not granted", lease=demand.id, bytes=demand.bytes
        )

    # --- telling -------------------------------------------------------------------------------------------------

    def _refuse(self, demand: Demand, outcome: Refusal, room: Room) -> None:
        self._note_refusal(demand, outcome)
        match outcome.kind:
            case RefusalKind.NEVER:
                self.ended(demand, CannotFit(outcome.why, remedy=REMEDY))
            case RefusalKind.BLIND:
                self.ended(demand, DeviceBlind(outcome.why, retry_after=BLIND_RETRY))
            case _:
                self._say(demand, outcome.why)
                room.later(demand.name)

    def _note_refusal(self, demand: Demand, outcome: Refusal) -> None:
        if outcome.why == demand.refusal:
            return
        demand.refusal = outcome.why
        self._records.add_refusal(f"{demand.name} is not granted", outcome, lease=demand.id)

    def _say(self, demand: Demand, stage: str) -> None:
        if stage != demand.stage:
            demand.stage = stage
            self._changed()


REMEDY = "ask for less, or make an essential model smaller"


def _view(demand: Demand, devices: tuple[DeviceId, ...], need: Bytes) -> ModelView:
    """The lease as the arbiter sees it: a model that is absent and needs `need` bytes on one of `devices`."""
    return ModelView(
        demand.name, ResidencyClass.ON_DEMAND, Residency.ABSENT, vram=need, devices=devices, start_seconds=0.0
    )
