"""What the edges (HTTP, D-Bus) may ask of the conductor, and the values they get back.

The proxy and the bus depend on this file only, so that one set of operations serves both.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from aitherd.core.callers import ANYBODY, Caller
from aitherd.core.words import (
    Bytes,
    DeviceId,
    DeviceView,
    Endpoint,
    Plan,
    Refusal,
    Residency,
    ResidencyClass,
    Seconds,
)

NO_MOVES: Mapping[tuple[Residency, Residency], int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model as people see it."""

    name: str
    description: str
    engine: str
    residency_class: ResidencyClass
    residency: Residency
    level: int
    """Sleep level, 0 when awake."""
    serves: tuple[str, ...]
    """Names that clients may ask for, besides `name`."""
    can: tuple[str, ...]
    unit: str
    """The engine unit, `aither-NAME-engine.service`."""
    model_unit: str
    """The unit that people start and stop, `aither-NAME.service`."""
    declared: Bytes
    expected: Bytes
    """Device bytes it is expected to need: learned, or declared."""
    measured: Mapping[DeviceId, Bytes]
    """Device bytes that its unit holds now."""
    in_flight: int
    waiting: int
    held: bool
    busy: bool
    since: Seconds
    """Unix time of the last change of residency."""
    last_used: Seconds
    """Unix time of the last request; 0 before the first."""
    stops_at: Seconds
    """Unix time at which an idle model is stopped if nobody asks for it; 0 when it is not going to be."""
    endpoint: Endpoint | None
    command: tuple[str, ...]
    error: str
    """Why it failed or is quarantined; empty otherwise."""
    stage: str
    """What a transition is doing now, for a person (`waiting for gpu0 to show 4.0 GiB back`); empty otherwise."""
    concurrency: int | None = None
    """Requests that its engine is given at once; None without a bound."""
    max_waiting: int = 64
    """Requests that may wait for it, or for their turn."""
    moves: Mapping[tuple[Residency, Residency], int] = field(default_factory=lambda: NO_MOVES)
    """How often it went from one residency to another since the daemon started."""
    start_seconds: Seconds = 0.0
    """How long a cold start is expected to take: learned, or a guess before the first."""


class Use(Protocol):
    """One request's claim on a ready model. While it lasts the model is busy: it is neither stopped nor slept."""

    model: str
    endpoint: Endpoint
    waited: Seconds
    """How long the request waited for the model."""
    why: str
    """How the model came to be ready (`ready`, `loaded in 3.1 s after freeing imagine`)."""

    def moved(self) -> None:
        """The engine sent a piece of its answer."""

    def failed(self) -> None:
        """The engine failed the request: an error of its own, a broken answer, or none in time."""

    def release(self) -> None:
        """Ends the claim. Calling it again does nothing."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Device bytes that an outside program holds, or waits for."""

    id: str
    purpose: str
    bytes: Bytes
    """What is promised."""
    device: DeviceId
    """Empty while it waits for any."""
    used: Bytes
    """What its holder, with its descendants, uses of it now."""
    pid: int
    """Of its holder."""
    since: Seconds
    """Unix time at which it was granted, or asked for while it waits."""
    ends: Seconds
    """Unix time; 0 when it ends with its holder only."""
    waiting: bool = False
    """Not granted yet."""
    stage: str = ""
    """While it waits, for a person: what is done for it, or why nothing can be done now."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease that has just been granted."""

    id: str
    device: DeviceId
    descriptor: socket.socket
    """The holder's end; the receiver owns it. When all copies of it are closed the lease has ended; when the lease ends
    otherwise it reads as closed."""


class Leasing(Protocol):
    """Leases of device bytes by outside programs."""

    async def acquire(
        self,
        count: Bytes,
        device: DeviceId | None,
        purpose: str,
        pid: int,
        seconds: Seconds = 0.0,
        timeout: Seconds | None = None,
    ) -> Grant:
        """A lease of `count` bytes on `device`, None for any, for the process `pid`; room is made as for a model.

        It lasts `seconds`, or as long as its descriptor is open if 0. `timeout` bounds the wait in seconds, None does
        not. Cancelling the call withdraws the demand. Raises InvalidLease, CannotFit with the sum, DeviceBlind,
        QueueFull, WaitedTooLong or ShuttingDown.
        """

    async def release(self, id: str) -> None:
        """Ends a lease; its holder's descriptor reads as closed. Raises UnknownLease."""

    def list(self) -> tuple[Lease, ...]:
        """Leases in force, then those that are waited for, oldest first."""


class Past(Protocol):
    """What happened in the last hours."""

    def waited(self, model: str, seconds: Seconds) -> None:
        """A request waited so long for `model` and went on, or away."""

    def since(self, instant: Seconds) -> Mapping[str, object]:
        """What happened from the Unix time `instant` on, as JSON has it."""


class Operations(Protocol):
    """The conductor's public side."""

    def resolve(self, name: str) -> str:
        """The model that `name` stands for (a model's name or one that it serves). Raises UnknownModel."""

    def try_use(self, model: str) -> Use | None:
        """A claim on `model` if it is ready now, else None. Never waits, never starts anything."""

    def look(self, model: str, method: str, path: str) -> Use | None:
        """A claim that counts for nothing, for a request that makes the engine do nothing; None for any other request.

        It neither keeps `model` from idling out or giving way, nor is waited for when that happens. Raises NotLoaded
        while no engine of `model` is up: nothing is loaded for it.
        """

    async def use(self, model: str, timeout: Seconds | None = None, caller: Caller = ANYBODY) -> Use:
        """A claim on `model`, brought in if need be.

        `timeout` bounds the wait in seconds; None takes the configured bound. `caller` asks: in a full line
        somebody with less right to wait leaves it, with QueueFull. Cancelling the call withdraws the demand.
        Raises an AitherError that says why not: CannotFit, StartFailed, WaitedTooLong, QueueFull, Stopped…
        """

    async def start(self, model: str) -> None:
        """Brings `model` in and leaves it to its idle timeout. Returns when it answers; raises as `use` does."""

    async def hold(self, model: str) -> None:
        """Brings `model` in and keeps it until `release` or `stop`. The hold survives a restart of the daemon."""

    async def release(self, model: str) -> None:
        """Ends the hold; the model idles out as usual."""

    async def stop(self, model: str, *, force: bool = False) -> None:
        """Ends the hold, drains and stops `model`; returns when its bytes are verified as returned.

        `force` does not wait for requests in flight. Waiting requests end with Stopped.
        """

    async def sleep(self, model: str, level: int = 0) -> None:
        """Ends the hold, drains `model` and puts it to sleep at `level`, 0 for its shallowest.

        Returns when its bytes are verified as returned. A request that comes meanwhile wakes it again.
        Raises CannotSleep.
        """

    async def wake(self, model: str) -> None:
        """Wakes `model` and leaves it to its idle timeout. Raises NotAsleep where there is nothing to wake, and else as
        `start` does.
        """

    async def plan(self, model: str) -> Plan | Refusal:
        """What bringing `model` in would do now, from a fresh measurement. Changes nothing."""

    def status(self, model: str) -> ModelStatus:
        """One model. Raises UnknownModel."""

    def statuses(self) -> tuple[ModelStatus, ...]:
        """All models, by name."""

    def devices(self) -> tuple[DeviceView, ...]:
        """The devices as last measured."""

    def problems(self) -> tuple[str, ...]:
        """What keeps the daemon from doing its work, for people; empty when healthy."""

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """Calls `changed(model)` after each change of a model's status and `changed("")` after one of the devices.

        Returns the function that ends the subscription.
        """
