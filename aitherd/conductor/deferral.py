"""Who was refused for now, and when it is worth trying again: when something changed, or at an instant known before.

What changes is told to nobody in particular: the fleet and its devices are looked at as a whole, in steps that are too
coarse for the noise of a desktop. Who is refused, and why, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from aitherd.conductor.books import Book
from aitherd.core.ledger import SLACK
from aitherd.core.words import Claim, DeviceId, DeviceView, Seconds

SOONEST: Seconds = 0.1
"""Nobody is tried again sooner than this: each try measures the devices."""
LATEST: Seconds = 2.0
"""Everybody is tried again after this although nothing was seen to change: an engine's own queue is not watched."""

Look: TypeAlias = Hashable
"""What the fleet looks like, as far as a refusal depends on it."""


def look(books: Iterable[Book], devices: Mapping[DeviceId, DeviceView], leases: Iterable[Claim]) -> Look:
    """The look of this instant. Two that are equal get the same refusals, but for what only time brings."""
    return (
        tuple(
            (book.name, book.residency, book.level, book.held, book.busy, bool(book.waiters), book.stop_wanted)
            for book in books
        ),
        tuple((view.id, view.free // SLACK, view.fresh) for view in devices.values()),
        tuple(leases),
    )


@dataclass(frozen=True, slots=True)
class _Refused:
    since: Seconds
    until: Seconds
    look: Look


class Deferral:
    """Models and leases that were refused for now, by name."""

    def __init__(self) -> None:
        self._refused: dict[str, _Refused] = {}

    def __bool__(self) -> bool:
        return bool(self._refused)

    def __contains__(self, name: str) -> bool:
        return name in self._refused

    def add(self, name: str, now: Seconds, seen: Look, until: Seconds) -> None:
        """`name` was refused by what was `seen`; at `until` the answer may be another even if nothing changes."""
        self._refused[name] = _Refused(now, min(until, now + LATEST), seen)

    def drop(self, name: str) -> None:
        """`name` has its turn."""
        self._refused.pop(name, None)

    def keep(self, names: Container[str]) -> None:
        """Forgets all but `names`."""
        for name in [name for name in self._refused if name not in names]:
            del self._refused[name]

    def earliest(self, name: str, seen: Look) -> Seconds:
        """Monotonic instant from which on `name` is tried again, by what is `seen` now; 0 when it was not refused."""
        refused = self._refused.get(name)
        if refused is None:
            return 0.0
        return refused.since + SOONEST if refused.look != seen else max(refused.until, refused.since + SOONEST)
