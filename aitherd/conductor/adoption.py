"""Taking over engine units that run already: those of an earlier daemon, which may have ended at any instant.

What a unit is, it says itself (`launch.py` writes it into the unit's log fields); whether it answers is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from aitherd.conductor.books import Book
from aitherd.conductor.launch import ENDPOINT_FIELD, FINGERPRINT_FIELD, PLACEMENT_FIELD, model_of, model_unit
from aitherd.conductor.meter import Meter
from aitherd.conductor.records import Event, Records
from aitherd.conductor.rise import Rise
from aitherd.conductor.sleeping import Sleeping
from aitherd.core.ledger import lingering
from aitherd.core.residency import Event as Move
from aitherd.core.vitality import Doubt
from aitherd.core.words import Bytes, DeviceId, Endpoint, format_bytes
from aitherd.engines.base import Health
from aitherd.errors import HostFailure
from aitherd.failpoints import Point, reach
from aitherd.host.systemd import Systemd, UnitStatus


class Adoption:
    """Takes over engine units."""

    def __init__(
        self,
        books: Mapping[str, Book],
        *,
        systemd: Systemd,
        meter: Meter,
        rise: Rise,
        records: Records,
        sleeping: Sleeping,
        resume: Callable[[Book], None],
    ) -> None:
        """`resume` goes on with a start that an earlier daemon began."""
        self._books = books
        self._systemd = systemd
        self._meter = meter
        self._rise = rise
        self._records = records
        self._sleeping = sleeping
        self._resume = resume

    async def adopt(self, levels: Mapping[str, int], alone: Mapping[str, str]) -> frozenset[str]:
        """Books every engine unit that lives and is not booked yet, and stops those of models configured no more.

        `levels` are the sleep levels that the earlier daemon knew of; the models in `alone` are left as they are.
        Returns the models whose own unit is active: they are held.
        """
        units = await self._systemd.list_units("aither-*.service")
        engines = [unit for unit in units if model_of(unit.name) and unit.active_state not in ("inactive", "failed")]
        reach(Point.ADOPTION_BEGUN)
        await asyncio.gather(*(self._take_over(unit, levels) for unit in engines if model_of(unit.name) not in alone))
        reach(Point.ADOPTION_DONE)
        active = {unit.name for unit in units if unit.active_state == "active"}
        return frozenset(name for name in self._books if model_unit(name) in active)

    def quarantine(self, lost: Mapping[str, Mapping[DeviceId, Bytes]]) -> None:
        """Goes on with quarantines of an earlier daemon, as far as the bytes are still used by nobody."""
        for name, counts in lost.items():
            book = self._books.get(name)
            left, without = lingering(self._meter.accounts, counts)
            if book is None or book.alive or not left:
                continue
            book.lost, book.lost_since = left, without
            shown = ", ".join(f"{format_bytes(count)} on {device}" for device, count in sorted(left.items()))
            book.error = f"{shown} did not come back after it was stopped"
            book.move(Move.ADOPT_LOST)
            self._records.add(
                Event.QUARANTINED,
                f"{name}: {book.error}; they are left alone until they return",
                model=name,
                missing=left,
            )

    async def _take_over(self, unit: UnitStatus, levels: Mapping[str, int]) -> None:
        name = model_of(unit.name) or ""
        book = self._books.get(name)
        fields = unit.log_extra_fields
        try:
            endpoint = Endpoint.parse(fields.get(ENDPOINT_FIELD, ""))
        except ValueError:
            endpoint = None
        if book is not None and book.alive:
            return
        if book is None or endpoint is None:
            why = "its model is configured no more" if book is None else "it does not say where it listens"
            self._records.add(Event.ADOPTED, f"stopping {unit.name}, which runs: {why}", model=name)
            try:
                await self._systemd.stop_unit(unit.name)
            except HostFailure as error:
                self._records.add(Event.LAGGING, f"{unit.name} does not stop: {error}", model=name)
            return
        placement = tuple(device for device in fields.get(PLACEMENT_FIELD, "").split(",") if device)
        book.begin(endpoint, placement)
        book.fingerprint = fields.get(FINGERPRINT_FIELD, "")
        self._rise.remember(book, unit)
        how = await self._find_out(book, unit, levels)
        await self._meter.measure()
        self._records.add(
            Event.ADOPTED,
            f"{name} runs already: {how}",
            model=name,
            invocation=unit.invocation_id,
            measured=dict(book.measured),
        )

    async def _find_out(self, book: Book, unit: UnitStatus, levels: Mapping[str, int]) -> str:
        assert book.endpoint is not None
        if unit.active_state == "deactivating":
            book.move(Move.ADOPT_READY)
            book.stop_wanted = True
            book.stop_done.clear()
            return "it was being stopped, which goes on"
        if book.suspends:
            # Whether it is suspended shows in what it holds.
            await self._meter.measure()
        health = await self._sleeping.health(book, book.measured)
        match health:
            case Health.READY:
                book.ready_since = book.last_used = book.clock.monotonic()
                book.move(Move.ADOPT_READY)
                if levels.get(book.name):
                    # Its daemon was killed while it woke: it may be awake in parts.
                    book.vitals.doubt = Doubt.HALF_AWAKE
                return "it answers"
            case Health.ASLEEP:
                # The deepest rung's way up also works from the others.
                deepest = max((rung.level for rung in book.ladder()), default=1)
                book.level = levels.get(book.name, deepest)
                book.move(Move.ADOPT_ASLEEP)
                return f"it sleeps at level {book.level}"
            case _:
                book.move(Move.ADOPT_STARTING)
                self._resume(book)
                return "it is loading"
