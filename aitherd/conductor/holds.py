"""Holds, and the model units that follow them: `aither-NAME.service` is active exactly while NAME is held, however the
hold came about. Who holds what, and until when, is the conductor's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from aitherd.conductor.books import Book
from aitherd.conductor.launch import model_unit
from aitherd.conductor.records import Event, Records
from aitherd.core.words import Residency, ResidencyClass
from aitherd.errors import HostFailure
from aitherd.failpoints import Point, reach
from aitherd.host.systemd import Systemd


class Holds:
    """Begins and ends them. A unit that does not follow costs nobody the model."""

    def __init__(
        self,
        systemd: Systemd,
        records: Records,
        save: Callable[[], None],
        changed: Callable[[str], None],
        background: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """`save` makes holds outlive the daemon, `changed` is told the model's name, `background` runs a task."""
        self._systemd = systemd
        self._records = records
        self._save = save
        self._changed = changed
        self._background = background
        self._log = structlog.get_logger("aitherd")

    def begin(self, book: Book) -> None:
        """What follows from a hold of a model that is up; the book has it already."""
        book.hold_begun = True
        self._records.add(Event.HELD, f"{book.name} is held resident", model=book.name)
        reach(Point.HOLD_BOOKED)
        self._save()
        reach(Point.HOLD_SAVED)
        self._changed(book.name)
        self._background(self._activate(book))

    def end(self, book: Book) -> None:
        """A model is not held any more; nothing if it was not."""
        if book.held:
            book.held = book.hold_begun = False
            self._records.add(Event.RELEASED, f"{book.name} is no longer held", model=book.name)
            self._changed(book.name)
            self._background(self._deactivate(book))
        self._save()

    def keep_essential(self, book: Book) -> None:
        """Holds an essential model that has come up, by being essential."""
        if (
            book.residency is Residency.READY
            and book.model.residency_class is ResidencyClass.ESSENTIAL
            and book.comes_back
            and not (book.held or book.stop_wanted)
        ):
            book.held = True
            self.begin(book)

    async def _activate(self, book: Book) -> None:
        """Where the unit itself asked for the hold, this joins its running job."""
        await self._follow(self._systemd.start_unit(model_unit(book.name)), book.name)

    async def _deactivate(self, book: Book) -> None:
        book.unit_leaving = True
        try:
            await self._follow(self._systemd.stop_unit(model_unit(book.name)), book.name)
        finally:
            book.unit_leaving = False

    async def _follow(self, job: Coroutine[Any, Any, None], model: str) -> None:
        try:
            await job
        except HostFailure as error:
            # A model file that systemd has not been told of yet has no unit: daemon-reload makes it.
            self._log.debug("the model unit does not follow", aither_model=model, problem=str(error))
