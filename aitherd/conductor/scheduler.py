"""Who moves next: the one place that starts transitions, at most one at a time on a device.

`_assign` runs whenever something changed; it only looks at the books and starts tasks, each of which owns its devices
until it ends. Plans come from `core/arbiter.py`, the order of waiting models from `core/queue.py`; the work itself is
in `steps.py` and `rise.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from aitherd.conductor import demand
from aitherd.conductor.books import Book, Clock
from aitherd.conductor.granting import Granting
from aitherd.conductor.meter import Meter
from aitherd.conductor.records import Event, Records
from aitherd.conductor.rise import Rise
from aitherd.conductor.steps import Steps
from aitherd.conductor.transitions import Transitions
from aitherd.config import Settings
from aitherd.core.arbiter import decide
from aitherd.core.policy import Policy
from aitherd.core.queue import order, overdue
from aitherd.core.relief import relieve
from aitherd.core.residency import Event as Move
from aitherd.core.words import (
    HOST,
    Bytes,
    DeviceId,
    Plan,
    Refusal,
    RefusalKind,
    Residency,
    Seconds,
    Step,
    Verb,
    World,
    format_seconds,
)
from aitherd.errors import AitherError, CannotFit, DeviceBlind, OutOfDeviceMemory, ShuttingDown, StartFailed, Stopped

RETRY: Seconds = 0.25
"""How soon a model that could not come in now is looked at again, if nothing happens before."""
RELIEF_PAUSE: Seconds = 3.0
"""So long a device may have less left than its reserve before somebody gives way, and before the next one does."""
BLIND_RETRY: Seconds = 5.0
"""The same while the device cannot be measured."""
MARGIN: Bytes = 512 * 2**20
"""A model that ran out of device memory is given at least so much more at its second try."""
STEPS_MAX = 32
"""So many steps may make room for one model before it goes to the end of the line: a plan that never converges ends."""


class Scheduler:
    """Starts transitions and waits for them."""

    def __init__(
        self,
        books: Mapping[str, Book],
        meter: Meter,
        steps: Steps,
        rise: Rise,
        granting: Granting,
        records: Records,
        clock: Clock,
        settings: Callable[[], Settings],
    ) -> None:
        self._books = books
        self._meter = meter
        self._steps = steps
        self._rise = rise
        self._granting = granting
        self._records = records
        self._clock = clock
        self._settings = settings
        self._log = structlog.get_logger("aitherd")
        self._changed = asyncio.Event()
        self._transitions = Transitions(self.nudge)
        self._short_since: dict[DeviceId, Seconds] = {}
        """Since when a device has had less left than its reserve, or was last relieved."""
        self._not_before: dict[str, Seconds] = {}
        """When a model or a lease that was refused for now is looked at again."""
        self._drained: dict[str, Seconds] = {}
        """When others were last drained for a model in vain."""

    def nudge(self) -> None:
        """Something changed."""
        self._changed.set()

    def used(self) -> None:
        """A request began or ended, which only matters to a model that could not come in for what is busy."""
        if self._not_before:
            self._not_before.clear()
            self._changed.set()

    @property
    def moving(self) -> bool:
        """Whether any transition runs."""
        return len(self._transitions) > 0

    def moves(self, model: str) -> bool:
        """Whether a transition of `model` runs."""
        return model in self._transitions

    async def run(self) -> None:
        """Assigns for ever. Cancelling ends the transitions too; units that are loading go on and are adopted later."""
        try:
            while True:
                self._changed.clear()
                due = self._assign(self._clock.monotonic())
                try:
                    async with asyncio.timeout(None if due is None else max(due - self._clock.monotonic(), 0.0)):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            for book in self._books.values():
                demand.refuse(book, ShuttingDown("aitherd is going away", remedy="try again", retry_after=1.0))
            await self._transitions.cancel()

    def world(self) -> World:
        """What a decision may depend on, as known now."""
        models = {name: book.view() for name, book in self._books.items()}
        return World(self._meter.accounts.devices, models, self._granting.leases.claims())

    def policy(self) -> Policy:
        """The arbiter's parameters, as configured."""
        return Policy(min_residency=self._settings().min_residency, age_bound=self._settings().age_bound)

    def _policy_for(self, book: Book, now: Seconds) -> Policy:
        """What goes for `book`: more when its line is overdue, but nobody is drained over and over in vain."""
        policy = self.policy()
        if not overdue(demand.line(book, now), now, policy):
            return policy
        paused = now - self._drained.get(book.name, -policy.patience_pause) < policy.patience_pause
        return replace(policy, urgent=True, patience=0.0 if paused else policy.patience)

    async def survey(self) -> World:
        """The world from a fresh measurement, which comes last: an engine may take seconds to say that it is busy."""
        await self._ask_busy()
        await self._meter.measure()
        return self.world()

    async def plan(self, book: Book) -> Plan | Refusal:
        """What bringing `book` in would do now, from a fresh measurement."""
        return decide(await self.survey(), book.name, self._clock.monotonic(), self.policy())

    def later(self, name: str) -> None:
        """A model or a lease that cannot come in is looked at again in a moment, or when a request begins or ends."""
        self._not_before[name] = self._clock.monotonic() + RETRY

    def resume(self, book: Book) -> None:
        """Goes on with a start that an earlier daemon began."""
        self._spawn(book, self._resume(book))

    # --- assigning -----------------------------------------------------------------------------------------------

    def _assign(self, now: Seconds) -> Seconds | None:
        """Starts what can start. Returns the instant at which something is due although nothing changes."""
        due: list[Seconds] = []
        for book in self._books.values():
            if book.stop_wanted and self._unclaimed(book):
                self._spawn(book, self._put_down(book, "asked to", force=book.stop_force))
        lines = []
        for book in self._books.values():
            if not book.demanded or book.stop_wanted or book.name in self._transitions:
                continue
            if book.residency is Residency.READY:
                book.wanted = False
                demand.serve(book, "ready")
                continue
            earliest = max(book.retry_at, self._not_before.get(book.name, 0.0))
            if earliest > now:
                due.append(earliest)
                continue
            lines.append(demand.line(book, now))
        claimed: set[DeviceId] = set()
        for lease in self._granting.waiting:
            # Before the models: somebody waits for all of it, and not for a turn that comes again.
            if lease.name in self._transitions:
                continue
            if (earliest := self._not_before.get(lease.name, 0.0)) > now:
                due.append(earliest)
                continue
            scope = frozenset(lease.devices) or self._devices()
            if not scope & claimed and self._transitions.free(scope):
                self._not_before.pop(lease.name, None)
                self._transitions.run(
                    lease.name, scope, self._granting.grant(lease, self), partial(self._granting.ended, lease)
                )
            claimed |= scope
        for name in order(lines, now, self.policy()):
            book = self._books[name]
            scope = self._scope(book)
            # A model that has to wait for its device keeps those behind it from taking that device first.
            if not scope & claimed and self._unclaimed(book):
                self._spawn(book, self._bring_in(book))
            claimed |= scope
        for book in self._books.values():
            if book.name in self._transitions or not book.idles_out():
                continue
            stops_at = book.stops_at()
            if stops_at is None:
                # Busy: a request that ends does not wake this loop, so it looks again when that could matter.
                due.append(now + (book.model.idle or 0.0))
            elif stops_at > now:
                due.append(stops_at)
            elif self._unclaimed(book):
                self._spawn(book, self._idle_out(book))
        due.extend(self._relieve_devices(now))
        return min(due, default=None)

    def _relieve_devices(self, now: Seconds) -> list[Seconds]:
        """Has somebody give way where another program grew into the reserve, unless that passes by itself."""
        due = []
        for device, view in self._meter.accounts.devices.items():
            if view.free >= view.reserve or not view.fresh:
                self._short_since.pop(device, None)
                continue
            since = self._short_since.setdefault(device, now)
            if now < since + RELIEF_PAUSE:
                due.append(since + RELIEF_PAUSE)
                continue
            self._short_since[device] = now
            step = relieve(self.world(), device, now, self.policy())
            if step is not None and self._unclaimed(self._books[step.model]):
                self._spawn(self._books[step.model], self._relieve(device, step))
        return due

    def _scope(self, book: Book) -> frozenset[DeviceId]:
        """The devices that a transition of `book` may touch."""
        if book.expected() == 0:
            return frozenset()
        return frozenset(book.placement or book.model.devices) or self._devices()

    def _devices(self) -> frozenset[DeviceId]:
        return frozenset(self._meter.accounts.devices.keys() - {HOST} or ("gpu0",))

    def _unclaimed(self, book: Book) -> bool:
        """Whether no transition runs for `book` or on its devices."""
        return book.name not in self._transitions and self._transitions.free(self._scope(book))

    def _spawn(self, book: Book, work: Coroutine[Any, Any, None]) -> None:
        self._transitions.run(book.name, self._scope(book), work, partial(self._ended, book))

    def _ended(self, book: Book, failure: StartFailed | None) -> None:
        book.say("")
        if failure is not None:
            if book.residency in (Residency.STARTING, Residency.STOPPING):
                # The unit, if one still runs, is cleared away by the next start.
                book.error = failure.message
                book.move(Move.DIED)
            book.stop_wanted = book.wanted = False
            book.stop_done.set()
            demand.refuse(book, failure)

    # --- transitions ---------------------------------------------------------------------------------------------

    async def _bring_in(self, book: Book) -> None:
        began = self._clock.monotonic()
        told: tuple[tuple[Verb, str], ...] = ()
        steps_done: list[str] = []
        tried = False
        self._not_before.pop(book.name, None)
        for _ in range(STEPS_MAX):
            world, now = await self.survey(), self._clock.monotonic()
            policy = self._policy_for(book, now)
            outcome = decide(world, book.name, now, policy)
            if book.stop_wanted or not book.demanded:
                return
            if isinstance(outcome, Refusal):
                self._refuse(book, outcome)
                return
            if not outcome.steps:
                break
            shape = tuple((step.verb, step.model) for step in outcome.steps)
            if shape != told[len(told) - len(shape) :]:
                self._tell(book, outcome)
                told = shape
            step, *rest = outcome.steps
            if not rest:
                if await self._raise(book, outcome, step, tried_before=tried):
                    break
                tried = True
                continue
            book.say(step.why)
            if not await self.make_room(step, policy.patience if policy.urgent else 0.0):
                if policy.urgent and self._books[step.model].busy:
                    # What it waits for works on. Meanwhile the others have their turn.
                    self._drained[book.name] = self._clock.monotonic()
                self.later(book.name)
                return
            steps_done.append(f"{step.verb} {step.model}")
        else:
            self.later(book.name)
            return
        if book.residency is Residency.READY:
            seconds = format_seconds(self._clock.monotonic() - began)
            book.wanted = False
            demand.serve(book, f"loaded in {seconds}" + (f" after {', '.join(steps_done)}" if steps_done else ""))

    async def _raise(self, book: Book, plan: Plan, step: Step, *, tried_before: bool) -> bool:
        """Brings the planned model itself up. False when it has to be planned anew."""
        try:
            if step.verb is Verb.WAKE:
                return await self._rise.wake(book, plan.why)
            if not tried_before and await self._rise.clear(book):
                return False
            await self._rise.start(book, plan.placement, plan.why)
        except OutOfDeviceMemory as error:
            if not tried_before:
                # Once more, with more room: what it needs is more than was known, and that is remembered.
                book.learned.observe_out_of_memory(book.expected() + max(MARGIN, book.expected() // 10))
                self._records.add(Event.LAGGING, f"{error.message}; once more with a margin", model=book.name)
                return False
            self._give_up(book, error)
        except AitherError as error:
            self._give_up(book, error)
        return True

    def _give_up(self, book: Book, error: AitherError) -> None:
        if not isinstance(error, Stopped):
            book.wanted = book.comes_back
        demand.refuse(book, error)

    async def make_room(self, step: Step, patience: Seconds = 0.0) -> bool:
        """Carries out one step that gives bytes back; False when its model is busy, and still is after `patience`, or
        stands on a device where something else moves."""
        victim = self._books[step.model]
        expected = {device: -count for device, count in step.takes.items() if count < 0}
        await self._steps.refresh_busy(victim)
        if not (victim.yields(drained=patience > 0) and self._transitions.widen(self._scope(victim))):
            return False
        if step.verb is Verb.SLEEP:
            return await self._steps.sleep(victim, step.level, expected, step.why, patience=patience)
        if step.verb is Verb.STOP:
            return await self._steps.stop(victim, step.why, patience=patience)
        await self._steps.free(victim, expected, step.why)
        return True

    async def _put_down(self, book: Book, why: str, *, force: bool = False) -> None:
        if book.residency in (Residency.READY, Residency.SLEEPING):
            await self._steps.stop(book, why, force=force)
        elif book.residency is Residency.FAILED:
            book.move(Move.CALM)
        book.stop_wanted = book.stop_force = False
        book.stop_done.set()
        book.changed(book.name)

    async def _relieve(self, device: DeviceId, foreseen: Step) -> None:
        """Carries out one step for a device that is short, if it still is once measured anew."""
        step = relieve(await self.survey(), device, self._clock.monotonic(), self.policy())
        if step is not None and (step.verb, step.model) == (foreseen.verb, foreseen.model):
            await self.make_room(step)

    async def _idle_out(self, book: Book) -> None:
        if await self._steps.refresh_busy(book) or book.stops_at() is None:
            return
        why = f"idle for {format_seconds(book.model.idle or 0.0)}"
        self._records.add(Event.IDLE, f"{book.name} has been {why}", model=book.name)
        await self._steps.stop(book, why)

    async def _resume(self, book: Book) -> None:
        try:
            await self._rise.resume(book)
        except AitherError as error:
            demand.refuse(book, error)
            return
        demand.serve(book, "loaded")

    async def _ask_busy(self) -> None:
        own = [book for book in self._books.values() if book.engine.own_queue and book.residency is Residency.READY]
        await asyncio.gather(*(self._steps.refresh_busy(book) for book in own))

    # --- telling -------------------------------------------------------------------------------------------------

    def _tell(self, book: Book, plan: Plan) -> None:
        book.refusal = ""
        free = {device: view.free for device, view in self._meter.accounts.devices.items()}
        self._records.add_plan(f"to bring in {book.name}", plan, plan.steps, model=book.name, free=free)

    def _refuse(self, book: Book, refusal: Refusal) -> None:
        if refusal.why != book.refusal:
            book.refusal = refusal.why
            self._records.add_refusal(f"{book.name} cannot come in", refusal, model=book.name)
        match refusal.kind:
            case RefusalKind.NEVER:
                book.wanted = False
                demand.refuse(book, CannotFit(refusal.why, remedy="see aitherctl plan " + book.name))
            case RefusalKind.BLIND:
                self._not_before[book.name] = self._clock.monotonic() + BLIND_RETRY
                demand.refuse(book, DeviceBlind(refusal.why, retry_after=BLIND_RETRY))
            case _:
                self.later(book.name)
