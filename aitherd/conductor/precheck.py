"""What is looked at before a model is committed to a device, so that a start that cannot succeed says why in one line.

Before the first start of a configuration, which never came up yet: paths, port, and its program is asked whether its
runtime sees a GPU. That runs where the engine would: in a unit with the same user, limits and devices. What cannot be
found out keeps nothing from starting. `aitherctl doctor` looks at more, for people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from aitherd.conductor.books import Book
from aitherd.conductor.launch import Host, UnitRequest, check_unit, properties
from aitherd.config import Model
from aitherd.config.machine import Obstacle, interpreter, looks_around, obstacles, occupied, taken
from aitherd.core.words import Seconds
from aitherd.engines.base import Launch
from aitherd.errors import HostFailure, StartFailed

if TYPE_CHECKING:
    from aitherd.host.systemd import Systemd

TIMEOUT: Seconds = 60.0
"""How long a program may take to say whether it sees the GPU: importing PyTorch takes seconds."""
LINES = 40
"""So much of what it wrote is looked at."""


class Precheck:
    """Looks at what would keep a model from coming up."""

    def __init__(
        self,
        systemd: Systemd,
        host: Host,
        lines: Callable[[str, str, int], Awaitable[str]],
        obstacle: Callable[[Model], Awaitable[Obstacle | None]],
    ) -> None:
        """`lines` reads the last lines that a unit wrote: unit, invocation id, how many. `obstacle` looks around."""
        self._obstacle = obstacle
        self._systemd = systemd
        self._host = host
        self._lines = lines

    async def look(self, book: Book, request: UnitRequest) -> bool:
        """Raises StartFailed for a model that cannot come up as things are. `request` is for its engine.

        True when looking took time, so that what was measured before is old.
        """
        model, problem, first = book.model, "", not book.learned.starts
        if not first:
            # It came up as it is now, and everything that it waits for costs time. Only a port may be anybody's since.
            if model.port is not None and taken(model.port):
                problem = str(occupied(model.port))
        elif looks_around(model) and (found := await self._obstacle(model)) is not None:
            problem = str(found)
        elif book.expected():
            problem = await self._gpu(book, request)
        if problem:
            raise StartFailed(problem)
        return first

    async def _gpu(self, book: Book, request: UnitRequest) -> str:
        """What is wrong with the way from its program to the GPU; empty when nothing is, or nothing can tell."""
        command = book.engine.gpu_check(request.executable, interpreter(request.executable))
        if command is None:
            return ""
        book.say("asking its program whether it sees the GPU")
        unit = check_unit(book.name)
        asked = replace(request, executable=command[0], launch=Launch(command, request.launch.environment))
        wanted = dict(properties(asked, self._host))
        # It stays until it was read, and then is gone.
        wanted |= {"Type": ("s", "oneshot"), "RemainAfterExit": ("b", True), "CollectMode": ("s", "inactive-or-failed")}
        try:
            await self._systemd.start_transient(unit, tuple(wanted.items()), timeout=TIMEOUT)
            status = await self._systemd.unit(unit)
            wrote = "" if status is None else await self._lines(unit, status.invocation_id, LINES)
            await self._systemd.stop_unit(unit)
        except HostFailure:
            # It crashed, or took too long. The engine itself may do better, and will say more if it does not.
            return ""
        verdict = book.engine.gpu_verdict(wrote) if wrote else ""
        return f"{request.executable}: {verdict}" if verdict else ""


async def first_obstacle(model: Model) -> Obstacle | None:
    """What is in the way of a model on this machine. In a thread: a path may be on a disk that sleeps, or far away."""
    return await asyncio.to_thread(lambda: next(obstacles(model), None))
