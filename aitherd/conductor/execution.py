"""What transitions do, from plan to plan: bring a model in, put one down, have one give way, let one idle out.

After each step the world is measured and the plan made anew, so no plan is trusted longer than one step. When it is
whose turn is `scheduler.py`'s to say; how a step is carried out and verified is in `steps.py` and `rise.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from aitherd.conductor import demand
from aitherd.conductor.books import Book, Clock
from aitherd.conductor.deferral import Deferral, Look, look
from aitherd.conductor.foreign import LOOK_AGAIN, Guest, Guests
from aitherd.conductor.leases import Leases
from aitherd.conductor.meter import Meter
from aitherd.conductor.records import Event, Records
from aitherd.conductor.rise import BACKOFF_FIRST, Rise
from aitherd.conductor.steps import Steps
from aitherd.conductor.transitions import Transitions
from aitherd.config import Settings
from aitherd.core.arbiter import decide
from aitherd.core.eviction import INFINITE, ripens
from aitherd.core.ledger import starved
from aitherd.core.policy import Policy
from aitherd.core.queue import overdue_from
from aitherd.core.relief import relieve
from aitherd.core.residency import Event as Move
from aitherd.core.sleeping import put_to_sleep
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
from aitherd.errors import AitherError, CannotFit, DeviceBlind, OutOfDeviceMemory, Stopped

BLIND_RETRY: Seconds = 5.0
"""When somebody is told to ask again for a model whose device cannot be measured."""
MARGIN: Bytes = 512 * 2**20
"""A model that ran out of device memory is given at least so much more at its second try."""
STEPS_MAX = 32
"""So many steps may make room for one model before it goes to the end of the line: a plan that never converges ends."""


class Execution:
    """The work of transitions, and what their decisions go by."""

    def __init__(
        self,
        books: Mapping[str, Book],
        meter: Meter,
        steps: Steps,
        rise: Rise,
        transitions: Transitions,
        deferral: Deferral,
        leases: Leases,
        guests: Guests,
        records: Records,
        clock: Clock,
        settings: Callable[[], Settings],
    ) -> None:
        self._books = books
        self._meter = meter
        self._steps = steps
        self._rise = rise
        self._transitions = transitions
        self._deferral = deferral
        self._leases = leases
        self._guests = guests
        self._records = records
        self._clock = clock
        self._settings = settings
        self._drained: dict[str, Seconds] = {}
        """When others were last drained for a model in vain."""

    # --- what decisions go by ------------------------------------------------------------------------------------

    def world(self) -> World:
        """What a decision may depend on, as known now."""
        devices = self._meter.accounts.devices
        unified = frozenset(id for id, view in devices.items() if view.unified)
        models = {name: book.view(unified) for name, book in self._books.items()} | self._guests.views()
        return World(devices, models, self._leases.claims())

    def policy(self) -> Policy:
        """The arbiter's parameters, as configured."""
        return Policy(min_residency=self._settings().min_residency, age_bound=self._settings().age_bound)

    async def survey(self) -> World:
        """The world from a fresh measurement, which comes last: an engine may take seconds to say that it is busy."""
        own = [book for book in self._books.values() if book.engine.own_queue and book.residency is Residency.READY]
        await asyncio.gather(self._guests.refresh_busy(), *(self._steps.refresh_busy(book) for book in own))
        await self._meter.measure()
        return self.world()

    async def plan(self, book: Book) -> Plan | Refusal:
        """What bringing `book` in would do now, from a fresh measurement."""
        return decide(await self.survey(), book.name, self._clock.monotonic(), self.policy())

    def scope(self, book: Book) -> frozenset[DeviceId]:
        """The devices that a transition of `book` may touch."""
        if book.expected() == 0:
            return frozenset()
        return frozenset(book.placement or book.model.devices) or self.devices()

    def stands(self, name: str) -> frozenset[DeviceId]:
        """The devices that a step of the model, or service, of that name may touch."""
        guest = self._guests.get(name)
        return self.scope(self._books[name]) if guest is None else frozenset(guest.measured)

    def devices(self) -> frozenset[DeviceId]:
        """All that a model without a choice of its own may touch."""
        return frozenset(self._meter.accounts.devices.keys() - {HOST} or ("gpu0",))

    def look(self) -> Look:
        """The state that refusals depend on."""
        return look(self._books.values(), self._meter.accounts.devices, self._leases.claims())

    def later(self, name: str) -> None:
        """A model or a lease that cannot come in is tried again when something changed, or when time has changed it."""
        now, policy = self._clock.monotonic(), self.policy()
        instants = [now + LOOK_AGAIN] if self._guests.views() else []
        instants += [ripens(book.view(), policy) for book in self._books.values() if book.residency is Residency.READY]
        if (book := self._books.get(name)) is not None:
            instants.append(overdue_from(demand.line(book, now), policy))
            instants.append(self._drained.get(name, -policy.patience_pause) + policy.patience_pause)
        self._deferral.add(name, now, self.look(), min((at for at in instants if at > now), default=INFINITE))

    def _policy_for(self, book: Book, now: Seconds) -> Policy:
        """What goes for `book`: more when its line is overdue, but nobody is drained over and over in vain."""
        line = demand.line(book, now)
        policy = replace(self.policy(), waited=max(now - line.oldest_since, 0.0) if line.waiting else None)
        if now < overdue_from(line, policy):
            return policy
        paused = now - self._drained.get(book.name, -policy.patience_pause) < policy.patience_pause
        return replace(policy, urgent=True, patience=0.0 if paused else policy.patience)

    # --- the work ------------------------------------------------------------------------------------------------

    async def bring_in(self, book: Book) -> None:
        """Makes a model ready that is waited for, or says why that cannot be now."""
        began = self._clock.monotonic()
        told: tuple[tuple[Verb, str], ...] = ()
        steps_done: list[str] = []
        prepared = tried = False
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
                if step.verb is Verb.START and not prepared:
                    prepared = True
                    try:
                        if await self._rise.prepare(book, outcome.placement):
                            continue
                    except AitherError as error:
                        self._give_up(book, error)
                        return
                quiet = step.verb is Verb.START and book.engine.quiet_start(book.model.command)
                if quiet and await self._transitions.alone(frozenset(outcome.placement)):
                    continue
                if not quiet:
                    # Its room is promised to it, and it minds nobody.
                    self._transitions.share(frozenset(outcome.placement))
                if await self._raise(book, outcome, step, tried_before=tried):
                    break
                tried = True
                await self._transitions.own_again(self.scope(book))
                continue
            book.say(step.why)
            if not await self.make_room(step, policy.patience if policy.urgent else 0.0):
                if policy.urgent and step.model in self._books and self._books[step.model].busy:
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
        before = self._meter.accounts
        try:
            if step.verb is Verb.WAKE:
                return await self._rise.wake(book, plan.why)
            await self._rise.start(book, plan.placement, plan.why)
        except OutOfDeviceMemory as error:
            if tried_before:
                self._give_up(book, error)
                return True
            again = "once more, since others took its room meanwhile"
            if not starved(before, self._meter.accounts, book.name, step.takes):
                # With more room: what it needs is more than was known, and that is remembered.
                book.learned.observe_out_of_memory(book.expected() + max(MARGIN, book.expected() // 10))
                again = "once more with a margin"
            self._records.add(Event.LAGGING, f"{error.message}; {again}", model=book.name)
            return False
        except AitherError as error:
            self._give_up(book, error)
        return True

    def _give_up(self, book: Book, error: AitherError) -> None:
        if not isinstance(error, Stopped):
            book.wanted = book.comes_back
            # What kept it from even beginning is not over at once, and is not booked as a failure.
            book.retry_at = max(book.retry_at, self._clock.monotonic() + BACKOFF_FIRST)
        demand.refuse(book, error)

    async def make_room(self, step: Step, patience: Seconds = 0.0) -> bool:
        """Carries out one step that gives bytes back; False when its model is busy, and still is after `patience`, or
        stands on a device where something else moves."""
        expected = {device: -count for device, count in step.takes.items() if count < 0}
        if (guest := self._guests.get(step.model)) is not None:
            return await self._unload(guest, expected, step.why)
        victim = self._books[step.model]
        await self._steps.refresh_busy(victim)
        # Two that fall asleep at once, on two devices, would both count on the same host memory.
        host = frozenset({HOST} if step.takes.get(HOST, 0) > 0 else ())
        if not (victim.yields(drained=patience > 0) and self._transitions.widen(self.scope(victim) | host)):
            return False
        if step.verb is Verb.SLEEP:
            try:
                return await self._steps.sleep(victim, step.level, expected, step.why, patience=patience)
            finally:
                if host:
                    await self._meter.measure()
                    self._transitions.narrow(host)
        if step.verb is Verb.STOP:
            return await self._steps.stop(victim, step.why, patience=patience)
        await self._steps.free(victim, expected, step.why)
        return True

    async def _unload(self, guest: Guest, expected: Mapping[DeviceId, Bytes], why: str) -> bool:
        """Has a service that is not ours give its bytes back; False when it works, or something else moves there."""
        await guest.refresh_busy(self._steps.connect)
        if guest.busy or not self._transitions.widen(frozenset(guest.measured)):
            return False
        await self._steps.free(guest, expected, why)
        return True

    async def drain(self, book: Book) -> None:
        """Waits until a model that is to be stopped has done what it works on. That may take long, and owns nothing."""
        await self._steps.drain(book)
        book.say("")

    async def put_down(self, book: Book) -> None:
        """Stops a model, or puts it to sleep, because somebody asked for it. One that turns out to work again has to be
        drained again."""
        force = book.stop_force
        if book.residency in (Residency.READY, Residency.SLEEPING):
            if book.residency is Residency.READY and not force and await self._steps.refresh_busy(book):
                return
            if book.stop_level:
                # Decided anew: what could be done when it was asked for may not be possible after a long drain.
                world = await self.survey()
                # For others' decisions it is on its way already.
                ready = replace(world.models[book.name], residency=Residency.READY)
                step = put_to_sleep(replace(world, models={book.name: ready}), book.name, book.stop_level)
                if isinstance(step, Step):
                    expected = {device: -count for device, count in step.takes.items()}
                    if not await self._steps.sleep(book, step.level, expected, step.why):
                        return
            elif not await self._steps.stop(book, "asked to", force=force):
                return
        elif book.residency is Residency.FAILED:
            book.move(Move.CALM)
        book.stop_wanted = book.stop_force = False
        book.stop_level = 0
        book.stop_done.set()
        book.changed(book.name)

    async def relieve(self, device: DeviceId, foreseen: Step) -> None:
        """Carries out one step for a device that is short, if it still is once measured anew."""
        step = relieve(await self.survey(), device, self._clock.monotonic(), self.policy())
        if step is not None and (step.verb, step.model) == (foreseen.verb, foreseen.model):
            await self.make_room(step)

    async def idle_out(self, book: Book) -> None:
        """Stops a model that has been idle for its time, if it still is."""
        if await self._steps.refresh_busy(book) or book.stops_at() is None:
            return
        why = f"idle for {format_seconds(book.model.idle or 0.0)}"
        self._records.add(Event.IDLE, f"{book.name} has been {why}", model=book.name)
        await self._steps.stop(book, why)

    async def resume(self, book: Book) -> None:
        """Goes on with a start that an earlier daemon began."""
        try:
            await self._rise.resume(book)
        except AitherError as error:
            demand.refuse(book, error)
            return
        demand.serve(book, "loaded")

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
                self.later(book.name)
                demand.refuse(book, DeviceBlind(refusal.why, retry_after=BLIND_RETRY))
            case _:
                if not book.waiters and not book.comes_back:
                    # It would have come in for those who come back. It does not come in, so nobody insists.
                    book.wanted = False
                self.later(book.name)
