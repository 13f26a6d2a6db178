"""Requests for models whose engines take so many at once: the others wait here, and callers take turns.

Who goes next, and who leaves a full line, is decided in `core/queue.py`. A request that waits holds its claim on the
model already, so that the model stays. Models without such a bound are none of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from aitherd.core.callers import Caller
from aitherd.core.queue import displaced, turns
from aitherd.core.words import Seconds
from aitherd.errors import AitherError, QueueFull


class Turn:
    """One request's turn: waited for, then taken, then over."""

    __slots__ = ("_go", "_lane", "_turned_away", "caller", "since", "taken")

    def __init__(self, caller: Caller, go: Callable[[], None], turned_away: Callable[[AitherError], None]) -> None:
        """`go` is called when the turn has come, `turned_away` if it never will."""
        self.caller = caller
        self.since: Seconds = monotonic()
        self.taken = False
        self._go = go
        self._turned_away = turned_away
        self._lane: Lane | None = None

    def join(self, lane: Lane) -> None:
        """Takes its turn at once, or waits for it. Raises QueueFull."""
        self._lane = lane
        try:
            lane.join(self)
        except QueueFull:
            self._lane = None
            raise
        if self.taken:
            self._go()

    def come(self) -> None:
        """The turn has come, unless the request has left since."""
        if self._lane is not None:
            self._go()

    def turn_away(self, error: AitherError) -> None:
        """The turn never comes."""
        self._lane = None
        self._turned_away(error)

    def leave(self) -> None:
        """The request is over, or waits no more. Calling it again does nothing."""
        lane, self._lane = self._lane, None
        if lane is not None:
            lane.leave(self)


class Lane:
    """The turns of one model."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.bound = 1
        """Requests that its engine takes at once."""
        self.limit = 1
        """Requests that may wait for their turn."""
        self._taken = 0
        self._under_way: dict[str, int] = {}
        """Turns that are taken, by caller."""
        self._line: list[Turn] = []

    @property
    def full(self) -> bool:
        """Whether one more request would wait."""
        return self._taken >= self.bound or bool(self._line)

    def join(self, turn: Turn) -> None:
        """Gives a turn, or a place in the line. Raises QueueFull."""
        if not self.full:
            self._take(turn)
            return
        if len(self._line) >= self.limit:
            error = QueueFull(
                f"{len(self._line)} requests wait for their turn at {self._model} already",
                remedy="try again later, or raise max-waiting or concurrency in its model file",
                retry_after=1.0,
            )
            at = displaced([one.caller for one in self._line], turn.caller)
            if at is None:
                raise error
            self._line.pop(at).turn_away(error)
        self._line.append(turn)

    def leave(self, turn: Turn) -> None:
        """Takes back a turn or a place, and gives turns to who waits."""
        if not turn.taken:
            self._line.remove(turn)
            return
        turn.taken = False
        self._taken -= 1
        name = turn.caller.name
        self._under_way[name] -= 1
        if not self._under_way[name]:
            del self._under_way[name]
        while self._line and self._taken < self.bound:
            at = turns([one.caller for one in self._line], self._under_way)[0]
            one = self._line.pop(at)
            self._take(one)
            asyncio.get_running_loop().call_soon(one.come)

    def _take(self, turn: Turn) -> None:
        turn.taken = True
        self._taken += 1
        self._under_way[turn.caller.name] = self._under_way.get(turn.caller.name, 0) + 1
