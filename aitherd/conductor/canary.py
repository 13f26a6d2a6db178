"""Canaries: an engine that calls itself ready and is doubted has to do the least work that it can, and fails by that.

Whom to doubt and what an answer means is decided in `core/vitality.py`; how a canary looks, in `engines/`. It never
counts as use, and wakes nothing. While it is under way its model counts as busy, so that nobody puts it to sleep.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from aitherd.conductor.books import Book, Clock
from aitherd.conductor.records import Event, Records
from aitherd.core.vitality import Doubt, Signs, Song, doubt, lies
from aitherd.core.words import Endpoint, Residency, Seconds
from aitherd.engines.base import Control, EngineRefused, EngineSilent

TIMEOUT: Seconds = 20.0
"""How long an engine may take for one token: some read their weights again after a rest."""


class Canaries:
    """Watches ready engines and asks the doubtful."""

    def __init__(
        self,
        connect: Callable[[Endpoint], Control],
        records: Records,
        clock: Clock,
        background: Callable[[Coroutine[Any, Any, None]], None],
        failed: Callable[[Book, str], Coroutine[Any, Any, None]],
    ) -> None:
        """`failed` ends a ready engine that is of no use, with the reason."""
        self._connect = connect
        self._records = records
        self._clock = clock
        self._background = background
        self._failed = failed
        self._feeling: set[str] = set()
        """Models whose engines are being asked for their pulse."""

    def watch(self, book: Book) -> None:
        """Looks at one model, every few seconds while anything is up."""
        vitals = book.vitals
        if book.residency is not Residency.READY or vitals.checking:
            return
        if not vitals.doubt:
            vitals.doubt = doubt(self._signs(book))
        if vitals.doubt:
            self._background(self.check(book))
        elif not (book.in_flight and vitals.pieces == vitals.seen[0] and book.engine.has_pulse):
            vitals.seen, vitals.still_since = (vitals.pieces, ""), None
        elif book.name not in self._feeling:
            self._feeling.add(book.name)
            self._background(self._feel(book))

    async def check(self, book: Book) -> None:
        """Gives a doubted model's engine its canary, unless one is under way; one that does not sing is ended."""
        vitals, invocation = book.vitals, book.invocation
        if vitals.checking:
            return
        false = ""
        vitals.checking = True
        book.idle.clear()
        try:
            while (why := vitals.doubt) and book.residency is Residency.READY and not false:
                self._records.add(
                    Event.DOUBTED, f"{book.name} is asked for the least it can do: {why}", model=book.name
                )
                false = await self._ask(book)
                vitals.sung_at = self._clock.monotonic()
                # The machine may have been suspended once more.
                if vitals.doubt is why:
                    vitals.doubt = Doubt.NONE
        finally:
            vitals.checking = False
            if not book.in_flight:
                book.idle.set()
            book.changed(book.name)
        if false and book.residency is Residency.READY and book.invocation == invocation:
            await self._failed(book, f"it calls itself ready and is not: {false}")

    async def _ask(self, book: Book) -> str:
        """What is wrong with the engine; empty when nothing is."""
        assert book.endpoint is not None
        engine, vitals = book.engine, book.vitals
        async with self._connect(book.endpoint) as control:
            pieces, pulse = vitals.pieces, await engine.pulse(control)
            occupied = book.in_flight > 0 or (engine.own_queue and await engine.busy(control))
            song, why = await sing(book, control)
            if song is not Song.SILENT:
                moved: bool | None = True
            elif vitals.pieces != pieces:
                moved = True
            else:
                moved = None if pulse is None else await engine.pulse(control) != pulse
        return why if lies(song, occupied=occupied, moved=moved) else ""

    async def _feel(self, book: Book) -> None:
        """Whether an engine that sends nothing gets on all the same."""
        vitals, endpoint = book.vitals, book.endpoint
        try:
            if endpoint is None:
                return
            async with self._connect(endpoint) as control:
                pulse = await book.engine.pulse(control)
            if pulse is None:
                vitals.still_since = None
            elif vitals.still_since is None or vitals.seen != (vitals.pieces, pulse):
                vitals.seen, vitals.still_since = (vitals.pieces, pulse), self._clock.monotonic()
        finally:
            self._feeling.discard(book.name)

    def _signs(self, book: Book) -> Signs:
        vitals, now = book.vitals, self._clock.monotonic()
        still = 0.0 if vitals.still_since is None else now - vitals.still_since
        return Signs(book.in_flight, still, vitals.failed, now - vitals.sung_at)


async def sing(book: Book, control: Control) -> tuple[Song, str]:
    """Has the engine of `book` do its canary; what came of it, and in words what was wrong."""
    try:
        sung = await book.engine.canary(control, book.model.can, TIMEOUT)
    except EngineSilent as error:
        return Song.SILENT, str(error)
    except EngineRefused as error:
        return Song.FALSE, str(error)
    return (Song.SUNG if sung else Song.UNTOLD), ""
