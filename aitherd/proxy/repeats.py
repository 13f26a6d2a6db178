"""The head that comes again: on a kept connection nearly every head is the last one's but for its Content-Length.

A head that was parsed and checked once need not be parsed again when the same bytes come again. No I/O.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,18})\r\n")
_DIGITS = 18


class Repeats:
    """Remembers the head of one message, apart from the digits of its Content-Length."""

    __slots__ = ("_after", "_before")

    def __init__(self) -> None:
        self._before = b""
        self._after = b""

    def remember(self, message: bytes) -> None:
        """Takes the head of a message that a parser has accepted: one head, then its body."""
        end = message.find(b"\r\n\r\n")
        found = _LENGTH.search(message, 0, end + 2)
        if found is None or int(found[1]) != len(message) - end - 4:
            self._before = b""
            return
        self._before = message[: found.start(1)]
        self._after = message[found.end(1) : end + 4]

    def body(self, data: bytes) -> bytes:
        """The body of `data`, if that is the remembered head with another length and a body of just that length.

        Empty if it is anything else: then it takes a parser to say what it is.
        """
        before, after = self._before, self._after
        if not before or not data.startswith(before):
            return b""
        start = len(before)
        stop = data.find(after, start, start + _DIGITS + len(after))
        if stop < 0:
            return b""
        digits = data[start:stop]
        at = stop + len(after)
        if not digits.isdigit() or int(digits) != len(data) - at:
            return b""
        return data[at:]
