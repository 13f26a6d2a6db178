"""An event loop whose time jumps to the next timer: nothing is slept, and the same run happens the same way each time.

Only timers and callbacks exist in it. A loop that would wait for ever says so instead.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any


class Stalled(Exception):
    """Everybody waits and no timer runs: in real time this would never end."""


class _Timers(selectors.BaseSelector):
    """Waits for no file: waiting is moving the clock on."""

    def __init__(self) -> None:
        self.now = 0.0
        self._files: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._files[number] = selectors.SelectorKey(fileobj, number, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._files.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stalled("nothing is going to happen any more")
        self.now += max(timeout, 0.0)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._files

    def close(self) -> None:
        self._files.clear()


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. Its `time()` begins at 0 and is what everything in it goes by."""

    def __init__(self) -> None:
        self._timers = _Timers()
        super().__init__(self._timers)

    def time(self) -> float:
        return self._timers.now
