"""Transitions as tasks, each of which owns its devices until it ends. What they do, and when, the scheduler knows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from aitherd.core.words import DeviceId
from aitherd.errors import StartFailed


class Transitions:
    """Those that run, by the name of the model, or of the lease, that they are for."""

    def __init__(self, over: Callable[[], None]) -> None:
        """`over` is called after each end."""
        self._over = over
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._owned: dict[str, frozenset[DeviceId]] = {}
        self._log = structlog.get_logger("aitherd")

    def __contains__(self, name: str) -> bool:
        return name in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def owned(self, name: str) -> frozenset[DeviceId]:
        """The devices that the transition of `name` owns; none when none runs."""
        return self._owned.get(name, frozenset())

    def free(self, scope: frozenset[DeviceId]) -> bool:
        """Whether no transition owns any of these devices."""
        return not any(scope & owned for owned in self._owned.values())

    def widen(self, scope: frozenset[DeviceId]) -> bool:
        """Has the transition that calls own `scope` too; False, and nothing changes, where others own a part of it."""
        name = next(name for name, task in self._tasks.items() if task is asyncio.current_task())
        if any(scope & owned for other, owned in self._owned.items() if other != name):
            return False
        self._owned[name] |= scope
        return True

    def narrow(self, scope: frozenset[DeviceId]) -> None:
        """Has the transition that calls own `scope` no more."""
        name = next(name for name, task in self._tasks.items() if task is asyncio.current_task())
        self._owned[name] -= scope
        self._over()

    def run(
        self,
        name: str,
        scope: frozenset[DeviceId],
        work: Coroutine[Any, Any, None],
        ended: Callable[[StartFailed | None], None],
    ) -> None:
        """Begins a transition that owns `scope`. `ended` is told of an exception that nobody expected."""

        def done(task: asyncio.Task[None]) -> None:
            del self._tasks[name]
            del self._owned[name]
            failure = None
            if not task.cancelled() and (error := task.exception()) is not None:
                self._log.error("a transition ended unexpectedly", aither_model=name, exc_info=error)
                failure = StartFailed(f"{name}: internal error: {error!r}", remedy="see journalctl -u aitherd")
            ended(failure)
            self._over()

        self._owned[name] = scope
        self._tasks[name] = asyncio.get_running_loop().create_task(work, name=f"transition of {name}")
        self._tasks[name].add_done_callback(done)

    async def cancel(self) -> None:
        """Ends all of them; returns when they have ended."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
