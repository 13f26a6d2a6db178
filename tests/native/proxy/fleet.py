"""A conductor that is only its public side: a test decides what is ready, the servers behind are real."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from aitherd.conductor.claims import Look
from aitherd.conductor.operations import ModelStatus
from aitherd.core.callers import ANYBODY, Caller
from aitherd.core.words import DeviceView, Endpoint, Plan, Refusal, Residency, ResidencyClass, Seconds
from aitherd.errors import AitherError, NotLoaded, Stopped, UnknownModel, WaitedTooLong


@dataclass
class Claim:
    """One request's claim (`operations.Use`)."""

    fleet: Fleet
    model: str
    endpoint: Endpoint
    waited: Seconds
    why: str
    released: bool = False

    def moved(self) -> None:
        """Nobody looks at it."""

    def failed(self) -> None:
        """The same."""

    def release(self) -> None:
        if not self.released:
            self.released = True
            self.fleet.change(self.model, in_flight=self.fleet.models[self.model].in_flight - 1)


@dataclass
class Fleet:
    """Some models (`operations.Operations`). `starts` says how bringing one in goes; by default it is ready at once."""

    models: dict[str, ModelStatus] = field(default_factory=dict)
    starts: dict[str, Callable[[], asyncio.Future[None]]] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    looks: frozenset[tuple[str, str]] = frozenset()
    """Methods and paths that make an engine do nothing."""
    stopped: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    """Models whose demand was cancelled."""
    watts: float = 100.0
    """Of its only device."""
    listeners: list[Callable[[str], None]] = field(default_factory=list)
    asked: list[tuple[str, Caller]] = field(default_factory=list)
    """Models that were waited for, and by whom."""

    def add(
        self,
        name: str,
        endpoint: Endpoint,
        *,
        serves: tuple[str, ...] = (),
        residency: Residency = Residency.READY,
        residency_class: ResidencyClass = ResidencyClass.ON_DEMAND,
        held: bool = False,
    ) -> None:
        """Configures a model."""
        self.models[name] = ModelStatus(
            name=name, description=f"{name} for tests", engine="exec", residency_class=residency_class,
            residency=residency, level=0, serves=serves, can=("chat",), unit=f"aither-{name}-engine.service",
            model_unit=f"aither-{name}.service", declared=1 << 30, expected=1 << 30, measured={"gpu0": 1 << 30},
            in_flight=0, waiting=0, held=held, busy=False, since=1.0, last_used=0.0, stops_at=0.0,
            endpoint=endpoint, command=("serve", "--name", name), error="", stage="",
        )  # fmt: skip

    def change(self, name: str, **fields: object) -> None:
        """Changes fields of a model's status."""
        self.models[name] = replace(self.models[name], **fields)  # type: ignore[arg-type]
        for changed in self.listeners:
            changed(name)

    def resolve(self, name: str) -> str:
        for status in self.models.values():
            if name == status.name or name in status.serves:
                return status.name
        raise UnknownModel(f"there is no model {name!r}", remedy="there are " + ", ".join(self.models))

    def try_use(self, model: str) -> Claim | None:
        if self.models[model].residency is not Residency.READY:
            return None
        return self._claim(model, 0.0, "ready")

    def look(self, model: str, method: str, path: str) -> Look | None:
        status = self.models[model]
        if (method, path) not in self.looks:
            return None
        if status.residency is not Residency.READY or status.endpoint is None:
            raise NotLoaded(f"{model} is {status.residency}")
        return Look(model, status.endpoint)

    async def use(self, model: str, timeout: Seconds | None = None, caller: Caller = ANYBODY) -> Claim:
        self.asked.append((model, caller))
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(timeout):
                await self.start(model)
        except TimeoutError:
            raise WaitedTooLong(f"{model} was not ready in time") from None
        return self._claim(model, loop.time() - began, "loaded for\r\nthe test – at once")

    async def start(self, model: str) -> None:
        self.change(model, waiting=self.models[model].waiting + 1)
        try:
            if model in self.starts:
                await asyncio.shield(self.starts[model]())
        except asyncio.CancelledError:
            self.withdrawn.append(model)
            raise
        finally:
            self.change(model, waiting=self.models[model].waiting - 1)
        self.change(model, residency=Residency.READY)

    async def hold(self, model: str) -> None:
        await self.start(model)
        self.change(model, held=True)

    async def release(self, model: str) -> None:
        self.change(model, held=False)

    async def stop(self, model: str, *, force: bool = False) -> None:
        self.stopped.append(model)
        self.change(model, residency=Residency.ABSENT, measured={})

    async def sleep(self, model: str, level: int = 0) -> None:
        self.change(model, residency=Residency.SLEEPING, level=max(level, 1), held=False)

    async def wake(self, model: str) -> None:
        self.change(model, residency=Residency.READY, level=0)

    async def plan(self, model: str) -> Plan | Refusal:
        return Plan(model, (), (), {}, "for tests")

    def status(self, model: str) -> ModelStatus:
        return self.models[model]

    def statuses(self) -> tuple[ModelStatus, ...]:
        return tuple(self.models[name] for name in sorted(self.models))

    def devices(self) -> tuple[DeviceView, ...]:
        return (DeviceView("gpu0", "Test GPU", 32 << 30, 8 << 30, 1 << 30, watts=self.watts),)

    def problems(self) -> tuple[str, ...]:
        return self.broken

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        self.listeners.append(changed)
        return lambda: self.listeners.remove(changed)

    def _claim(self, model: str, waited: Seconds, why: str) -> Claim:
        status = self.models[model]
        if status.residency is not Residency.READY or status.endpoint is None:
            raise Stopped(f"{model} was stopped")
        self.change(model, in_flight=status.in_flight + 1)
        return Claim(self, model, status.endpoint, waited, why)


def failing(error: AitherError, after: Seconds = 0.0) -> Callable[[], asyncio.Future[None]]:
    """A start that fails with `error`, at once or later."""

    def start() -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if after:
            asyncio.get_running_loop().call_later(after, future.set_exception, error)
        else:
            future.set_exception(error)
        return future

    return start
