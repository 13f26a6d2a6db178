"""Who moves next: the one place that starts transitions.

`_assign` runs whenever something changed; it only looks at the books and starts tasks, each of which owns its devices
alone until it only comes up. The order of waiting models comes from `core/queue.py`; what the tasks do is in
`execution.py`, how they own devices in `transitions.py`, and when somebody who was refused is tried again in
`deferral.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from aitherd.conductor import demand
from aitherd.conductor.books import Book, Clock
from aitherd.conductor.deferral import Deferral, Look
from aitherd.conductor.execution import Execution
from aitherd.conductor.foreign import Guests
from aitherd.conductor.granting import Granting
from aitherd.conductor.meter import Meter
from aitherd.conductor.outlook import Forecast
from aitherd.conductor.records import Records
from aitherd.conductor.rise import Rise
from aitherd.conductor.steps import Steps
from aitherd.conductor.transitions import Transitions
from aitherd.conductor.turns import Turns
from aitherd.config import Settings
from aitherd.core.queue import order
from aitherd.core.relief import relieve
from aitherd.core.residency import Event as Move
from aitherd.core.words import DeviceId, Residency, Seconds
from aitherd.errors import ShuttingDown, StartFailed

RELIEF_PAUSE: Seconds = 3.0
"""So long a device may have less left than its reserve before somebody gives way, and before the next one does."""
HOPE_PAUSE: Seconds = 0.5
"""It is not looked more often than this for those who wait in vain."""
NOTHING: frozenset[DeviceId] = frozenset()


class Scheduler:
    """Starts transitions and waits for them."""

    def __init__(
        self,
        books: Mapping[str, Book],
        meter: Meter,
        steps: Steps,
        rise: Rise,
        granting: Granting,
        guests: Guests,
        records: Records,
        clock: Clock,
        settings: Callable[[], Settings],
    ) -> None:
        self._books = books
        self._meter = meter
        self._granting = granting
        self._clock = clock
        self.turns = Turns()
        self._transitions = Transitions(self.nudge)
        self._deferral = Deferral()
        self.execution = Execution(
            books,
            meter,
            steps,
            rise,
            self._transitions,
            self._deferral,
            granting.leases,
            guests,
            records,
            clock,
            settings,
        )
        self.forecast = Forecast(books, self.execution, self._transitions, self._deferral, clock)
        self._looked: Seconds = float("-inf")
        """When it was last looked for those who wait in vain."""
        self._short_since: dict[DeviceId, Seconds] = {}
        """Since when a device has had less left than its reserve, or was last relieved."""

    def nudge(self) -> None:
        """Something changed."""
        self.turns.want()

    def used(self, model: str) -> None:
        """A request of `model` began or ended, which only matters where that leaves it idle."""
        book = self._books.get(model)
        if book is not None and not book.busy and (self._deferral or book.stop_wanted):
            self.turns.want()

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
                self.turns.begin()
                due = self._assign(self._clock.monotonic())
                try:
                    async with asyncio.timeout(None if due is None else max(due - self._clock.monotonic(), 0.0)):
                        await self.turns.wait()
                except TimeoutError:
                    continue
        finally:
            for book in self._books.values():
                demand.refuse(book, ShuttingDown("aitherd is going away", remedy="try again", retry_after=1.0))
            await self._transitions.cancel()

    def resume(self, book: Book) -> None:
        """Goes on with a start that an earlier daemon began."""
        self._spawn(book, self.execution.resume(book))

    def _assign(self, now: Seconds) -> Seconds | None:
        """Starts what can start. Returns the instant at which something is due although nothing changes."""
        due: list[Seconds] = []
        look = None
        if self._deferral:
            wanted = {book.name for book in self._books.values() if book.demanded}
            self._deferral.keep(wanted.union(lease.name for lease in self._granting.waiting))
            look = self.execution.look()
        self._assign_stops()
        claimed = self._assign_leases(look, now, due)
        self._assign_demands(claimed, look, now, due)
        self._end_hopeless(now, due)
        self._assign_idle(now, due)
        self._relieve_devices(now, due)
        return min(due, default=None)

    def _assign_stops(self) -> None:
        """Stops that people asked for. What is busy is drained before anything of its device is claimed."""
        for book in self._books.values():
            if not book.stop_wanted or book.name in self._transitions:
                continue
            if book.residency is Residency.READY and book.busy and not book.stop_force:
                self._spawn(book, self.execution.drain(book), NOTHING)
            elif self._unclaimed(book):
                self._spawn(book, self.execution.put_down(book))

    def _assign_leases(self, look: Look, now: Seconds, due: list[Seconds]) -> set[DeviceId]:
        """Leases that wait. Before the models: somebody waits for all of it, and not for a turn that comes again.

        Returns the devices that nobody behind them may take.
        """
        claimed: set[DeviceId] = set()
        for lease in self._granting.waiting:
            if lease.name in self._transitions:
                continue
            if (earliest := self._deferral.earliest(lease.name, look)) > now:
                due.append(earliest)
                continue
            scope = frozenset(lease.devices) or self.execution.devices()
            if not scope & claimed and self._transitions.free(scope):
                self._deferral.drop(lease.name)
                self._transitions.run(
                    lease.name, scope, self._granting.grant(lease, self.execution), partial(self._granting.ended, lease)
                )
            claimed |= scope
        return claimed

    def _assign_demands(self, claimed: set[DeviceId], look: Look, now: Seconds, due: list[Seconds]) -> None:
        """Models that are waited for."""
        lines = []
        for book in self._books.values():
            if not book.demanded or book.stop_wanted or book.name in self._transitions:
                continue
            if book.residency is Residency.READY:
                book.wanted = False
                demand.serve(book, "ready")
                continue
            if book.residency is Residency.QUARANTINED and not book.waiters:
                # It comes in once its bytes are back, which changes it.
                continue
            earliest = max(book.retry_at, self._deferral.earliest(book.name, look))
            if earliest > now:
                due.append(earliest)
                continue
            lines.append(demand.line(book, now))
        for name in order(lines, now, self.execution.policy()):
            book = self._books[name]
            scope = self.execution.scope(book)
            # A model that has to wait for its device keeps those behind it from taking that device first.
            if not scope & claimed and self._unclaimed(book):
                self._deferral.drop(name)
                self._spawn(book, self.execution.bring_in(book))
            claimed |= scope

    def _end_hopeless(self, now: Seconds, due: list[Seconds]) -> None:
        """Ends the wait of those whose models cannot be ready in time, whatever happens: they go elsewhere at once."""
        waited_for = [book for book in self._books.values() if any(one.deadline is not None for one in book.waiters)]
        if not waited_for:
            return
        if now < self._looked + HOPE_PAUSE:
            due.append(self._looked + HOPE_PAUSE)
            return
        self._looked = now
        best = self.forecast.ready_in(best=True)
        for book in waited_for:
            instant = demand.give_up(book, best.get(book.name, 0.0), now, self.execution.policy())
            if instant is not None:
                due.append(instant)

    def _assign_idle(self, now: Seconds, due: list[Seconds]) -> None:
        """Models that have been idle for their time."""
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
                self._spawn(book, self.execution.idle_out(book))

    def _relieve_devices(self, now: Seconds, due: list[Seconds]) -> None:
        """Has somebody give way where another program grew into the reserve, unless that passes by itself."""
        for device, view in self._meter.accounts.devices.items():
            if view.free >= view.reserve or not view.fresh:
                self._short_since.pop(device, None)
                continue
            since = self._short_since.setdefault(device, now)
            if now < since + RELIEF_PAUSE:
                due.append(since + RELIEF_PAUSE)
                continue
            self._short_since[device] = now
            step = relieve(self.execution.world(), device, now, self.execution.policy())
            if step is None:
                continue
            scope = self.execution.stands(step.model)
            if step.model not in self._transitions and self._transitions.free(scope):
                ended = partial(self._relieved, step.model)
                self._transitions.run(step.model, scope, self.execution.relieve(device, step), ended)

    def _unclaimed(self, book: Book) -> bool:
        """Whether no transition runs for `book` or on its devices."""
        return book.name not in self._transitions and self._transitions.free(self.execution.scope(book))

    def _spawn(self, book: Book, work: Coroutine[Any, Any, None], scope: frozenset[DeviceId] | None = None) -> None:
        scope = self.execution.scope(book) if scope is None else scope
        self._transitions.run(book.name, scope, work, partial(self._ended, book))

    def _relieved(self, name: str, failure: StartFailed | None) -> None:
        if (book := self._books.get(name)) is not None:
            self._ended(book, failure)

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
