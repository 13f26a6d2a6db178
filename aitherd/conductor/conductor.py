"""The operations that every edge shares (`operations.Operations`), over books that only this package writes.

What a request wants is noted in the books here, what a person wants in `wishes.py`; the scheduler sees to it. Taking
over what runs already is in `adoption.py`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any

import structlog

from aitherd.conductor import demand
from aitherd.conductor.adoption import Adoption
from aitherd.conductor.books import Book, Clock
from aitherd.conductor.claims import Claim, Look
from aitherd.conductor.foreign import Guests
from aitherd.conductor.granting import Granting
from aitherd.conductor.health import find_problems
from aitherd.conductor.holds import Holds
from aitherd.conductor.launch import Host
from aitherd.conductor.meter import Meter, Sampler
from aitherd.conductor.observer import Observer
from aitherd.conductor.operations import ModelStatus
from aitherd.conductor.precheck import first_obstacle
from aitherd.conductor.protection import Protection
from aitherd.conductor.readahead import ReadAhead
from aitherd.conductor.records import Event, Records
from aitherd.conductor.rise import Rise
from aitherd.conductor.scheduler import Scheduler
from aitherd.conductor.sleeping import Sleeping
from aitherd.conductor.steps import Steps
from aitherd.conductor.store import State, Store, learning_key
from aitherd.conductor.wishes import Wishes
from aitherd.config import Fleet, Model, fitted
from aitherd.config.machine import Obstacle
from aitherd.core.callers import ANYBODY, Caller
from aitherd.core.learning import Learned
from aitherd.core.readahead import Pressure
from aitherd.core.routing import Catalogue, nearest
from aitherd.core.vitality import Doubt
from aitherd.core.words import (
    DeviceView,
    Endpoint,
    Plan,
    Refusal,
    Residency,
    Seconds,
    World,
)
from aitherd.engines.base import Control
from aitherd.errors import AitherError, UnknownModel
from aitherd.host.memory import HostMemory, host_memory, host_pressure
from aitherd.host.systemd import Systemd

NO_FAULTS: Mapping[str, str] = MappingProxyType({})
ONE_RESUME: Seconds = 10.0
"""logind and the clocks tell of the same resume within this time."""
NO_LEASES: Mapping[str, socket.socket] = MappingProxyType({})


class Conductor:
    """The fleet as it runs. Implements `operations.Operations`."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        systemd: Systemd,
        sampler: Sampler,
        records: Records,
        clock: Clock,
        host: Host,
        store: Store,
        last_line: Callable[[str, str, int], Coroutine[Any, Any, str]],
        connect: Callable[[Endpoint], Control] = Control,
        memory: Callable[[str], HostMemory] = host_memory,
        pressure: Callable[[], Pressure | None] = host_pressure,
        obstacle: Callable[[Model], Awaitable[Obstacle | None]] = first_obstacle,
    ) -> None:
        self.fleet = fleet
        self.clock = clock
        self.records = records
        self.systemd = systemd
        self._holds = Holds(systemd, records, self._save, self._changed, self._background)
        self.books: dict[str, Book] = {}
        self._catalogue = Catalogue(fleet.names)
        self._store = store
        self._state: State = store.load()
        self._log = structlog.get_logger("aitherd")
        self.faults: Mapping[str, str] = NO_FAULTS
        self._listeners: list[Callable[[str], None]] = []
        self._tasks: set[asyncio.Task[object]] = set()
        self._protection = Protection(systemd)
        self._resumed_at = float("-inf")
        self.leasing = Granting(clock, records, self._world, self._save, lambda: self._changed(""))
        self.guests = Guests(clock, connect)
        self.guests.apply(fleet.services)
        self.meter = Meter(
            sampler,
            clock,
            records,
            lambda: self.fleet.settings,
            self.books.values,
            lambda: self._changed(""),
            self.leasing.leases,
            self.guests,
            memory,
        )
        sleeping = Sleeping(systemd, host, connect, lambda: self.meter.driver)
        self.steps = Steps(systemd, self.meter, sleeping, records, clock, lambda: self.fleet.settings, connect)
        self.rise = Rise(systemd, self.meter, self.steps, records, clock, host, last_line, obstacle)
        self.scheduler = Scheduler(
            self.books,
            self.meter,
            self.steps,
            self.rise,
            self.leasing,
            self.guests,
            records,
            clock,
            lambda: self.fleet.settings,
        )
        self.observer = Observer(
            self.books,
            systemd=systemd,
            meter=self.meter,
            steps=self.steps,
            rise=self.rise,
            records=records,
            moving=lambda: self.scheduler.moving,
            let_go=self._holds.end,
            resumed=self.resumed,
            background=self._background,
            clock=clock,
        )
        self._wishes = Wishes(
            self._holds, systemd, self.scheduler, self.observer, records, lambda: self.fleet.settings, self._changed
        )
        self._read_ahead = ReadAhead(
            self.books,
            host=host,
            memory=lambda: memory(""),
            pressure=pressure,
            moving=lambda: self.scheduler.moving,
            background=self._background,
            records=records,
            clock=clock,
            settings=lambda: self.fleet.settings,
        )
        self.adoption = Adoption(
            self.books,
            systemd=systemd,
            meter=self.meter,
            rise=self.rise,
            records=records,
            sleeping=sleeping,
            resume=self.scheduler.resume,
        )

    # --- life ----------------------------------------------------------------------------------------------------

    async def open(
        self, faults: Mapping[str, str] = NO_FAULTS, leases: Mapping[str, socket.socket] = NO_LEASES
    ) -> None:
        """Measures, makes the books and takes over what runs; afterwards the operations may be called.

        `faults` say why configured models had to be left out, by name: problems until a configuration without errors
        is applied. What runs of them is left alone. `leases` are the descriptors that the service manager kept, by id.
        Raises ConfigurationRefused when the essential models do not fit the devices.
        """
        self.faults = faults
        self.leasing.leases.restore(self._state.leases, leases)
        await self.meter.measure()
        self.fleet = fitted(self.fleet, self.meter.totals)
        for model in self.fleet.models.values():
            self.books[model.name] = self._book(model)
        self.systemd.watch(self.observer.unit_changed)
        before = self._state
        self._state = State(learned=before.learned)
        active = await self.adoption.adopt(before.levels, faults)
        self.adoption.quarantine(before.lost)
        self._background(self._protection.follow(self.fleet.models.values()))
        # A hold whose unit was stopped and whose engine is gone ended while no daemon was there.
        held = active | {name for name in before.held if name in self.books and self.books[name].alive}
        for book in self.books.values():
            book.stopped_by_person = book.name in before.stopped
            book.wanted = book.comes_back
            if book.name in held:
                self._background(self._hold_again(book))

    async def run(self) -> None:
        """Schedules and measures until cancelled. Engines run on afterwards."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.scheduler.run(), name="scheduler")
                group.create_task(self.observer.run(self._measured), name="observer")
        finally:
            self._save()
            self.leasing.close()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.meter.close()

    def apply(self, fleet: Fleet) -> None:
        """Takes over a new configuration. A running engine keeps its old one until its next start; a model that is
        configured no more is drained and stopped. Raises ConfigurationRefused for one that does not fit the devices."""
        self.fleet = fleet = fitted(fleet, self.meter.totals)
        if self.faults:
            self.faults = NO_FAULTS
            # What runs of models whose files could not be read when the daemon started.
            self._background(self.adoption.adopt({}, NO_FAULTS))
        self._catalogue = Catalogue(fleet.names)
        self.guests.apply(fleet.services)
        for model in fleet.models.values():
            book = self.books.get(model.name)
            if book is None:
                self.books[model.name] = book = self._book(model)
                book.wanted = book.comes_back
            else:
                book.model = model
        self._background(self._protection.follow(fleet.models.values()))
        for name, book in list(self.books.items()):
            if name not in fleet.models:
                self._background(self._retire(book))
        self._changed("")

    def resumed(self) -> None:
        """The machine was suspended: the driver is asked anew, and engines have to sing before they get requests."""
        now = self.clock.monotonic()
        if now - self._resumed_at < ONE_RESUME:
            return
        self._resumed_at = now
        self.records.add(Event.RESUMED, "the machine was suspended; engines are looked at before they get requests")
        self._background(self.meter.renew())
        self.observer.doubt(Doubt.RESUMED)

    # --- Operations ----------------------------------------------------------------------------------------------

    def resolve(self, name: str) -> str:
        model = self._catalogue.resolve(name)
        if model is None:
            meant = " or ".join(nearest(name, self.fleet.names))
            hint = f"did you mean {meant}; " if meant else ""
            known = (
                f"the models are: {', '.join(sorted(self.fleet.names))}" if self.fleet.names else "none is configured"
            )
            raise UnknownModel(f"there is no model {name!r}", remedy=f"{hint}{known}")
        return model

    def try_use(self, model: str) -> Claim | None:
        book = self.books[model]
        if book.residency is not Residency.READY or book.stop_wanted or book.vitals.doubt.withholds:
            return None
        return book.begin_use(0.0, "ready")

    def look(self, model: str, method: str, path: str) -> Look | None:
        return self.books[model].look(method, path)

    async def use(self, model: str, timeout: Seconds | None = None, caller: Caller = ANYBODY) -> Claim:
        book = self._known(model)
        claim = self.try_use(model)
        if claim is not None:
            return claim
        if (error := book.backing_off()) is not None:
            raise error
        if not book.waiters:
            self.records.add(Event.DEMAND, f"a request wants {model}, which is {book.residency}", model=model)
        bound = self.fleet.settings.wait if timeout is None else timeout
        claim = await demand.wait(book, claim=True, timeout=bound, limit=book.model.max_waiting, caller=caller)
        assert claim is not None
        return claim

    async def start(self, model: str) -> None:
        await self._wishes.start(self._known(model))

    async def hold(self, model: str) -> None:
        await self._wishes.hold(self._known(model))

    async def release(self, model: str) -> None:
        self._wishes.release(self._known(model))

    async def stop(self, model: str, *, force: bool = False) -> None:
        await self._wishes.stop(self._known(model), force=force)

    async def sleep(self, model: str, level: int = 0) -> None:
        await self._wishes.sleep(self._known(model), level)

    async def wake(self, model: str) -> None:
        await self._wishes.wake(self._known(model))

    async def plan(self, model: str) -> Plan | Refusal:
        return await self.scheduler.execution.plan(self._known(model))

    def status(self, model: str) -> ModelStatus:
        return self._known(model).status()

    def statuses(self) -> tuple[ModelStatus, ...]:
        return tuple(self.books[name].status() for name in sorted(self.books))

    def devices(self) -> tuple[DeviceView, ...]:
        devices = self.meter.accounts.devices
        return tuple(devices[name] for name in sorted(devices))

    def problems(self) -> tuple[str, ...]:
        return find_problems(self.books.values(), self.meter.problem, self.faults, self.clock.monotonic())

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        self._listeners.append(changed)
        return lambda: self._listeners.remove(changed)

    # --- inside the package --------------------------------------------------------------------------------------

    def _known(self, model: str) -> Book:
        book = self.books.get(model)
        return book if book is not None else self.books[self.resolve(model)]

    def _book(self, model: Model) -> Book:
        return Book(model, self.clock, self._changed, self._used, self._learned)

    def _learned(self, model: Model) -> Learned:
        key = learning_key(model.name, model.fingerprint, self.meter.driver)
        return self._state.learned.setdefault(key, Learned())

    def _changed(self, name: str) -> None:
        if not name:
            self._resize()
        self.scheduler.nudge()
        self.observer.nudge()
        book = self.books.get(name)
        if book is not None:
            self._holds.keep_essential(book)
            if book.residency is Residency.QUARANTINED and name not in self._state.lost:
                self._save()
        for listener in self._listeners:
            listener(name)

    def _world(self) -> World:
        return self.scheduler.execution.world()

    def _used(self, name: str) -> None:
        self.scheduler.used(name)
        for listener in self._listeners:
            listener(name)

    def _resize(self) -> None:
        """Devices that could not be measured before say how large a part of them is."""
        for book in self.books.values():
            if not book.model.vram and book.model.utilization is not None and self.meter.totals:
                book.model = self.fleet.sized(self.meter.totals).models.get(book.name, book.model)

    async def _hold_again(self, book: Book) -> None:
        """Takes up a hold that an earlier daemon had."""
        try:
            await self.hold(book.name)
        except AitherError as error:
            self._log.warning("a model that was held is not up", aither_model=book.name, problem=str(error))

    async def _retire(self, book: Book) -> None:
        """Refuses those who wait for a model that is configured no more, stops it, and forgets it."""
        gone = UnknownModel(f"{book.name} is configured no more")
        demand.refuse(book, gone)
        await self._wishes.stop(book)
        if book.name in self.fleet.models:
            # It has come back meanwhile, and nobody stopped that one.
            book.stopped_by_person = False
            book.wanted = book.comes_back
            self._changed(book.name)
        elif self.books.get(book.name) is book and not book.alive:
            demand.refuse(book, gone)
            del self.books[book.name]
            self._changed("")

    def _measured(self) -> None:
        self._save()
        self._read_ahead.consider()

    def _save(self) -> None:
        self._state.held = frozenset(book.name for book in self.books.values() if book.held)
        self._state.levels = {book.name: book.level for book in self.books.values() if book.level}
        self._state.stopped = frozenset(book.name for book in self.books.values() if book.stopped_by_person)
        self._state.lost = {name: book.lost for name, book in self.books.items() if book.lost}
        self._state.leases = self.leasing.leases.kept
        self._store.save(self._state)

    def _background(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a background task ended unexpectedly", exc_info=error)
