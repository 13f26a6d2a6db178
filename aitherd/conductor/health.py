"""What keeps the daemon from doing its work, in sentences. `/health` is green while there is nothing to say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aitherd.conductor.books import Book
from aitherd.core.words import Residency, Seconds, format_seconds

STUCK: Seconds = 60.0
"""A request that waits this much longer than its model may take to load says that something is stuck."""


def find_problems(books: Iterable[Book], blind: str, faults: Mapping[str, str], now: Seconds) -> tuple[str, ...]:
    """All problems at the monotonic instant `now`.

    `blind` says why the devices cannot be measured, `faults` why configured models had to be left out.
    """
    found = list(faults.values())
    books = tuple(books)
    if blind and any(book.expected() for book in books):
        found.append(f"devices cannot be measured: {blind}")
    for book in books:
        if book.residency is Residency.QUARANTINED:
            found.append(f"{book.name}: {book.error}")
        elif book.residency is Residency.FAILED and book.comes_back:
            found.append(f"{book.name} is {book.model.residency_class} and failed: {book.error}")
        if book.waiters and now - book.waiters[0].since > book.model.load_timeout + STUCK:
            found.append(f"requests for {book.name} have waited {format_seconds(now - book.waiters[0].since)}")
    return tuple(found)
