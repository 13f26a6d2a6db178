"""What people ask of a model: start, hold, release, stop, sleep, wake. Noted in its book; the scheduler sees to it.

What requests ask for, and what happens of itself, is not here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aitherd.conductor import demand
from aitherd.conductor.books import Book
from aitherd.conductor.holds import Holds
from aitherd.conductor.observer import Observer
from aitherd.conductor.records import Event, Records
from aitherd.conductor.scheduler import Scheduler
from aitherd.config import Settings
from aitherd.core.sleeping import put_to_sleep
from aitherd.core.words import Residency, ResidencyClass
from aitherd.errors import AlwaysHeld, CannotSleep, HostFailure, NotAsleep, Stopped
from aitherd.host.systemd import Systemd


class Wishes:
    """Each returns when it is fulfilled, with the guarantees and the errors that `operations.Operations` names."""

    def __init__(
        self,
        holds: Holds,
        systemd: Systemd,
        scheduler: Scheduler,
        observer: Observer,
        records: Records,
        settings: Callable[[], Settings],
        changed: Callable[[str], None],
    ) -> None:
        """`changed` is told the name of a model whose book was written."""
        self._holds = holds
        self._systemd = systemd
        self._scheduler = scheduler
        self._observer = observer
        self._records = records
        self._settings = settings
        self._changed = changed

    async def start(self, book: Book) -> None:
        """Brings it in and leaves it to its idle timeout."""
        self._forgive(book)
        # One that is being drained for a stop is as good as gone: it is brought back afterwards.
        if book.residency is not Residency.READY or book.stop_wanted:
            self._records.add(Event.DEMAND, f"{book.name} is to be started; it is {book.stands}", model=book.name)
            await demand.wait(book, claim=False, timeout=None, limit=None)

    async def hold(self, book: Book) -> None:
        """Brings it in and keeps it."""
        # Held from the first moment on, so that it is not evicted between becoming ready and being held.
        book.held = True
        book.holding += 1
        if book.residency is Residency.STOPPING:
            book.idle.set()  # a drain that makes room for another looks again, and leaves it
        try:
            await self.start(book)
        finally:
            book.holding -= 1
            if not (book.hold_begun or book.holding or book.residency is Residency.READY):
                book.held = False
        if book.held and not book.hold_begun:
            # Nobody released it while it came up.
            self._holds.begin(book)

    def release(self, book: Book) -> None:
        """Ends the hold. Raises AlwaysHeld."""
        if book.model.residency_class is ResidencyClass.ESSENTIAL:
            raise AlwaysHeld(
                f"{book.name} is essential and cannot be released",
                remedy=f"aitherctl stop {book.name} stops it; its class is set in {book.model.path}",
            )
        self._holds.end(book)

    async def stop(self, book: Book, *, force: bool = False) -> None:
        """Ends the hold, drains and stops it, and refuses those who wait for it."""
        if book.unit_leaving:
            # The unit's own stop command, run because its engine died, was released or is being stopped already.
            await book.stop_done.wait()
            return
        going_down = await self._systemd.stopping()
        # A machine that goes down stops everything; that is nobody's wish for the time after.
        book.stopped_by_person = not going_down
        book.wanted = False
        self._holds.end(book)
        demand.refuse(book, Stopped(f"{book.name} was stopped by a person", remedy="ask again to load it anew"))
        if book.residency in (Residency.ABSENT, Residency.QUARANTINED) and not self._scheduler.moves(book.name):
            return
        book.stop_wanted = True
        book.stop_level = 0
        book.stop_force = book.stop_force or force
        if force:
            book.idle.set()  # a drain that waits already looks again
        book.stop_done.clear()
        self._changed(book.name)
        try:
            async with asyncio.timeout(self._settings().drain_timeout if going_down and not force else None):
                await book.stop_done.wait()
        except TimeoutError:
            await self.stop(book, force=True)
        if book.residency is Residency.QUARANTINED:
            raise HostFailure(f"{book.name}: {book.error}", remedy="the device still holds them; see aitherctl devices")

    async def sleep(self, book: Book, level: int = 0) -> None:
        """Ends the hold, drains it and puts it to sleep, level 0 for its shallowest. Raises CannotSleep."""
        if book.residency is Residency.SLEEPING and level in (0, book.level):
            return
        step = put_to_sleep(self._scheduler.execution.world(), book.name, level)
        if isinstance(step, str):
            raise CannotSleep(step, remedy=f"aitherctl stop {book.name} stops it")
        self._holds.end(book)
        book.stop_wanted = True
        book.stop_level = step.level
        book.stop_done.clear()
        self._changed(book.name)
        await book.stop_done.wait()
        if book.residency is not Residency.SLEEPING and not book.waiters:
            raise CannotSleep(
                f"{book.name} is {book.residency} instead of asleep", remedy=f"see aitherctl why {book.name}"
            )

    async def wake(self, book: Book) -> None:
        """Wakes it. Raises NotAsleep."""
        if book.residency not in (Residency.SLEEPING, Residency.STARTING, Residency.READY):
            raise NotAsleep(
                f"{book.name} is {book.residency} and does not sleep", remedy=f"try aitherctl start {book.name}"
            )
        await self.start(book)

    def _forgive(self, book: Book) -> None:
        """A person asks: no back-off, and bytes that are lost stay lost without keeping the model down."""
        book.stopped_by_person = False
        book.retry_at = 0.0
        if book.residency is Residency.QUARANTINED:
            self._observer.found(book)
