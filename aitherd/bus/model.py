"""One model on the bus."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sdbus import (
    DbusPropertyConstFlag,
    DbusPropertyEmitsChangeFlag,
    DbusUnprivilegedFlag,
    dbus_method_async,
    dbus_property_async,
)

from aitherd.bus.announced import Announced
from aitherd.bus.authority import Action
from aitherd.bus.calls import Calls
from aitherd.bus.names import MODEL
from aitherd.bus.values import endpoint, text, usec
from aitherd.conductor.operations import ModelStatus, Operations
from aitherd.errors import UnknownModel


class ModelObject(Announced, interface_name=MODEL):
    """A configured model. Sizes are bytes of device memory, instants microseconds of Unix time (0: never)."""

    INTERFACE = MODEL

    def __init__(self, status: ModelStatus, operations: Operations, calls: Calls, tokens: Callable[[str], int]) -> None:
        super().__init__()
        self._tokens = tokens
        self._status = status
        self._stale = False
        self._operations = operations
        self._calls = calls

    def touch(self) -> None:
        """The status is read again when somebody asks for it."""
        self._stale = True

    @property
    def status(self) -> ModelStatus:
        """The status of now; the last one known if the model has just been removed."""
        if self._stale:
            self._stale = False
            try:
                self._status = self._operations.status(self._status.name)
            except UnknownModel:
                return self._status
        return self._status

    @dbus_method_async(flags=DbusUnprivilegedFlag, method_name="Start")
    async def start(self) -> None:
        """Brings the model in and leaves it to its idle timeout. Returns when it answers."""
        name = self._status.name
        await self._calls.run(partial(self._operations.start, name), Action.START, name, withdraw=True)

    @dbus_method_async(flags=DbusUnprivilegedFlag, method_name="Stop")
    async def stop(self) -> None:
        """Ends the hold, drains the model and stops it. Returns when its bytes are measured as returned."""
        name = self._status.name
        await self._calls.run(partial(self._operations.stop, name), Action.STOP, name)

    @dbus_method_async(flags=DbusUnprivilegedFlag, method_name="ForceStop")
    async def force_stop(self) -> None:
        """As Stop, without waiting for requests in flight."""
        name = self._status.name
        await self._calls.run(partial(self._operations.stop, name, force=True), Action.MANAGE, name)

    @dbus_method_async(flags=DbusUnprivilegedFlag, method_name="Hold")
    async def hold(self) -> None:
        """Brings the model in and keeps it until Release or Stop. Returns when it answers."""
        name = self._status.name
        await self._calls.run(partial(self._operations.hold, name), Action.START, name, withdraw=True)

    @dbus_method_async(flags=DbusUnprivilegedFlag, method_name="Release")
    async def release(self) -> None:
        """Ends the hold; the model idles out as usual."""
        name = self._status.name
        await self._calls.run(partial(self._operations.release, name), Action.STOP, name)

    @dbus_method_async("u", input_args_names=("level",), flags=DbusUnprivilegedFlag, method_name="Sleep")
    async def sleep(self, level: int) -> None:
        """Ends the hold, drains the model and puts it to sleep, level 0 for its shallowest. Returns when it sleeps."""
        name = self._status.name
        await self._calls.run(partial(self._operations.sleep, name, level), Action.STOP, name)

    @dbus_method_async(flags=DbusUnprivilegedFlag, method_name="Wake")
    async def wake(self) -> None:
        """Wakes it and leaves it to its idle timeout. Returns when it answers."""
        name = self._status.name
        await self._calls.run(partial(self._operations.wake, name), Action.START, name, withdraw=True)

    @dbus_property_async("s", flags=DbusPropertyConstFlag, property_name="Name")
    def name(self) -> str:
        """The noun of the command line and of the units."""
        return text(self._status.name)

    @dbus_property_async("s", flags=DbusPropertyEmitsChangeFlag, property_name="Description")
    def description(self) -> str:
        """One line for people; may be empty."""
        return text(self.status.description)

    @dbus_property_async("s", flags=DbusPropertyEmitsChangeFlag, property_name="Engine")
    def engine(self) -> str:
        """The kind of server, such as `llama-server`."""
        return self.status.engine

    @dbus_property_async("s", flags=DbusPropertyEmitsChangeFlag, property_name="Class")
    def residency_class(self) -> str:
        """`essential`, `resident` or `on-demand`."""
        return str(self.status.residency_class)

    @dbus_property_async("s", flags=DbusPropertyEmitsChangeFlag, property_name="Residency")
    def residency(self) -> str:
        """`absent`, `starting`, `ready`, `sleeping`, `stopping`, `failed` or `quarantined`."""
        return str(self.status.residency)

    @dbus_property_async("u", flags=DbusPropertyEmitsChangeFlag, property_name="Level")
    def level(self) -> int:
        """Sleep level, 0 when awake."""
        return self.status.level

    @dbus_property_async("as", flags=DbusPropertyEmitsChangeFlag, property_name="Serves")
    def serves(self) -> list[str]:
        """Names that clients may ask for, besides Name."""
        return [text(name) for name in self.status.serves]

    @dbus_property_async("as", flags=DbusPropertyEmitsChangeFlag, property_name="Can")
    def can(self) -> list[str]:
        """What it can do, such as `chat` and `vision`."""
        return [text(ability) for ability in self.status.can]

    @dbus_property_async("s", flags=DbusPropertyConstFlag, property_name="Unit")
    def unit(self) -> str:
        """The unit that people start and stop; active means held."""
        return text(self._status.model_unit)

    @dbus_property_async("s", flags=DbusPropertyConstFlag, property_name="EngineUnit")
    def engine_unit(self) -> str:
        """The transient service that runs the engine."""
        return text(self._status.unit)

    @dbus_property_async("as", flags=DbusPropertyEmitsChangeFlag, property_name="Command")
    def command(self) -> list[str]:
        """The engine's command as configured."""
        return [text(word) for word in self.status.command]

    @dbus_property_async("t", flags=DbusPropertyEmitsChangeFlag, property_name="DeclaredBytes")
    def declared_bytes(self) -> int:
        """The footprint that its file declares."""
        return self.status.declared

    @dbus_property_async("t", flags=DbusPropertyEmitsChangeFlag, property_name="ExpectedBytes")
    def expected_bytes(self) -> int:
        """What it is expected to need when ready: learned, or declared while nothing is learned."""
        return self.status.expected

    @dbus_property_async("d", flags=DbusPropertyEmitsChangeFlag, property_name="StartSeconds")
    def start_seconds(self) -> float:
        """How long a cold start is expected to take: learned, or a guess before the first."""
        return self.status.start_seconds

    @dbus_property_async("a{st}", flags=DbusPropertyEmitsChangeFlag, property_name="MeasuredBytes")
    def measured_bytes(self) -> dict[str, int]:
        """What its unit holds now, by device."""
        return {device: max(count, 0) for device, count in self.status.measured.items()}

    @dbus_property_async("u", flags=DbusPropertyEmitsChangeFlag, property_name="InFlight")
    def in_flight(self) -> int:
        """Requests being answered."""
        return self.status.in_flight

    @dbus_property_async("t", property_name="Tokens")
    def tokens(self) -> int:
        """Tokens of its answers since the daemon began. Its changes are not announced."""
        return self._tokens(self._status.name)

    @dbus_property_async("u", flags=DbusPropertyEmitsChangeFlag, property_name="Waiting")
    def waiting(self) -> int:
        """Requests waiting for it to become ready."""
        return self.status.waiting

    @dbus_property_async("b", flags=DbusPropertyEmitsChangeFlag, property_name="Held")
    def held(self) -> bool:
        """Whether it is kept resident until it is released or stopped."""
        return self.status.held

    @dbus_property_async("b", flags=DbusPropertyEmitsChangeFlag, property_name="Busy")
    def busy(self) -> bool:
        """Whether it works: requests in flight, or its engine says so."""
        return self.status.busy

    @dbus_property_async("t", flags=DbusPropertyEmitsChangeFlag, property_name="Since")
    def since(self) -> int:
        """When Residency changed last."""
        return usec(self.status.since)

    @dbus_property_async("t", flags=DbusPropertyEmitsChangeFlag, property_name="LastUsed")
    def last_used(self) -> int:
        """When the last request ended; 0 before the first."""
        return usec(self.status.last_used)

    @dbus_property_async("t", flags=DbusPropertyEmitsChangeFlag, property_name="StopsAt")
    def stops_at(self) -> int:
        """When it is stopped if nobody asks for it; 0 when it is not going to be."""
        return usec(self.status.stops_at)

    @dbus_property_async("s", flags=DbusPropertyEmitsChangeFlag, property_name="Endpoint")
    def endpoint(self) -> str:
        """Where the engine listens: `unix:PATH` or `tcp:127.0.0.1:PORT`; empty when it does not run."""
        return endpoint(self.status.endpoint)

    @dbus_property_async("s", flags=DbusPropertyEmitsChangeFlag, property_name="Error")
    def error(self) -> str:
        """Why it failed or is quarantined; empty otherwise."""
        return text(self.status.error)

    @dbus_property_async("s", flags=DbusPropertyEmitsChangeFlag, property_name="Stage")
    def stage(self) -> str:
        """What a transition is doing now, for people; empty otherwise."""
        return text(self.status.stage)
