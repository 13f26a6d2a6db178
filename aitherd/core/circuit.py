"""Whether a node is worth a try: a breaker that opens on failures in a row and lets a single one through to close.

Time comes as arguments, in seconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from aitherd.core.words import Seconds

FAILURES = 3
"""In a row, that open a circuit."""
SUCCESSES = 2
"""Of probes in a row, after which a request may try at once: what answers now and then is not believed."""
PAUSE: Seconds = 5.0
"""From the opening until somebody may try again."""
PAUSE_MAX: Seconds = 60.0
"""The pause doubles with every try that fails, up to this."""


SMOOTHING = 0.2
"""Weight of the newest measurement of a node's latency."""


def smoothed(before: Seconds, measured: Seconds) -> Seconds:
    """A latency with one more measurement taken in; `before` is 0 when there was none."""
    return before + SMOOTHING * (measured - before) if before else measured


class State(StrEnum):
    """Of a circuit."""

    CLOSED = "closed"
    """Requests go through."""
    OPEN = "open"
    """Nobody is let through."""
    HALF_OPEN = "half-open"
    """One request may try; while it does, no other."""


@dataclass(slots=True)
class Circuit:
    """The breaker of one node."""

    failures: int = 0
    successes: int = 0
    opened: bool = False
    trying: bool = False
    """Whether the single try of a half-open circuit is under way."""
    pause: Seconds = PAUSE
    until: Seconds = 0.0
    """No try before this instant, while open."""
    resting: Seconds = 0.0
    """The node asked to be left alone until this instant (Retry-After)."""
    reason: str = ""
    """Of the last failure."""

    def state(self, now: Seconds) -> State:
        """What a request that comes now meets."""
        if now < self.resting:
            return State.OPEN
        if not self.opened:
            return State.CLOSED
        return State.OPEN if now < self.until or self.trying else State.HALF_OPEN

    def begin(self, now: Seconds) -> None:
        """A request is sent. In a half-open circuit it is the single try."""
        if self.state(now) is State.HALF_OPEN:
            self.trying = True

    def abandon(self) -> None:
        """A request ended without telling anything about the node, for instance because its client left."""
        self.trying = False

    def succeeded(self, *, probe: bool = False) -> None:
        """A request was answered, which closes the circuit; or a probe was, of which a few let a request try."""
        if probe:
            self.successes += 1
            if self.opened and self.successes >= SUCCESSES:
                self.until = 0.0
            return
        self.failures = 0
        self.opened = self.trying = False
        self.pause = PAUSE
        self.reason = ""

    def failed(self, now: Seconds, reason: str, *, jitter: float = 0.0) -> None:
        """A request or a probe failed. `jitter` (0 to 1) lengthens the pause by up to a quarter of it."""
        self.reason = reason
        self.successes = 0
        self.failures += 1
        if self.opened:
            if self.trying or now >= self.until:
                self.pause = min(self.pause * 2, PAUSE_MAX)
                self.until = now + self.pause * (1 + jitter / 4)
            self.trying = False
        elif self.failures >= FAILURES:
            self.opened = True
            self.until = now + self.pause * (1 + jitter / 4)

    def rest(self, now: Seconds, seconds: Seconds) -> None:
        """The node said that it takes nothing for so long."""
        self.trying = False
        self.resting = max(self.resting, now + seconds)
