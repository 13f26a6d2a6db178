"""Model units follow holds: `aither-NAME.service` is active exactly while NAME is held, however the hold came about."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import structlog

from aitherd.conductor.books import Book
from aitherd.conductor.launch import model_unit
from aitherd.errors import HostFailure
from aitherd.host.systemd import Systemd


class ModelUnits:
    """Starts and stops them. A unit that does not follow costs nobody the model."""

    def __init__(self, systemd: Systemd) -> None:
        self._systemd = systemd
        self._log = structlog.get_logger("aitherd")

    async def hold(self, book: Book) -> None:
        """Makes the unit of a held model active. Where the unit itself asked for that, this joins its running job."""
        await self._follow(self._systemd.start_unit(model_unit(book.name)), book.name)

    async def let_go(self, book: Book) -> None:
        """Takes the unit of a model that is no longer held out of `active`."""
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
