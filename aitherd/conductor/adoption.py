"""Taking over engine units that run already: those of an earlier daemon, which may have ended at any instant.

What a unit is, it says itself (`launch.py` writes it into the unit's log fields); whether it answers is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aitherd.conductor.launch import ENDPOINT_FIELD, FINGERPRINT_FIELD, PLACEMENT_FIELD, model_of, model_unit
from aitherd.conductor.records import Event
from aitherd.core.residency import Event as Move
from aitherd.core.words import Endpoint
from aitherd.engines.base import Health
from aitherd.errors import HostFailure

if TYPE_CHECKING:
    from aitherd.conductor.books import Book
    from aitherd.conductor.conductor import Conductor
    from aitherd.host.systemd import UnitStatus


async def adopt(conductor: Conductor, levels: Mapping[str, int]) -> frozenset[str]:
    """Books every engine unit that lives and is not booked yet, and stops those of models that are configured no more.

    `levels` are the sleep levels that the earlier daemon knew of. Returns the models whose unit is active: held.
    """
    units = await conductor.systemd.list_units("aither-*.service")
    engines = [unit for unit in units if model_of(unit.name) and unit.active_state not in ("inactive", "failed")]
    await asyncio.gather(*(_take_over(conductor, unit, levels) for unit in engines))
    active = {unit.name for unit in units if unit.active_state == "active"}
    return frozenset(name for name in conductor.books if model_unit(name) in active)


async def _take_over(conductor: Conductor, unit: UnitStatus, levels: Mapping[str, int]) -> None:
    name = model_of(unit.name) or ""
    book = conductor.books.get(name)
    fields = unit.log_extra_fields
    try:
        endpoint = Endpoint.parse(fields.get(ENDPOINT_FIELD, ""))
    except ValueError:
        endpoint = None
    if name in conductor.faults or (book is not None and book.alive):
        return
    if book is None or endpoint is None:
        why = "its model is configured no more" if book is None else "it does not say where it listens"
        conductor.records.add(Event.ADOPTED, f"stopping {unit.name}, which runs: {why}", model=name)
        try:
            await conductor.systemd.stop_unit(unit.name)
        except HostFailure as error:
            conductor.records.add(Event.LAGGING, f"{unit.name} does not stop: {error}", model=name)
        return
    placement = tuple(device for device in fields.get(PLACEMENT_FIELD, "").split(",") if device)
    book.begin(endpoint, placement)
    book.fingerprint = fields.get(FINGERPRINT_FIELD, "")
    conductor.rise.remember(book, unit)
    how = await _find_out(conductor, book, unit, levels)
    await conductor.meter.measure()
    conductor.records.add(
        Event.ADOPTED,
        f"{name} runs already: {how}",
        model=name,
        invocation=unit.invocation_id,
        measured=dict(book.measured),
    )


async def _find_out(conductor: Conductor, book: Book, unit: UnitStatus, levels: Mapping[str, int]) -> str:
    assert book.endpoint is not None
    if unit.active_state == "deactivating":
        book.move(Move.ADOPT_READY)
        book.stop_wanted = True
        book.stop_done.clear()
        return "it was being stopped, which goes on"
    async with conductor.steps.connect(book.endpoint) as control:
        health = await book.engine.health(control)
    match health:
        case Health.READY:
            book.ready_since = book.last_used = conductor.clock.monotonic()
            book.move(Move.ADOPT_READY)
            return "it answers"
        case Health.ASLEEP:
            # The deepest rung's way up also works from the others.
            deepest = max((rung.level for rung in book.ladder()), default=1)
            book.level = levels.get(book.name, deepest)
            book.move(Move.ADOPT_ASLEEP)
            return f"it sleeps at level {book.level}"
        case _:
            book.move(Move.ADOPT_STARTING)
            conductor.scheduler.resume(book)
            return "it is loading"
