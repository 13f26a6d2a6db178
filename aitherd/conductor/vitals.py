"""What is seen of a running engine that says whether it does what it is there for. Kept here, judged in
`core/vitality.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from aitherd.core.vitality import Doubt
from aitherd.core.words import Seconds


@dataclass(eq=False, slots=True)
class Vitals:
    """Of one engine, since it started. Instants are monotonic."""

    pieces: int = 0
    """Pieces of answers that it has sent."""
    failed: int = 0
    """Requests in a row that it has failed."""
    doubt: Doubt = Doubt.NONE
    """Why it is to be given a canary."""
    checking: bool = False
    """A canary is under way: it is left alone until that is over."""
    sung_at: Seconds = float("-inf")
    """When a canary was last given."""
    seen: tuple[int, str] = (0, "")
    """Pieces and pulse as last looked at."""
    still_since: Seconds | None = None
    """Since when neither has changed, while requests are in flight and it tells."""

    def begin(self) -> None:
        """Another engine starts: nothing is known of it."""
        self.failed = 0
        self.doubt = Doubt.NONE
        self.sung_at = float("-inf")
        self.still_since = None
