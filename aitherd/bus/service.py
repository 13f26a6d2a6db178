"""The service on the bus: which objects there are, and when.

What they offer is in `manager.py`, `model.py`, `device.py` and `upstream.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from sdbus import DbusFailedError, SdBus, SdBusBaseError
from sdbus.dbus_proxy_async_interface_base import DbusExportHandle, DbusInterfaceBaseAsync
from sdbus.exceptions import SdBusRequestNameError
from sdbus.sd_bus_internals import SdBusMessage, SdBusSlot

from aitherd.bus.announced import Announced, Announcer
from aitherd.bus.authority import Authority
from aitherd.bus.calls import BROKER, BROKER_PATH, Calls
from aitherd.bus.device import DeviceObject
from aitherd.bus.log_control import PATH as LOG_PATH
from aitherd.bus.log_control import LogControl, LogControlObject
from aitherd.bus.manager import ManagerObject
from aitherd.bus.model import ModelObject
from aitherd.bus.names import BUS_NAME, ROOT, device_path, model_path, upstream_path
from aitherd.bus.upstream import Routes, UpstreamObject
from aitherd.bus.values import record
from aitherd.conductor.operations import Leasing, Operations
from aitherd.conductor.records import Records
from aitherd.errors import HostFailure

LOCAL = "org.freedesktop.DBus.Local"

Exported = TypeVar("Exported", bound=Announced)


class BusService:
    """`org.aitheros.Aither1` on one bus."""

    def __init__(
        self,
        bus: SdBus,
        operations: Operations,
        leasing: Leasing,
        records: Records,
        routes: Routes,
        reload: Callable[[], Awaitable[None]],
        authority: Authority,
        log: LogControl,
        *,
        tokens: Callable[[str], int] = lambda model: 0,
    ) -> None:
        """`reload` takes over the configuration on disk, or raises ConfigurationRefused and changes nothing.

        `tokens` says how many tokens a model has answered.
        """
        self._bus = bus
        self._operations = operations
        self._calls = Calls(bus, authority)
        self._manager = ManagerObject(operations, leasing, records, routes, self._reloaded, self._calls)
        self._reload = reload
        self._tokens = tokens
        self._log = LogControlObject(log)
        self._announcer = Announcer(self._begin_turn)
        self._models: dict[str, ModelObject] = {}
        self._devices: dict[str, DeviceObject] = {}
        self._records = records
        self._recorded = 0
        """The number of the record that was announced last."""
        self._routes = routes
        self._upstreams: dict[str, UpstreamObject] = {}
        self._exports: dict[DbusInterfaceBaseAsync, DbusExportHandle] = {}
        self._subscriptions: list[Callable[[], None]] = []
        self._disconnected = asyncio.Event()
        self._disconnection: SdBusSlot | None = None
        self._names_changed = False

    async def start(self) -> None:
        """Exports everything, then takes the name: whoever sees the name can use it.

        Raises HostFailure when another program has the name, or may not be replaced by this user.
        """
        # By the member alone: sdbus never finishes a subscription that names the local interface.
        self._disconnection = await self._bus.match_signal_async(None, None, None, "Disconnected", self._local)
        self._exports[self._manager] = self._manager.export_to_dbus(ROOT, self._bus)
        self._exports[self._log] = self._log.export_to_dbus(LOG_PATH, self._bus)
        self._manager.remember()
        self._recorded = self._records.total
        self._subscriptions = [
            self._operations.subscribe(self._changed),
            self._routes.subscribe(self._fared),
            self._records.subscribe(self._announce_records),
        ]
        self._sync()
        try:
            await self._bus.request_name_async(BUS_NAME, 0)
        except SdBusRequestNameError as error:
            await self.stop()
            raise HostFailure(
                f"the name {BUS_NAME} is taken on this bus", remedy="another aitherd runs: stop it first"
            ) from error
        except SdBusBaseError as error:
            await self.stop()
            raise HostFailure(
                f"the name {BUS_NAME} cannot be had on this bus: {error}",
                remedy=f"the system bus gives it to the user aither, by {BUS_NAME}.conf in /usr/share/dbus-1/system.d",
            ) from error

    async def stop(self) -> None:
        """Gives the name back, ends calls that still run with ShuttingDown, and exports nothing more.

        Calling it again does nothing.
        """
        try:
            call = self._bus.new_method_call_message(BROKER, BROKER_PATH, BROKER, "ReleaseName")
            call.append_data("s", BUS_NAME)
            # From here on a new caller reaches the next daemon.
            await self._bus.call_async(call)
        except (DbusFailedError, SdBusBaseError):
            # The connection is gone, and the name with it.
            self._disconnected.set()
        for end in self._subscriptions:
            end()
        self._subscriptions.clear()
        self._announcer.close()
        await self._calls.close()
        for one in [
            *self._models.values(),
            *self._devices.values(),
            *self._upstreams.values(),
            self._manager,
            self._log,
        ]:
            if handle := self._exports.pop(one, None):
                self._end(handle)
        self._models.clear()
        self._devices.clear()
        self._upstreams.clear()
        if self._disconnection is not None:
            self._disconnection.close()

    async def disconnected(self) -> None:
        """Returns when the connection to the bus is lost."""
        await self._disconnected.wait()

    def _local(self, message: SdBusMessage) -> None:
        if message.interface == LOCAL:
            self._disconnected.set()

    async def _reloaded(self) -> None:
        await self._reload()
        # Before the caller has the answer, so that it finds what it has just configured.
        self._sync()
        for one in self._models.values():
            self._announcer.touch(one)

    # --- changes -----------------------------------------------------------------------------------------------------

    def _changed(self, model: str) -> None:
        """The conductor's notice; called very often."""
        if one := self._models.get(model):
            self._announcer.touch(one)
        else:
            # The devices, or a model that there is no object of yet.
            self._names_changed = True
            self._announcer.wake()

    def _fared(self, upstream: str) -> None:
        """The router's notice; called very often."""
        if one := self._upstreams.get(upstream):
            self._announcer.touch(one)
        else:
            self._names_changed = True
            self._announcer.wake()

    def _announce_records(self) -> None:
        """The notice that there are new records."""
        for number, one in self._records.since(self._recorded):
            self._recorded = number
            try:
                self._manager.recorded.emit(record(one))
            except SdBusBaseError:
                self._disconnected.set()

    def _begin_turn(self) -> None:
        self._announcer.touch(self._manager)
        if self._names_changed:
            self._names_changed = False
            self._sync()

    def _sync(self) -> None:
        """Makes the objects those of the models and devices that there are."""
        statuses = {status.name: status for status in self._operations.statuses()}
        self._keep(self._models, statuses)
        for name, status in statuses.items():
            if name not in self._models:
                self._models[name] = self._export(
                    ModelObject(status, self._operations, self._calls, self._tokens), model_path(name)
                )
        views = {view.id: view for view in self._operations.devices()}
        self._keep(self._devices, views)
        for device, view in views.items():
            if device not in self._devices:
                self._devices[device] = self._export(DeviceObject(view), device_path(device))
            elif self._devices[device].view != view:
                self._devices[device].view = view
                self._announcer.touch(self._devices[device])

        upstreams = {one.name: one for one in self._routes.statuses()}
        self._keep(self._upstreams, upstreams)
        for name, upstream in upstreams.items():
            if name not in self._upstreams:
                self._upstreams[name] = self._export(UpstreamObject(upstream, self._routes), upstream_path(name))

    def _export(self, one: Exported, path: str) -> Exported:
        one.remember()
        self._exports[one] = self._manager.export_with_manager(path, one, self._bus)
        return one

    def _keep(self, objects: dict[str, Exported], names: Mapping[str, object]) -> None:
        """Removes the objects that have none of the names."""
        for name in objects.keys() - names.keys():
            one = objects.pop(name)
            self._announcer.forget(one)
            self._end(self._exports.pop(one))

    def _end(self, handle: DbusExportHandle) -> None:
        try:
            handle.stop()
        except SdBusBaseError:
            self._disconnected.set()
