"""What wakes a loop, and shows that the loop goes round: the watchdog is fed from that.

What the loops do is theirs.
"""

from __future__ import annotations

import asyncio


class Turns:
    """Of one loop: it calls `begin` at the start of each turn, and `wait` when there is nothing more to do in it."""

    def __init__(self) -> None:
        self._wanted = asyncio.Event()
        self._begun = asyncio.Event()

    def want(self) -> None:
        """Something changed: there is to be another turn."""
        self._wanted.set()

    def begin(self) -> None:
        """What was wanted so far is seen to in the turn that begins."""
        self._wanted.clear()
        self._begun.set()

    async def wait(self) -> None:
        """Returns when another turn is wanted; at once if it was while this one ran."""
        await self._wanted.wait()

    async def prove(self) -> None:
        """Wants a turn and returns when the loop has begun one. A loop that hangs keeps its caller waiting for ever."""
        self._begun.clear()
        self._wanted.set()
        await self._begun.wait()
