"""What routing may know about the models of this machine, from the books and without asking anybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aitherd.conductor.books import Book, Clock
from aitherd.core.arbiter import impossible
from aitherd.core.routing import LocalView
from aitherd.core.upstreams import PLAIN
from aitherd.core.words import Residency, Seconds, World, format_seconds

NEVER_FOR: Seconds = 1.0
"""Which models can never be loaded changes with configuration and devices only; it is looked up again this late."""


class Outlooks:
    """The outlook of each model: whether it is ready, and when it could be."""

    def __init__(self, books: Mapping[str, Book], world: Callable[[], World], clock: Clock) -> None:
        self._books = books
        self._world = world
        self._clock = clock
        self._never: Mapping[str, str] = {}
        self._never_until: Seconds = 0.0

    def __call__(self, model: str) -> LocalView | None:
        """A model as routing sees it; None for one that is not configured."""
        book = self._books.get(model)
        if book is None:
            return None
        can = frozenset(book.model.can) or PLAIN
        if book.residency is Residency.READY and not book.stop_wanted:
            return LocalView(ready=True, can=can)
        return LocalView(
            ready=False,
            seconds=self._seconds(book),
            can=can,
            never=self._can_never(model),
            failed=self._failed(book),
        )

    def _can_never(self, model: str) -> str:
        now = self._clock.monotonic()
        if now >= self._never_until:
            self._never = {refusal.model: refusal.why for refusal in impossible(self._world())}
            self._never_until = now + NEVER_FOR
        return self._never.get(model, "")

    def _failed(self, book: Book) -> str:
        if book.residency is Residency.QUARANTINED:
            return f"{book.name} is quarantined: {book.error}"
        left = book.retry_at - self._clock.monotonic()
        if book.residency is Residency.FAILED and left > 0:
            return f"{book.name} failed and is tried again in {format_seconds(left)}: {book.error}"
        return ""

    def _seconds(self, book: Book) -> Seconds:
        """Expected until it answers, room for it being made already. What others need to give way is not in it."""
        start = book.learned.start_seconds()
        if book.residency is Residency.STARTING:
            return max(start - (self._clock.unix() - book.since_unix), 0.0)
        if book.residency is Residency.SLEEPING:
            return next((rung.wake for rung in book.ladder() if rung.level == book.level), start)
        return start + (book.learned.stop_seconds() if book.residency is Residency.STOPPING else 0.0)
