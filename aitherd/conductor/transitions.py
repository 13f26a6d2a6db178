"""Transitions as tasks, and which devices each of them owns: what they do, and when, the scheduler knows.

Making room is one transition's at a time on a device, or two would count on the same bytes. A model that comes up in
room that is promised to it shares its devices instead, unless it measures them meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from aitherd.core.words import DeviceId
from aitherd.errors import StartFailed


class Transitions:
    """Those that run, by the name of the model, or of the lease, that they are for."""

    def __init__(self, over: Callable[[], None]) -> None:
        """`over` is called whenever a device is owned no more."""
        self._over = over
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._owned: dict[str, frozenset[DeviceId]] = {}
        self._shared: dict[str, frozenset[DeviceId]] = {}
        """Where a model comes up that does not mind others there."""
        self._watchers: list[asyncio.Future[None]] = []
        """Those who wait until a device is owned, or shared, no more."""
        self._log = structlog.get_logger("aitherd")

    def __contains__(self, name: str) -> bool:
        return name in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def owned(self, name: str) -> frozenset[DeviceId]:
        """The devices that the transition of `name` owns; none when none runs."""
        return self._owned.get(name, frozenset())

    def shares(self, name: str) -> bool:
        """Whether the model of that name comes up beside others."""
        return name in self._shared

    def free(self, scope: frozenset[DeviceId]) -> bool:
        """Whether no transition owns any of these devices."""
        return not any(scope & owned for owned in self._owned.values())

    def widen(self, scope: frozenset[DeviceId]) -> bool:
        """Has the transition that calls own `scope` too; False, and nothing changes, where others own a part of it."""
        name = self._caller()
        if self._taken(scope, name, self._owned):
            return False
        self._owned[name] |= scope
        return True

    def narrow(self, scope: frozenset[DeviceId]) -> None:
        """Has the transition that calls own `scope` no more."""
        self._owned[self._caller()] -= scope
        self._freed()

    def share(self, scope: frozenset[DeviceId]) -> None:
        """Has the transition that calls own nothing any more, and share `scope`: from here on it only takes what is
        promised to it, and others may make room there, and come up."""
        name = self._caller()
        self._shared[name], self._owned[name] = scope, frozenset()
        self._freed()

    async def own_again(self, scope: frozenset[DeviceId]) -> None:
        """Returns when the transition that calls owns `scope`, and shares nothing. Meanwhile it owns nothing new."""
        self._shared.pop(self._caller(), None)
        self._freed()
        while not self.widen(scope):
            await self._change()

    async def alone(self, scope: frozenset[DeviceId]) -> bool:
        """Returns when nobody else comes up on `scope`, of which the transition that calls is the owner, so that nobody
        follows. True if that took time."""
        name, waited = self._caller(), False
        while self._taken(scope, name, self._shared):
            waited = True
            await self._change()
        return waited

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
            self._shared.pop(name, None)
            failure = None
            if not task.cancelled() and (error := task.exception()) is not None:
                self._log.error("a transition ended unexpectedly", aither_model=name, exc_info=error)
                failure = StartFailed(f"{name}: internal error: {error!r}", remedy="see journalctl -u aitherd")
            ended(failure)
            self._freed()

        self._owned[name] = scope
        self._tasks[name] = asyncio.get_running_loop().create_task(work, name=f"transition of {name}")
        self._tasks[name].add_done_callback(done)

    async def cancel(self) -> None:
        """Ends all of them; returns when they have ended."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _caller(self) -> str:
        return next(name for name, task in self._tasks.items() if task is asyncio.current_task())

    def _taken(self, scope: frozenset[DeviceId], name: str, by: Mapping[str, frozenset[DeviceId]]) -> bool:
        return any(scope & devices for other, devices in by.items() if other != name)

    def _freed(self) -> None:
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)
        self._over()

    async def _change(self) -> None:
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append(watcher)
        await watcher
