"""Counts the tokens of answers as they pass: as the engine counts them where it says, else the pieces of a stream.

Only looks: nothing is parsed, nothing changed, and nothing kept but the last two pieces.
"""

from __future__ import annotations

import re

from aitherd.core.words import Bytes

_NAMES = (b'"completion_tokens"', b'"output_tokens"')
_NUMBER = re.compile(rb'"[a-z_]+"\s*:\s*([0-9]{1,9})')
_TAIL: Bytes = 2048
"""How much of the end of an answer is looked through for its account."""
_PIECE = b"data: {"
"""How an event of a stream begins; engines send one a token."""
_EMPTY = 3
"""Events of a stream that may carry none: who speaks, why it ended, the account. As long as it is not over, so many are
taken off: a count cannot be taken back."""


class Count:
    """Of the tokens of one model's answers, since the daemon began. Only grows."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0


class AnswerTokens:
    """The tokens of one answer, counted into those of its model."""

    __slots__ = ("_before", "_count", "_counted", "_last", "_pieces")

    def __init__(self, count: Count) -> None:
        self._count = count
        self._pieces = 0
        self._counted = 0
        self._before = b""
        self._last = b""

    def passed(self, data: bytes) -> None:
        """Some more of the answer's body."""
        self._before, self._last = self._last, data
        if pieces := data.count(_PIECE):
            self._pieces += pieces
            ahead = self._pieces - _EMPTY - self._counted
            if ahead > 0:
                self._count.total += ahead
                self._counted += ahead

    def ended(self) -> None:
        """The answer is complete, or broke off."""
        # A stream's last event is only that it is over.
        end = self._last[-_TAIL:]
        if self._before:
            end = self._before[-_TAIL:] + end
        # Looked for from the end, by what costs least: this is done for every answer.
        at = max(end.rfind(_NAMES[0]), end.rfind(_NAMES[1]))
        said = _NUMBER.match(end, at) if at >= 0 else None
        self._up_to(int(said[1]) if said else self._pieces)
        self._before = self._last = b""

    def _up_to(self, number: int) -> None:
        if number > self._counted:
            self._count.total += number - self._counted
            self._counted = number


def counts_tokens(fields: bytes) -> bool:
    """Whether an answer with such header lines is text of a model: a stream of events, or JSON."""
    return b"text/event-stream" in fields or b"application/json" in fields
