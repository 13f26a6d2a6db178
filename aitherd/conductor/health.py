"""What keeps the daemon from doing its work, in sentences. `/health` is green while there is nothing to say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aitherd.conductor.books import Book
from aitherd.core.words import Residency, Seconds, format_seconds

STUCK: Seconds = 60.0
"""A line of which nobody is served for this much longer than its model may take to load is stuck."""
FORGOTTEN: Seconds = 600.0
"""So long after the last of them went away in vain it is not held against the daemon any more."""


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
        if (since := _stuck_since(book, now)) is not None:
            doing = book.stage or book.refusal or f"it is {book.residency}"
            found.append(f"no request for {book.name} has been served for {format_seconds(now - since)}: {doing}")
    return tuple(found)


def _stuck_since(book: Book, now: Seconds) -> Seconds | None:
    """Since when the line of a model makes no progress, if it is stuck.

    Requests that give up one after the other do not make it any better: it is the line that is looked at.
    """
    since = book.unserved_since
    if since is None or now - since <= book.model.load_timeout + STUCK:
        return None
    return since if book.waiters or now - book.unserved_until < FORGOTTEN else None
