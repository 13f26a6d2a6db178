"""What a request has of a model: its place in the line, and then its claim, or no more than a look.

Who gets what, and when, is decided elsewhere; a book counts the claims.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aitherd.core.callers import ANYBODY, Caller
from aitherd.core.words import Endpoint, Seconds

if TYPE_CHECKING:
    from aitherd.conductor.books import Book


class Claim:
    """One request's claim on a ready model (`operations.Use`)."""

    __slots__ = ("_book", "_failed", "_moved", "endpoint", "model", "waited", "why")

    def __init__(self, book: Book, waited: Seconds, why: str) -> None:
        assert book.endpoint is not None
        self._book: Book | None = book
        self._moved = self._failed = False
        self.model = book.model.name
        self.endpoint = book.endpoint
        self.waited = waited
        self.why = why

    def moved(self) -> None:
        if self._book is not None:
            self._moved = True
            self._book.vitals.pieces += 1

    def failed(self) -> None:
        self._failed = True

    def release(self) -> None:
        if self._book is not None:
            book, self._book = self._book, None
            if self._failed:
                book.vitals.failed += 1
            elif self._moved:
                book.vitals.failed = 0
            book.end_use()


@dataclass(slots=True)
class Look:
    """The way to an engine for a request that only looks (`operations.Use`): nothing is claimed."""

    model: str
    endpoint: Endpoint
    waited: Seconds = 0.0
    why: str = "looked at"

    def moved(self) -> None:
        """Nobody waits for what it shows."""

    def failed(self) -> None:
        """A page that is not there says nothing about the engine."""

    def release(self) -> None:
        """There is nothing to release."""


@dataclass(eq=False, slots=True)
class Waiter:
    """Somebody who waits for a model: a request (which gets a claim), a preload or a hold (which get None)."""

    future: asyncio.Future[Claim | None]
    since: Seconds
    """Monotonic."""
    deadline: Seconds | None
    wants_claim: bool
    caller: Caller = ANYBODY
    doubted: Seconds | None = None
    """Since when it has looked as if the model will be ready too late for it, monotonic."""
