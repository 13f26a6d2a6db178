"""What befalls models without anybody's doing: an engine that ends by itself, device use that grows, bytes that return.

It looks and books; what follows from it is the scheduler's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from aitherd.conductor.books import Book, Clock
from aitherd.conductor.canary import Canaries
from aitherd.conductor.launch import model_of
from aitherd.conductor.meter import Meter
from aitherd.conductor.records import Event, Records
from aitherd.conductor.rise import BACKOFF_FIRST, Rise
from aitherd.conductor.steps import Steps
from aitherd.conductor.turns import Turns
from aitherd.core.ledger import Accounts, outstanding
from aitherd.core.residency import Event as Move
from aitherd.core.vitality import Doubt
from aitherd.core.words import NO_BYTES, Residency, Seconds
from aitherd.errors import HostFailure, StartFailed
from aitherd.failpoints import Point, reach
from aitherd.host.systemd import Systemd

SAMPLE_MOVING: Seconds = 0.5
SAMPLE_LIVE: Seconds = 5.0
SAMPLE_EMPTY: Seconds = 60.0
"""How often the devices are measured while a transition runs, while any model is up or quarantined, and while none is:
measuring itself can keep a GPU from sleeping."""
ASK_AGAIN: Seconds = 5.0
"""When a service manager that did not say whether a unit still runs is asked once more."""
SUSPENDED: Seconds = 1.0
"""A machine that was away for less was not suspended."""


class Observer:
    """Watches units and devices."""

    def __init__(
        self,
        books: Mapping[str, Book],
        *,
        systemd: Systemd,
        meter: Meter,
        steps: Steps,
        rise: Rise,
        records: Records,
        moving: Callable[[], bool],
        let_go: Callable[[Book], None],
        resumed: Callable[[], None],
        background: Callable[[Coroutine[Any, Any, None]], None],
        clock: Clock,
    ) -> None:
        self._clock = clock
        self.turns = Turns()
        self._books = books
        self._systemd = systemd
        self._meter = meter
        self._steps = steps
        self._rise = rise
        self._records = records
        self._moving = moving
        self._let_go = let_go
        self._resumed = resumed
        self._slept = clock.slept()
        self._background = background
        self._canaries = Canaries(steps.connect, records, clock, background, self._died)
        self._log = structlog.get_logger("aitherd")
        self._asking: set[str] = set()
        """Models whose engines are being asked whether they still work."""

    async def run(self, measured: Callable[[], None]) -> None:
        """Measures at intervals until cancelled; calls `measured` each time."""
        last = self._clock.monotonic()
        while True:
            self.turns.begin()
            try:
                async with asyncio.timeout(max(last + self._interval() - self._clock.monotonic(), 0.0)):
                    await self.turns.wait()
                continue
            except TimeoutError:
                last = self._clock.monotonic()
            if (slept := self._clock.slept()) - self._slept > SUSPENDED:
                self._slept = slept
                self._resumed()
            accounts = await self._meter.measure()
            for book in self._books.values():
                if book.residency is Residency.READY and book.measured:
                    book.learned.observe_footprint(sum(book.measured.values()))
                if book.engine_busy and book.residency is Residency.READY and book.name not in self._asking:
                    self._asking.add(book.name)
                    self._background(self._ask_again(book))
                self._canaries.watch(book)
                if self._is_back(book, accounts):
                    self._records.add(Event.RETURNED, f"the bytes of {book.name} are back", model=book.name)
                    self.found(book)
            measured()

    def nudge(self) -> None:
        """Something changed, perhaps how often to measure."""
        self.turns.want()

    def _interval(self) -> Seconds:
        if self._moving() or any(book.vitals.doubt for book in self._books.values()):
            return SAMPLE_MOVING
        wakeful = any(book.alive or book.residency is Residency.QUARANTINED for book in self._books.values())
        return SAMPLE_LIVE if wakeful else SAMPLE_EMPTY

    def found(self, book: Book) -> None:
        """Ends a quarantine: the bytes are back, or a person goes on without them."""
        book.lost, book.lost_since, book.error = NO_BYTES, None, ""
        book.control_group = ""
        book.move(Move.RETURNED)

    def doubt(self, why: Doubt) -> None:
        """Every engine is doubted: the ready are asked at once, the others before they serve again."""
        for book in self._books.values():
            if book.alive:
                book.vitals.doubt = why
                if book.residency is Residency.READY:
                    self._background(self._canaries.check(book))

    def unit_changed(self, unit: str) -> None:
        """systemd says that something about `unit` changed."""
        name = model_of(unit)
        book = self._books.get(name) if name is not None else None
        if book is not None and book.alive:
            self._background(self._look_at(book))

    def _is_back(self, book: Book, accounts: Accounts) -> bool:
        """Whether a quarantined model's bytes are measured as returned."""
        if book.residency is not Residency.QUARANTINED or book.lost_since is None:
            return False
        if not all(self._meter.sees(device) for device in book.lost):
            return False
        return not outstanding(book.lost_since, accounts, book.name, book.lost)

    async def _ask_again(self, book: Book) -> None:
        """An engine that said that it works on something of its own does not say when it is done."""
        try:
            await self._steps.refresh_busy(book)
        finally:
            self._asking.discard(book.name)

    async def _look_at(self, book: Book) -> None:
        """Whether the engine of a model that should be alive still is."""
        invocation = book.invocation
        while True:
            try:
                status = await self._systemd.unit(book.unit)
                break
            except HostFailure as error:
                self._log.warning(f"it is not known whether {book.unit} still runs: {error}")
            # Nobody tells a second time.
            await asyncio.sleep(ASK_AGAIN)
            if book.invocation != invocation:
                return
        if not invocation or book.invocation != invocation:
            return
        if (
            status is not None
            and status.invocation_id == invocation
            and status.active_state not in ("inactive", "failed")
        ):
            return
        if book.residency in (Residency.STARTING, Residency.STOPPING):
            book.died.set()
        elif book.residency in (Residency.READY, Residency.SLEEPING):
            await self._died(book)

    async def _died(self, book: Book, lie: str = "") -> None:
        """Books the end of a ready or sleeping engine: it ended by itself, or calls itself ready and is not: `lie`."""
        before, expected = self._meter.accounts, book.measured
        book.error = lie or "its process ended"
        # Nobody starts it anew before it is known why it ended.
        book.retry_at = self._clock.monotonic() + BACKOFF_FIRST
        book.move(Move.DIED)
        reach(Point.DEATH_SEEN)
        self._let_go(book)
        if lie:
            await self._steps.end_unit(book)
            await self._rise.failed(book, StartFailed(f"{book.name}: {lie}"))
        else:
            await self._rise.failed(book, await self._rise.ended(book))
        missing = await self._steps.settle(book, before, expected)
        if book.residency is not Residency.FAILED:
            # Somebody wanted it, and there was room: what lingers is used by nobody, and is not this engine's.
            book.lost, book.lost_since = NO_BYTES, None
            return
        book.gone(lost=bool(missing))
        book.wanted = book.comes_back
        if missing:
            self._steps.quarantine(book, missing, "ended")
        book.changed(book.name)
