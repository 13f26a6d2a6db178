"""A machine with the daemon's conductor on it, driven from outside the loop: ask, befall, let time pass, look.

Everything of the conductor is the production code; simulated are the machine, the service manager and the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from structlog.testing import capture_logs

from aitherd.conductor.books import Clock
from aitherd.conductor.conductor import Conductor
from aitherd.conductor.launch import Host
from aitherd.conductor.records import Event, Record, Records
from aitherd.conductor.store import State, Store
from aitherd.config import Fleet, Model, Settings
from aitherd.config.machine import Obstacle
from aitherd.core.callers import ANYBODY, Caller
from aitherd.core.words import Bytes, DeviceId, ResidencyClass, Seconds
from aitherd.errors import AitherError
from tests.simulator.audit import Audit, Broken
from tests.simulator.clock import VirtualLoop
from tests.simulator.engines import Nature, connecting
from tests.simulator.machine import Machine
from tests.simulator.manager import Manager

T = TypeVar("T")
EPOCH: Seconds = 1.75e9
HOST = Host(user_mode=True, runtime_directory="/run/user/1000", cache_directory="/home/u/.cache")
SLEEPER = ("vllm", "serve", "--enable-sleep-mode")


class Journal(Records):
    """The records, kept and not written anywhere."""

    def __init__(self) -> None:
        super().__init__(lambda: EPOCH)
        self.all: list[Record] = []

    def add(self, event: Event, message: str, *, model: str = "", **fields: Any) -> None:
        self.all.append(Record(asyncio.get_running_loop().time(), event, model, message, fields))


class Memory(Store):
    """What the daemon keeps between its runs, kept in memory."""

    def __init__(self) -> None:
        self._state = State()

    def load(self) -> State:
        return self._state

    def save(self, state: State) -> None:
        self._state = replace(state)


@dataclass(eq=False)
class Request:
    """One request of a client, from the moment it is sent."""

    model: str
    sent: Seconds
    work: Seconds
    """How long it is answered once its model is ready."""
    served: Seconds | None = None
    """When its model was ready for it."""
    ended: int = 0
    """How often it ended."""
    error: AitherError | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def waited(self) -> Seconds | None:
        return None if self.served is None else self.served - self.sent


def model(name: str, **values: Any) -> Model:
    """A model of the fleet; `vram` is what its file says."""
    given: dict[str, Any] = {
        "path": Path(f"/etc/aither/models.d/{name}.toml"),
        "description": "",
        "engine": "llama-server",
        "residency_class": ResidencyClass.ON_DEMAND,
        "command": ("llama-server",),
        "executable": "/usr/bin/engine",
        "load_timeout": 120.0,
        "stop_timeout": 10.0,
        "max_waiting": 1_000_000,
        "idle": None,
    }
    return Model(name=name, **(given | values))


def fleet(models: Iterable[Model], **settings: Any) -> Fleet:
    """A configuration."""
    known = {model.name: model for model in models}
    return Fleet(Settings(**settings), known, {name: name for name in known})


async def nothing(model: Model) -> Obstacle | None:
    """No obstacle: the simulated machine has neither paths nor ports to look at, and threads know no virtual clock."""
    return None


class World:
    """One machine under one clock. A context manager: everything of it ends with the block."""

    def __init__(self, fleet: Fleet, totals: Mapping[DeviceId, Bytes], natures: Mapping[str, Nature]) -> None:
        self.loop = VirtualLoop()
        self.audit = Audit()
        self.machine = Machine(self.loop, totals, natures, self.audit)
        self.manager = Manager(self.machine)
        self.journal = Journal()
        self.requests: list[Request] = []
        self._fleet = fleet
        self._stack = ExitStack()
        self._complaints: list[MutableMapping[str, Any]] = []
        self._store = Memory()
        self._running: asyncio.Task[None] | None = None
        self.conductor = self._conductor()

    def __enter__(self) -> World:
        self._complaints = self._stack.enter_context(capture_logs())
        self.run(self._begin())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run(self._end())
        finally:
            self.loop.close()
            self._stack.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` to its end."""
        return self.loop.run_until_complete(work)

    @property
    def now(self) -> Seconds:
        return self.loop.time()

    def advance(self, seconds: Seconds) -> None:
        """Lets time pass; the rules have to hold afterwards."""
        self.run(asyncio.sleep(seconds))
        self.check()

    def check(self) -> None:
        """Raises when a rule does not hold, or when something of the daemon ended that does not end."""
        self.audit.check()
        for entry in self._complaints:
            if entry["log_level"] == "error":
                raise Broken(f"the daemon says: {entry}")
        if self._running is not None and self._running.done():
            self._running.result()

    def send(self, model: str, work: Seconds, timeout: Seconds | None = None, caller: Caller = ANYBODY) -> Request:
        """A client asks `model` for something."""
        request = Request(model, self.now, work)
        request.task = self.loop.create_task(self._ask(request, timeout, caller))
        self.requests.append(request)
        return request

    def restart(self) -> None:
        """The daemon is killed and comes back; its engines run on."""
        self.run(self._restart())

    async def _ask(self, request: Request, timeout: Seconds | None, caller: Caller) -> None:
        try:
            use = await self.conductor.use(request.model, timeout, caller)
            request.served = self.now
            self.machine.work(request.model)
            try:
                await asyncio.sleep(request.work)
            finally:
                use.release()
        except AitherError as error:
            request.error = error
        finally:
            request.ended += 1

    def _conductor(self) -> Conductor:
        return Conductor(
            self._fleet,
            systemd=self.manager,
            sampler=self.machine,
            records=self.journal,
            clock=Clock(self.loop.time, lambda: EPOCH + self.loop.time(), lambda: self.machine.slept),
            host=HOST,
            store=self._store,
            last_line=self.machine.last_line,
            connect=connecting(self.machine),
            memory=self.machine.memory,
            pressure=lambda: None,
            obstacle=nothing,
        )

    async def _begin(self) -> None:
        await self.conductor.open()
        self.audit.watch(self.conductor)
        self._running = asyncio.create_task(self.conductor.run())

    async def _end(self) -> None:
        tasks = [request.task for request in self.requests if request.task is not None and not request.task.done()]
        if self._running is not None:
            tasks.append(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # What the daemon left to the loop.
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _restart(self) -> None:
        await self._end()
        self.manager.unwatch()
        self.conductor = self._conductor()
        await self._begin()
