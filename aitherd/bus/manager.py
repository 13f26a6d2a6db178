"""The manager: all models by name, on the root object."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from sdbus import (
    DbusObjectManagerInterfaceAsync,
    DbusPropertyConstFlag,
    DbusPropertyEmitsChangeFlag,
    DbusUnprivilegedFlag,
    dbus_method_async,
    dbus_property_async,
    dbus_signal_async,
    get_current_message,
)

from aitherd import __version__
from aitherd.bus.announced import Announced
from aitherd.bus.authority import Action
from aitherd.bus.calls import Calls
from aitherd.bus.names import MANAGER, model_path
from aitherd.bus.refusals import refusal
from aitherd.bus.upstream import Routes
from aitherd.bus.values import LeaseRow, Variant, hints, lease, plan_json, record, route_json, text
from aitherd.conductor.operations import Grant, Leasing, ModelStatus, Operations
from aitherd.conductor.records import Records
from aitherd.errors import AitherError, UnknownModel

Row: TypeAlias = tuple[str, str, str, bool, int, int, int, str]
Entry: TypeAlias = tuple[int, str, str, str, dict[str, Variant]]


class ManagerObject(Announced, DbusObjectManagerInterfaceAsync, interface_name=MANAGER):
    """The fleet. A model is meant by its name or by any name that it serves."""

    INTERFACE = MANAGER

    def __init__(
        self,
        operations: Operations,
        leasing: Leasing,
        records: Records,
        routes: Routes,
        reload: Callable[[], Awaitable[None]],
        calls: Calls,
    ) -> None:
        super().__init__()
        self._operations = operations
        self._leasing = leasing
        self._records = records
        self._routes = routes
        self._reload = reload
        self._calls = calls

    @dbus_method_async("s", input_args_names=("model",), flags=DbusUnprivilegedFlag, method_name="Start")
    async def start(self, model: str) -> None:
        """Brings a model in and leaves it to its idle timeout. Returns when it answers; call without a timeout."""
        name = self._resolve(model)
        await self._calls.run(partial(self._operations.start, name), Action.START, name, withdraw=True)

    @dbus_method_async("s", input_args_names=("model",), flags=DbusUnprivilegedFlag, method_name="Stop")
    async def stop(self, model: str) -> None:
        """Ends the hold, drains the model and stops it. Returns when its bytes are measured as returned."""
        name = self._resolve(model)
        await self._calls.run(partial(self._operations.stop, name), Action.STOP, name)

    @dbus_method_async("s", input_args_names=("model",), flags=DbusUnprivilegedFlag, method_name="ForceStop")
    async def force_stop(self, model: str) -> None:
        """As Stop, without waiting for requests in flight."""
        name = self._resolve(model)
        await self._calls.run(partial(self._operations.stop, name, force=True), Action.MANAGE, name)

    @dbus_method_async("s", input_args_names=("model",), flags=DbusUnprivilegedFlag, method_name="Hold")
    async def hold(self, model: str) -> None:
        """Brings a model in and keeps it until Release or Stop. Returns when it answers; call without a timeout."""
        name = self._resolve(model)
        await self._calls.run(partial(self._operations.hold, name), Action.START, name, withdraw=True)

    @dbus_method_async("s", input_args_names=("model",), flags=DbusUnprivilegedFlag, method_name="Release")
    async def release(self, model: str) -> None:
        """Ends the hold; the model idles out as usual."""
        name = self._resolve(model)
        await self._calls.run(partial(self._operations.release, name), Action.STOP, name)

    @dbus_method_async("su", input_args_names=("model", "level"), flags=DbusUnprivilegedFlag, method_name="Sleep")
    async def sleep(self, model: str, level: int) -> None:
        """Ends the hold, drains the model and puts it to sleep, level 0 for its shallowest. Returns when it sleeps."""
        name = self._resolve(model)
        await self._calls.run(partial(self._operations.sleep, name, level), Action.STOP, name)

    @dbus_method_async("s", input_args_names=("model",), flags=DbusUnprivilegedFlag, method_name="Wake")
    async def wake(self, model: str) -> None:
        """Wakes a model that sleeps and leaves it to its idle timeout. Returns when it answers."""
        name = self._resolve(model)
        await self._calls.run(partial(self._operations.wake, name), Action.START, name, withdraw=True)

    @dbus_method_async(
        "s",
        "s",
        input_args_names=("model",),
        result_args_names=("plan",),
        flags=DbusUnprivilegedFlag,
        method_name="Plan",
    )
    async def plan(self, model: str) -> str:
        """What bringing the model in would do now and cost, or why it cannot be done, as JSON. Changes nothing."""
        return plan_json(await self._calls.run(partial(self._operations.plan, self._resolve(model))))

    @dbus_method_async(
        "sa{sv}",
        "s",
        input_args_names=("model", "hints"),
        result_args_names=("route",),
        flags=DbusUnprivilegedFlag,
        method_name="Route",
    )
    async def route(self, model: str, said: dict[str, Variant]) -> str:
        """Where a request for a model or a tier would go now, and why, as JSON. Changes nothing and asks nobody.

        Hints are what the request would say: tier (s), effort (s), local-only (b), needs (as): vision, tools and the
        like. With a hint of tier or effort the model may be empty.
        """
        try:
            tier, effort, request = hints(said)
            return route_json(self._routes.explain(model, tier, effort, request))
        except AitherError as error:
            raise refusal(error) from error

    @dbus_method_async(
        "tssu",
        "hss",
        input_args_names=("bytes", "device", "purpose", "seconds"),
        result_args_names=("descriptor", "lease", "device"),
        flags=DbusUnprivilegedFlag,
        method_name="AcquireLease",
    )
    async def acquire_lease(self, count: int, device: str, purpose: str, seconds: int) -> tuple[int, str, str]:
        """Claims device memory for the calling process and makes room for it; call without a timeout.

        An empty device means any. The lease ends when every copy of the descriptor is closed, after so many seconds (0:
        never), or by ReleaseLease; the descriptor then reads as closed. A caller that leaves the bus while it waits
        asks no more.
        """
        sender = get_current_message().sender or ""

        async def work() -> Grant:
            pid = await self._calls.pid_of(sender)
            return await self._leasing.acquire(count, device or None, purpose, pid, float(seconds))

        grant = await self._calls.run(work, Action.LEASE, withdraw=True)
        # The reply has a copy by then. The holder's must be the only ones.
        asyncio.get_running_loop().call_soon(grant.descriptor.close)
        return grant.descriptor.fileno(), grant.id, grant.device

    @dbus_method_async("s", input_args_names=("lease",), flags=DbusUnprivilegedFlag, method_name="ReleaseLease")
    async def release_lease(self, id: str) -> None:
        """Ends a lease. Its holder is not ended: what it goes on using is foreign from then on."""
        await self._calls.run(partial(self._leasing.release, id), Action.LEASE)

    @dbus_method_async(
        result_signature="a(sbsttsutts)",
        result_args_names=("leases",),
        flags=DbusUnprivilegedFlag,
        method_name="ListLeases",
    )
    async def list_leases(self) -> list[LeaseRow]:
        """As the property Leases."""
        return self.leases_now()

    @dbus_method_async(flags=DbusUnprivilegedFlag, method_name="Reload")
    async def reload(self) -> None:
        """Takes over the configuration on disk, all of it or, if it has errors, nothing."""
        await self._calls.run(self._reload, Action.RELOAD)

    @dbus_method_async(
        result_signature="a(sssbuuto)",
        result_args_names=("models",),
        flags=DbusUnprivilegedFlag,
        method_name="ListModels",
    )
    async def list_models(self) -> list[Row]:
        """Name, class, residency, held, requests in flight, requests waiting, bytes held now, object."""
        return [_row(status) for status in self._operations.statuses()]

    @dbus_method_async(
        "s",
        "o",
        input_args_names=("model",),
        result_args_names=("object",),
        flags=DbusUnprivilegedFlag,
        method_name="GetModel",
    )
    async def get_model(self, model: str) -> str:
        """The object of a model."""
        return model_path(self._resolve(model))

    @dbus_method_async(
        "su",
        "a(tsssa{sv})",
        input_args_names=("model", "limit"),
        result_args_names=("records",),
        flags=DbusUnprivilegedFlag,
        method_name="History",
    )
    async def history(self, model: str, limit: int) -> list[Entry]:
        """The latest records, oldest first: Unix time in microseconds, event, model, message, fields.

        An empty model means all; a limit of 0 means all that are kept.
        """
        if not model:
            kept = self._records.latest()
        else:
            # A model that is configured no more has a history, too.
            kept = self._records.latest(model) or self._records.latest(self._resolve(model))
        return [record(one) for one in kept[-limit:]]

    @dbus_signal_async(
        "tsssa{sv}", signal_args_names=("time", "event", "model", "message", "fields"), signal_name="Recorded"
    )
    def recorded(self) -> Entry:
        """A decision or a transition, as it is made: an entry of History."""
        raise NotImplementedError

    @dbus_property_async("s", flags=DbusPropertyConstFlag, property_name="Version")
    def version(self) -> str:
        """The daemon's version."""
        return __version__

    @dbus_property_async("b", flags=DbusPropertyEmitsChangeFlag, property_name="Healthy")
    def healthy(self) -> bool:
        """Whether there are no Problems."""
        return not self._operations.problems()

    @dbus_property_async("as", flags=DbusPropertyEmitsChangeFlag, property_name="Problems")
    def problems(self) -> list[str]:
        """What keeps the daemon from doing its work, for people."""
        return [text(problem) for problem in self._operations.problems()]

    @dbus_property_async("a(sbsttsutts)", flags=DbusPropertyEmitsChangeFlag, property_name="Leases")
    def leases(self) -> list[LeaseRow]:
        """Id, whether it is still waited for, device, bytes promised, bytes used, purpose, PID of its holder, since,
        end (0: with its holder only), what is being done if it is waited for. Instants in microseconds of Unix time.
        """
        return self.leases_now()

    def leases_now(self) -> list[LeaseRow]:
        """The value of both."""
        return [lease(one) for one in self._leasing.list()]

    def _resolve(self, name: str) -> str:
        try:
            return self._operations.resolve(name)
        except UnknownModel as error:
            raise refusal(error) from error


def _row(status: ModelStatus) -> Row:
    return (
        text(status.name),
        str(status.residency_class),
        str(status.residency),
        status.held,
        status.in_flight,
        status.waiting,
        max(sum(status.measured.values()), 0),
        model_path(status.name),
    )
