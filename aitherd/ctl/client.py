"""The daemon over D-Bus: one connection, calls, and what their errors mean to a person."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from sdbus import DbusFailedError, SdBus, SdBusBaseError, SdBusUnmappedMessageError
from sdbus.sd_bus_internals import (
    SdBusMessage,
    SdBusSlot,
    sd_bus_open_system,
    sd_bus_open_system_remote,
    sd_bus_open_user,
)

from aitherd.bus.names import BUS_NAME, DEVICE, ERROR, MANAGER, MODEL, ROOT, UPSTREAM, model_path
from aitherd.core.words import Seconds
from aitherd.ctl.failure import Exit, Failure

READ_TIMEOUT: Seconds = 60.0
"""For calls that only read. The bus may have to start the daemon first."""
GLANCE: Seconds = 0.5
"""How often the daemon's unit is looked at while there is no reply yet."""
DAEMON_UNIT = "aitherd.service"
CONFIGURATION = 78
"""The daemon's exit status for a configuration that it refuses: aitherd(8)."""
ENDLESS = 2**64 - 1
"""As sd-bus has a time-out that never comes (microseconds)."""

BROKER = "org.freedesktop.DBus"
BROKER_PATH = "/org/freedesktop/DBus"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
SYSTEMD = "org.freedesktop.systemd1"
SYSTEMD_PATH = "/org/freedesktop/systemd1"
NO_MEMORY = 2**64 - 1
"""What systemd says for a unit whose memory is not accounted for."""

INSTANTS = frozenset({"Since", "LastUsed", "StopsAt"})
TEXT_OR_NONE = frozenset({"Endpoint"})
NEGATIVE_FOR_NONE = frozenset({"DailyCap", "Watts", "Busy"})

Values = dict[str, Any]
"""Properties of a model or a device under the names that `--json` uses: instants in seconds, null for none."""


class Client:
    """A connection to the bus that the daemon is on."""

    def __init__(self, *, user: bool, host: str | None = None) -> None:
        """`host` is another machine, reached through ssh and its systemd-stdio-bridge. Raises Failure when there is no
        bus."""
        self.user = user
        self.host = host
        self._there = False
        if host and user:
            raise Failure(
                "only the system's daemon of another machine can be reached",
                f"leave --user out, or ssh {host} aitherctl --user …",
                status=Exit.USAGE,
            )
        try:
            if host:
                self.bus: SdBus = sd_bus_open_system_remote(host)
            else:
                self.bus = sd_bus_open_user() if user else sd_bus_open_system()
        except SdBusBaseError as error:
            raise Failure(
                f"cannot connect to the {'user' if user else 'system'} bus",
                "is DBUS_SESSION_BUS_ADDRESS or XDG_RUNTIME_DIR set?" if user else "is dbus.service running?",
            ) from error

    async def ask(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *arguments: Any,
        timeout: Seconds | None = READ_TIMEOUT,
    ) -> Any:
        """A method's result. `timeout` in seconds, None for never. Raises Failure."""
        self.bus.method_call_timeout_usec = ENDLESS if timeout is None else int(timeout * 1_000_000)
        try:
            call = self.bus.new_method_call_message(destination, path, interface, member)
            if signature:
                call.append_data(signature, *arguments)
            # Sent first: whether there is a daemon is of interest only while there is no reply.
            reply = asyncio.ensure_future(self.bus.call_async(call))
            if destination == BUS_NAME and not self._there:
                await self._awaited(reply)
            return (await reply).get_contents()
        except SdBusUnmappedMessageError as error:
            name, message = error.args
            raise self._failure(name, message) from error
        except DbusFailedError as error:
            raise self._failure(error.dbus_error_name, str(error)) from error
        except SdBusBaseError as error:
            raise self._lost() from error

    async def _awaited(self, reply: asyncio.Future[SdBusMessage]) -> None:
        """Returns when there is a reply, or a daemon to wait for. The bus, which may have to start it, waits long for
        one that ends.

        Raises Failure as soon as the manager does not try any more.
        """
        failed = False
        try:
            while not (await asyncio.wait({reply}, timeout=GLANCE))[0]:
                state, result, status = await self._unit()
                # Twice, because it may have failed before, and be about to be started again.
                if failed and state == "failed":
                    raise self._broken(result, status)
                failed = state == "failed"
                if state == "active":
                    # It is there, and takes its time: a model may have to be loaded.
                    self._there = True
                    return
        finally:
            if not (reply.done() or self._there):
                reply.cancel()
        self._there = True

    async def _unit(self) -> tuple[str, str, int]:
        """ActiveState, Result and exit status of the daemon's unit; empty where the manager does not know it."""
        try:
            path = await self.ask(SYSTEMD, SYSTEMD_PATH, f"{SYSTEMD}.Manager", "GetUnit", "s", DAEMON_UNIT)
            found = await self.ask(SYSTEMD, path, PROPERTIES, "GetAll", "s", "")
        except Failure:
            return "", "", 0
        return found["ActiveState"][1], found["Result"][1], found["ExecMainStatus"][1]

    def _broken(self, result: str, status: int) -> Failure:
        """Why the daemon does not start."""
        user = " --user" if self.user else ""
        if (result, status) == ("exit-code", CONFIGURATION):
            remedy = f"aitherctl{user} check-config names them; once mended, systemctl{user} start aitherd"
            return Failure("aitherd does not start: its configuration has errors", remedy)
        return Failure(f"aitherd does not start ({result}, status {status})", f"see systemctl{user} status aitherd")

    def _failure(self, name: str, message: str) -> Failure:
        # When ssh ends, that is all that is known of a call: that there was no reply.
        ended = name in (f"{BROKER}.Error.NoReply", f"{BROKER}.Error.Disconnected")
        return self._lost() if self.host and ended else failure(name, message, user=self.user)

    def _lost(self) -> Failure:
        if self.host:
            return Failure(
                f"the bus of {self.host} cannot be reached", f"does ssh {self.host} systemd-stdio-bridge work?"
            )
        return Failure("the connection to the bus is lost", "try again")

    async def manager(
        self, member: str, signature: str = "", *arguments: Any, timeout: Seconds | None = READ_TIMEOUT
    ) -> Any:
        """Calls a method of the manager."""
        return await self.ask(BUS_NAME, ROOT, MANAGER, member, signature, *arguments, timeout=timeout)

    async def running(self) -> bool:
        """Whether the daemon runs, without starting it."""
        return bool(await self.ask(BROKER, BROKER_PATH, BROKER, "NameHasOwner", "s", BUS_NAME))

    async def daemon(self) -> Values:
        """Version, health, problems and leases."""
        return plain(await self.ask(BUS_NAME, ROOT, PROPERTIES, "GetAll", "s", MANAGER))

    async def fleet(self) -> tuple[list[Values], list[Values]]:
        """All models and all devices, by name, as they were at one moment."""
        objects = await self.ask(BUS_NAME, ROOT, OBJECT_MANAGER, "GetManagedObjects")
        models = [plain(interfaces[MODEL]) for interfaces in objects.values() if MODEL in interfaces]
        devices = [plain(interfaces[DEVICE]) for interfaces in objects.values() if DEVICE in interfaces]
        return sorted(models, key=lambda one: str(one["name"])), sorted(devices, key=lambda one: str(one["id"]))

    async def upstreams(self) -> list[Values]:
        """All upstreams, by name."""
        objects = await self.ask(BUS_NAME, ROOT, OBJECT_MANAGER, "GetManagedObjects")
        found = [plain(interfaces[UPSTREAM]) for interfaces in objects.values() if UPSTREAM in interfaces]
        return sorted(found, key=lambda one: str(one["name"]))

    async def model(self, name: str) -> Values:
        """One model, by its name or one that it serves."""
        path = await self.manager("GetModel", "s", name)
        return plain(await self.ask(BUS_NAME, path, PROPERTIES, "GetAll", "s", MODEL))

    async def history(self, model: str, limit: int) -> list[Values]:
        """The latest records about a model, oldest first."""
        return [_record(row) for row in await self.manager("History", "su", model, limit)]

    async def host_memory(self, unit: str) -> int | None:
        """Host memory of a unit in bytes, as systemd accounts for it; None when it does not."""
        try:
            path = await self.ask(SYSTEMD, SYSTEMD_PATH, f"{SYSTEMD}.Manager", "GetUnit", "s", unit)
            _, count = await self.ask(SYSTEMD, path, PROPERTIES, "Get", "ss", f"{SYSTEMD}.Service", "MemoryCurrent")
        except Failure:
            # Not loaded, or no systemd on this bus: there is nothing to tell, and that is no failure.
            return None
        return None if count == NO_MEMORY else int(count)

    async def watch_records(self, shown: Callable[[Values], None]) -> SdBusSlot:
        """Calls `shown` with each record that is made, until the slot is closed."""

        def receive(message: SdBusMessage) -> None:
            shown(_record(message.parse_to_tuple()))

        return await self.bus.match_signal_async(BUS_NAME, ROOT, MANAGER, "Recorded", receive)

    async def watch_end(self, ended: Callable[[], None]) -> SdBusSlot:
        """Calls `ended` when the daemon has left the bus."""

        def receive(message: SdBusMessage) -> None:
            name, _, owner = message.parse_to_tuple()
            if name == BUS_NAME and not owner:
                ended()

        return await self.bus.match_signal_async(BROKER, BROKER_PATH, BROKER, "NameOwnerChanged", receive)

    async def watch(self, model: str, changed: Callable[[Mapping[str, Any]], None]) -> SdBusSlot:
        """Calls `changed` with the properties of a model that change, until the slot is closed."""

        return await self.watch_properties(model_path(model), MODEL, changed)

    async def watch_properties(
        self, path: str, interface: str, changed: Callable[[Mapping[str, Any]], None]
    ) -> SdBusSlot:
        """The same for any object's interface."""

        def receive(message: SdBusMessage) -> None:
            of, changes, _ = message.parse_to_tuple()
            if of == interface:
                changed({name: value for name, (_, value) in changes.items()})

        return await self.bus.match_signal_async(BUS_NAME, path, PROPERTIES, "PropertiesChanged", receive)


def run(arguments: argparse.Namespace, command: Callable[[Client], Awaitable[int]]) -> int:
    """Runs a command that needs the daemon."""

    async def connected() -> int:
        return await command(Client(user=arguments.user, host=arguments.host))

    return asyncio.run(connected())


def plain(values: Mapping[str, tuple[str, Any]]) -> Values:
    """Properties as they came, under our names and in our units."""
    out: Values = {}
    for name, (_, value) in values.items():
        if name in INSTANTS:
            value = value / 1_000_000 if value else None
        elif name in TEXT_OR_NONE:
            value = value or None
        elif name == "Latency":
            value = value / 1_000_000 if value else None
        elif name in NEGATIVE_FOR_NONE:
            value = None if value < 0 else value
        elif name == "Leases":
            value = lease_values(value)
        elif name == "Nodes":
            value = [_node(row) for row in value]
        elif name == "Foreign":
            value = [{"name": owner, "pid": pid, "bytes": count} for owner, pid, count in value]
        out[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()] = value
    return out


def _record(row: tuple[Any, ...]) -> Values:
    """One record of History, or of the signal."""
    time, event, model, message, fields = row
    plain_fields = {key: value for key, (_, value) in fields.items()}
    return {"time": time / 1_000_000, "event": event, "model": model, "message": message, "fields": plain_fields}


def _node(row: tuple[Any, ...]) -> Values:
    """One address of an upstream."""
    names = ("url", "circuit", "failure", "in_flight", "concurrency", "weight", "latency")
    found = dict(zip(names, row, strict=True))
    found["latency"] = found["latency"] / 1_000_000 if found["latency"] else None
    return found


def lease_values(rows: Iterable[tuple[Any, ...]]) -> list[Values]:
    """Leases as they came, under our names and in our units."""
    names = ("id", "waiting", "device", "bytes", "used", "purpose", "pid", "since", "ends", "stage")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    for one in found:
        one["since"] /= 1_000_000
        one["ends"] = one["ends"] / 1_000_000 if one["ends"] else None
    return found


def failure(name: str, message: str, *, user: bool = False) -> Failure:
    """What an error reply means; `user` says whose daemon was asked."""
    of = " --user" if user else ""
    if name.startswith(f"{ERROR}."):
        status = Exit.UNKNOWN if name == f"{ERROR}.NoSuchModel" else Exit.FAILED
        return Failure(message, name=name, status=status)
    if name == f"{BROKER}.Error.NoReply" and "timed out" in message.lower():
        return Failure("there was no answer in time", f"see systemctl{of} status aitherd", name=name)
    if name in (f"{BROKER}.Error.NoReply", f"{BROKER}.Error.Disconnected"):
        return Failure("aitherd went away before it answered", f"see journalctl{of} -u aitherd", name=name)
    if name in (f"{BROKER}.Error.ServiceUnknown", f"{BROKER}.Error.NameHasNoOwner"):
        return Failure(
            "aitherd is not on this bus, and the bus cannot start it",
            "is it installed? The user's own daemon is reached with --user",
            name=name,
        )
    if name.startswith((f"{BROKER}.Error.Spawn", f"{SYSTEMD}.")) or name == f"{BROKER}.Error.TimedOut":
        return Failure(f"aitherd cannot be started: {message}", f"see systemctl{of} status aitherd", name=name)
    return Failure(f"{message} ({name})", name=name)
