"""What the conductor knows about each model while the daemon runs: one `Book` a model, written by the conductor only.

Books turn into values at the edges: `view` for the arbiter, `status` for people. Nothing here waits for or talks to
anybody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aitherd.conductor.claims import Claim, Look, Waiter
from aitherd.conductor.launch import engine_unit, model_unit
from aitherd.conductor.operations import ModelStatus
from aitherd.conductor.vitals import Vitals
from aitherd.config import Model
from aitherd.core.learning import Learned
from aitherd.core.ledger import Accounts
from aitherd.core.policy import DEFAULTS
from aitherd.core.residency import Event as Move
from aitherd.core.residency import move
from aitherd.core.words import (
    NO_BYTES,
    Bytes,
    DeviceId,
    Endpoint,
    ModelView,
    Residency,
    ResidencyClass,
    Seconds,
    SleepLevel,
    format_seconds,
)
from aitherd.engines import engine
from aitherd.engines.base import Engine
from aitherd.engines.checkpoint import RUNG
from aitherd.errors import BackingOff, NotLoaded

NOWHERE: frozenset[DeviceId] = frozenset()


@dataclass(frozen=True, slots=True)
class Clock:
    """The clocks, passed in so that tests may hold them still. All in seconds."""

    monotonic: Callable[[], Seconds]
    """Stands still while the machine is suspended."""
    unix: Callable[[], Seconds]
    slept: Callable[[], Seconds] = lambda: 0.0
    """For how long the machine has been suspended since it booted."""


@dataclass(eq=False, slots=True)
class Book:
    """Everything known about one model. Instants are monotonic unless they say unix."""

    model: Model
    """As configured now; a running engine may have been started with an earlier one."""
    clock: Clock
    changed: Callable[[str], None]
    """Told the model's name after each change that people may see."""
    used: Callable[[str], None]
    """Told the model's name when a request begins or ends, which may be thousands of times a second."""
    recall: Callable[[Model], Learned]
    """What was learned about a model that is configured like this."""
    engine: Engine = field(init=False)
    learned: Learned = field(init=False)

    residency: Residency = Residency.ABSENT
    level: int = 0
    since_unix: Seconds = 0.0
    ready_since: Seconds = 0.0
    stage: str = ""
    error: str = ""

    endpoint: Endpoint | None = None
    fingerprint: str = ""
    """Of the configuration that the running engine was started with."""
    invocation: str = ""
    control_group: str = ""
    placement: tuple[DeviceId, ...] = ()
    measured: Mapping[DeviceId, Bytes] = field(default_factory=lambda: NO_BYTES)
    lost: Mapping[DeviceId, Bytes] = field(default_factory=lambda: NO_BYTES)
    """Bytes that did not come back, while quarantined."""
    lost_since: Accounts | None = None
    """What the devices held before those bytes should have come back."""

    in_flight: int = 0
    engine_busy: bool = False
    """The engine said that it works on something the proxy does not see."""
    last_used: Seconds = 0.0
    last_used_unix: Seconds = 0.0
    frequency: float = 0.0
    held: bool = False
    hold_begun: bool = False
    """The hold is on record, and its unit follows; before that it is held while it comes up."""
    holding: int = 0
    """Callers that wait for it to be up and held."""
    wanted: bool = False
    """To be brought in although nobody waits: it comes up by itself, or comes back after its engine died."""
    stopped_by_person: bool = False
    """Stopped on purpose: an essential or resident model stays down until somebody wants it."""
    stop_wanted: bool = False
    """Somebody wants it stopped and waits for that."""
    stop_force: bool = False
    """… without waiting for requests in flight."""
    stop_level: int = 0
    """Not stopped but put to sleep at that level; 0 for a stop."""
    stop_done: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nobody wants it stopped any more."""
    waiters: deque[Waiter] = field(default_factory=deque)
    unserved_since: Seconds | None = None
    """Since when somebody has waited, or waited in vain, and nobody was served or told why not."""
    unserved_until: Seconds = 0.0
    """When somebody last went away unserved."""

    worked: bool = False
    """It did something since its engine started, so that its bytes show what it needs."""
    free_useless: bool = False
    """`free` gave nothing back since the model became ready, or since it was last used."""
    sleep_broken: bool = False
    """Sleeping failed since the engine started."""
    slots_of: str = ""
    """Fingerprint of the configuration whose engine wrote its caches down before it stopped; empty when none did."""
    failures: int = 0
    """Starts that failed in a row."""
    retry_at: Seconds = 0.0
    """No start before this instant, unless a person asks."""
    refusal: str = ""
    """Why the model cannot come in now, while somebody waits for it."""
    unit_leaving: bool = False
    """The model unit is being stopped by us, so its stop command asks for nothing new."""
    died: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the engine unit was seen to end while the model was on its way up or down."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no request is in flight, nor a canary."""
    vitals: Vitals = field(default_factory=Vitals)
    """Of the running engine."""
    moves: dict[tuple[Residency, Residency], int] = field(default_factory=dict)
    """How often it went from one residency to another."""

    def __post_init__(self) -> None:
        self.idle.set()
        self.stop_done.set()
        self._follow_model()

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def unit(self) -> str:
        return engine_unit(self.model.name)

    @property
    def busy(self) -> bool:
        return self.in_flight > 0 or self.engine_busy or self.vitals.checking

    @property
    def stands(self) -> Residency:
        """Where it stands for everybody else: one that somebody wants stopped is on its way down while it drains."""
        return Residency.STOPPING if self.stop_wanted and self.residency is Residency.READY else self.residency

    @property
    def suspends(self) -> bool:
        """Whether it sleeps by having its device state suspended, as its engine cannot sleep."""
        return bool(self.model.checkpoint) and not self.engine.ladder(self.model.command, {})

    @property
    def alive(self) -> bool:
        """Whether an engine unit is supposed to exist."""
        return self.residency in (Residency.STARTING, Residency.READY, Residency.SLEEPING, Residency.STOPPING)

    @property
    def demanded(self) -> bool:
        """Whether somebody, or its class, wants it ready."""
        return bool(self.waiters) or self.wanted

    @property
    def comes_back(self) -> bool:
        """Whether it is to be up without anybody asking: always-on classes, unless a person stopped it."""
        return self.model.residency_class is not ResidencyClass.ON_DEMAND and not self.stopped_by_person

    def yields(self, *, drained: bool = False) -> bool:
        """Whether it may be made to give bytes back this instant; with `drained`, once it has done what it works on."""
        return (
            self.model.residency_class is not ResidencyClass.ESSENTIAL
            and self.residency in (Residency.READY, Residency.SLEEPING)
            and not (self.held or self.waiters or self.stop_wanted or (self.busy and not drained))
        )

    def begin(self, endpoint: Endpoint, placement: tuple[DeviceId, ...]) -> None:
        """An engine of this model is about to run."""
        self._follow_model()
        self.endpoint = endpoint
        self.placement = placement
        self.fingerprint = self.model.fingerprint
        self.level = 0
        self.invocation = ""
        self.control_group = ""
        self.worked = self.free_useless = self.sleep_broken = self.engine_busy = False
        self.error = self.refusal = ""
        self.died.clear()
        self.vitals.begin()

    def _follow_model(self) -> None:
        self.engine = engine(self.model.engine, self.model.health)
        self.learned = self.recall(self.model)

    def gone(self, *, lost: bool = False) -> None:
        """No engine of this model runs any more. With `lost`, processes of it may still hold bytes, which stay its."""
        self.endpoint = None
        self.invocation = ""
        if not lost:
            self.control_group = ""
        self.placement = ()
        self.measured = NO_BYTES
        self.level = 0
        self.engine_busy = False
        self.stage = ""

    def move(self, event: Move) -> None:
        """Moves the residency by the table. Raises ForbiddenMove."""
        before, self.residency = self.residency, move(self.residency, event)
        self.moves[before, self.residency] = self.moves.get((before, self.residency), 0) + 1
        self.since_unix = self.clock.unix()
        self.changed(self.name)

    def say(self, stage: str) -> None:
        """What a transition does now, for people."""
        if stage != self.stage:
            self.stage = stage
            self.changed(self.name)

    def look(self, method: str, path: str) -> Look | None:
        """The way to its engine for a request that only looks at it; None for one that is work. Raises NotLoaded."""
        if not self.engine.only_looks(method, path):
            return None
        if self.endpoint is None or self.residency not in (Residency.READY, Residency.STOPPING):
            raise NotLoaded(f"{self.name} is {self.residency}", remedy="looking does not load it; ask it for work")
        return Look(self.name, self.endpoint)

    def freed(self, *, given: bool) -> None:
        """It was asked to drop its caches. Where that gave nothing it is not asked again before its next use."""
        if given:
            self.learned.observe_freed(sum(self.measured.values()))
        else:
            self.free_useless = True

    def begin_use(self, waited: Seconds, why: str) -> Claim:
        """A claim for one more request. The model must be ready."""
        claim = Claim(self, waited, why)
        now = self.clock.monotonic()
        self.frequency = 1.0 + self.frequency * 0.5 ** ((now - self.last_used) / DEFAULTS.half_life)
        self.last_used = now
        self.in_flight += 1
        self.worked = True
        self.free_useless = False
        self.idle.clear()
        self.used(self.name)
        return claim

    def end_use(self) -> None:
        """Ends one claim."""
        self.in_flight -= 1
        self.last_used = self.clock.monotonic()
        self.last_used_unix = self.clock.unix()
        if self.in_flight == 0 and not self.vitals.checking:
            self.idle.set()
        self.used(self.name)

    def expected(self) -> Bytes:
        """Device bytes it is expected to need when ready."""
        declared = self.model.vram
        if not declared and self.model.utilization is not None:
            # A part of a device whose size is not known yet: not nothing, so that it is not taken for a host model.
            declared = 1
        return self.learned.footprint(declared)

    def ladder(self) -> tuple[SleepLevel, ...]:
        """The sleep levels it may be put to."""
        if self.sleep_broken:
            return ()
        expected = self.expected()
        return tuple(
            SleepLevel(
                level=rung.level,
                residue=(residue := min(self.learned.sleep_residue(rung.level, rung.residue), expected)),
                host=max(expected - residue, 0) if rung.keeps_weights else 0,
                seconds=self.learned.sleep_seconds(rung.level, rung.seconds),
                wake=self.learned.wake_seconds(rung.level, rung.wake),
            )
            for rung in ((RUNG,) if self.suspends else self.engine.ladder(self.model.command, {}))
        )

    def rise(self, *, best: bool = False) -> Seconds:
        """Expected until it is ready, room for it being made already; with `best`, if all goes as quickly as it ever
        was seen to, so 0 where it never was."""
        if self.level:
            # Asleep, or waking.
            prior = next(
                (rung.wake for rung in self.ladder() if rung.level == self.level), self.learned.start_seconds()
            )
            seconds = self.learned.quickest_wake(self.level) if best else prior
        else:
            seconds = self.learned.quickest_start() if best else self.learned.start_seconds()
        if self.residency is Residency.STARTING:
            return max(seconds - (self.clock.unix() - self.since_unix), 0.0)
        if self.residency is Residency.STOPPING and not best:
            return seconds + self.learned.stop_seconds()
        return seconds

    def backing_off(self) -> BackingOff | None:
        """What a request is told while the model is not tried again yet; None when it is."""
        left = self.retry_at - self.clock.monotonic()
        if self.residency is not Residency.FAILED or left <= 0:
            return None
        return BackingOff(
            f"{self.name} failed and is tried again in {format_seconds(left)}: {self.error}",
            remedy=f"aitherctl start {self.name} tries at once",
            retry_after=left,
        )

    def idles_out(self) -> bool:
        """Whether it is stopped when it has been idle for its time."""
        return (
            self.model.residency_class is ResidencyClass.ON_DEMAND
            and self.residency is Residency.READY
            and not self.held
            and self.model.idle is not None
        )

    def stops_at(self) -> Seconds | None:
        """Monotonic instant at which it has been idle for its time; None when it will not be stopped for that."""
        if self.model.idle is None or not self.idles_out() or self.busy or self.waiters:
            return None
        return max(self.last_used, self.ready_since) + self.model.idle

    def view(self, unified: frozenset[DeviceId] = NOWHERE) -> ModelView:
        """As the arbiter sees it. On devices whose memory is the host's, `unified`, sleeping with the weights in host
        memory gives nothing back and is no rung."""
        can_free = self.engine.frees and not self.free_useless
        return ModelView(
            name=self.name,
            residency_class=self.model.residency_class,
            residency=self.stands,
            vram=self.expected(),
            devices=self.placement if self.alive and self.placement else self.model.devices,
            span=self.model.span,
            level=self.level,
            held_bytes=self.lost if self.residency is Residency.QUARANTINED else self.measured,
            freeable=max(sum(self.measured.values()) - self.learned.freed_residue(), 0) if can_free else 0,
            ladder=tuple(rung for rung in self.ladder() if not (rung.host and unified.intersection(self.placement))),
            swap_slot=self.model.swap_slot,
            busy=self.busy,
            held=self.held,
            waiting=len(self.waiters),
            ready_since=self.ready_since,
            last_used=self.last_used,
            frequency=self.frequency,
            start_seconds=self.learned.start_seconds(),
            stop_seconds=self.learned.stop_seconds(),
        )

    def status(self) -> ModelStatus:
        """As people see it."""
        stops = self.stops_at()
        return ModelStatus(
            name=self.name,
            description=self.model.description,
            engine=self.engine.kind,
            residency_class=self.model.residency_class,
            residency=self.stands,
            level=self.level,
            serves=self.model.serves,
            can=self.model.can,
            unit=self.unit,
            model_unit=model_unit(self.name),
            declared=self.model.vram,
            expected=self.expected(),
            measured=self.measured,
            in_flight=self.in_flight,
            waiting=len(self.waiters),
            held=self.held,
            busy=self.busy,
            since=self.since_unix,
            last_used=self.last_used_unix,
            stops_at=0.0 if stops is None else self.clock.unix() + stops - self.clock.monotonic(),
            endpoint=self.endpoint,
            command=self.model.command,
            error=self.error,
            stage=self.stage,
            concurrency=self.model.concurrency,
            max_waiting=self.model.max_waiting,
            moves=self.moves,
            start_seconds=self.learned.start_seconds(),
        )
