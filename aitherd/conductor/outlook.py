"""When models could be ready, from the books and without asking anybody: for routing, and for who waits in vain."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from aitherd.conductor import demand
from aitherd.conductor.books import Book, Clock
from aitherd.conductor.deferral import Deferral
from aitherd.conductor.execution import Execution
from aitherd.conductor.transitions import Transitions
from aitherd.core.arbiter import decide, impossible
from aitherd.core.forecast import Turn, ready_in
from aitherd.core.queue import order
from aitherd.core.routing import LocalView
from aitherd.core.upstreams import PLAIN
from aitherd.core.words import DeviceId, Plan, Residency, Seconds, World, format_seconds

NEVER_FOR: Seconds = 1.0
"""Which models can never be loaded changes with configuration and devices only; it is looked up again this late."""
EXPECTED_FOR: Seconds = 0.5
"""What is expected of a model counts for this long: a crowd of requests asks once."""


PLANNED = frozenset({Residency.ABSENT, Residency.SLEEPING, Residency.FAILED})
"""From where a model may be brought in."""
NOTHING: frozenset[DeviceId] = frozenset()


class Forecast:
    """Everybody who is on the way up, or waited for, in the order of their turns."""

    def __init__(
        self,
        books: Mapping[str, Book],
        execution: Execution,
        transitions: Transitions,
        deferral: Deferral,
        clock: Clock,
    ) -> None:
        self._books = books
        self._execution = execution
        self._transitions = transitions
        self._deferral = deferral
        self._clock = clock

    def ready_in(self, also: Collection[str] = (), *, best: bool = False) -> Mapping[str, Seconds]:
        """Seconds until each of them is ready, by name, as if the models `also` were waited for too.

        With `best` nothing is counted that might not be: each is as quick as it ever was, and who was refused for now
        keeps nobody waiting.
        """
        now = self._clock.monotonic()
        world, policy = self._execution.world(), self._execution.policy()
        moving: list[Book] = []
        lines = []
        for book in self._books.values():
            if book.residency is Residency.READY or book.stop_wanted:
                continue
            if book.name in self._transitions and (book.demanded or book.residency is Residency.STARTING):
                moving.append(book)
            elif book.demanded or book.name in also:
                lines.append(demand.line(book, now))
        behind = [self._books[name] for name in order(lines, now, policy)]
        return ready_in([self._turn(book, world, now, best=best) for book in (*moving, *behind)])

    def _turn(self, book: Book, world: World, now: Seconds, *, best: bool) -> Turn:
        rise, room = book.rise(best=best), 0.0
        devices = self._transitions.owned(book.name) or self._execution.scope(book)
        if book.residency is Residency.STARTING:
            return Turn(book.name, devices, room, rise, self._transitions.shares(book.name))
        refused = book.residency not in PLANNED or book.retry_at > now or book.name in self._deferral
        if not refused:
            outcome = decide(world, book.name, now, self._execution.policy())
            if isinstance(outcome, Plan):
                room = sum(step.seconds for step in outcome.steps[:-1])
            else:
                refused = True
        if refused and best and book.name not in self._transitions:
            devices = NOTHING
        shares = book.level > 0 or not book.engine.quiet_start(book.model.command)
        return Turn(book.name, devices, room, rise + max(book.retry_at - now, 0.0), shares)


class Outlooks:
    """The outlook of each model for routing: whether it is ready, and when it could be."""

    def __init__(self, books: Mapping[str, Book], forecast: Forecast, world: Callable[[], World], clock: Clock) -> None:
        self._books = books
        self._forecast = forecast
        self._world = world
        self._clock = clock
        self._never: Mapping[str, str] = {}
        self._never_until: Seconds = 0.0
        self._expected: dict[str, tuple[Seconds, Residency, Seconds]] = {}
        """By model: the instant at which it was found, how the model stood then, and the instant of its being ready."""

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
        """Expected until it answers: those in front of it, those that give way for it, and its own start or wake."""
        now = self._clock.monotonic()
        found, residency, ready_at = self._expected.get(book.name, (now - EXPECTED_FOR, book.residency, 0.0))
        if now - found >= EXPECTED_FOR or residency is not book.residency:
            # One that is ready and is to be stopped is not on its way up: it would have to come back.
            seconds = self._forecast.ready_in((book.name,)).get(book.name, book.rise())
            ready_at = now + seconds
            self._expected[book.name] = (now, book.residency, ready_at)
        return max(ready_at - now, 0.0)
