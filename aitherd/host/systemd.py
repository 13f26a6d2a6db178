"""The systemd manager over D-Bus: start, stop and kill units, wait for their jobs, read and watch their state.

The system's manager or a user's, by the bus that is passed in. Which units exist and when is not decided here.
Interface: org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from signal import Signals
from typing import Any

import structlog
from sdbus import SdBus
from sdbus.exceptions import SdBusBaseError
from sdbus.sd_bus_internals import SdBusMessage, SdBusSlot, decode_object_path, encode_object_path

from aitherd.core.words import Seconds
from aitherd.errors import HostFailure
from aitherd.host import dbus, units
from aitherd.host.dbus import Refused
from aitherd.host.units import WRONG_TYPE, JobFailed, Property, UnitExists, UnitStatus, Variant, why_not

__all__ = ["JOB_TIMEOUT", "JobFailed", "Property", "Systemd", "UnitExists", "UnitStatus"]

JOB_TIMEOUT: Seconds = 90.0
"""How long a job is waited for unless the caller knows better."""
RETURN_TIMEOUT: Seconds = 10.0
"""How long a manager that re-executes itself may be away from the bus before calls to it fail."""

SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
UNITS = "/org/freedesktop/systemd1/unit"
PROPERTIES = "org.freedesktop.DBus.Properties"
BROKER = "org.freedesktop.DBus"
BROKER_PATH = "/org/freedesktop/DBus"

WATCHED = "aither-"
"""Units whose names begin so are watched."""
WATCHED_PATH = encode_object_path(UNITS, WATCHED)

NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
ALREADY_SUBSCRIBED = "org.freedesktop.systemd1.AlreadySubscribed"
UNREAD = dbus.ABSENT | dbus.NO_ANSWER
NOTHING_TO_KILL = frozenset({NO_SUCH_UNIT, "org.freedesktop.systemd1.NoSuchProcess", "System.Error.ESRCH"})
UP = frozenset({"active", "activating", "reloading", "refreshing"})
"""ActiveState of a unit that a start job leads to."""


class Systemd:
    """One manager. Make it with `connect`, end it with `close`."""

    def __init__(self, bus: SdBus) -> None:
        self._bus = bus
        self._owner = ""
        """The manager's address on the bus; empty while it is not there."""
        self._moved = asyncio.Event()
        """Set when that changes."""
        self._slots: list[SdBusSlot] = []
        self._jobs: dict[str, _Job] = {}
        self._dispatching = 0
        self._ended: dict[str, str] = {}
        """Results of jobs that ended while a dispatch was under way: its reply may not have been read yet."""
        self._watchers: list[Callable[[str], None]] = []
        self._changed: set[str] = set()
        self._resuming: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, bus: SdBus) -> Systemd:
        """Subscribes to the manager on `bus`, which stays the caller's. Raises HostFailure."""
        self = cls(bus)
        broker, manager = (BROKER, BROKER_PATH, BROKER), (SYSTEMD, MANAGER_PATH, MANAGER)
        try:
            await self._match(*broker, "NameOwnerChanged", self._on_owner)
            await self._match(*manager, "JobRemoved", self._on_job)
            await self._match(*manager, "UnitNew", self._on_unit)
            await self._match(*manager, "UnitRemoved", self._on_unit)
            # The match cannot name a prefix of paths; foreign units fall out at the first look at the path.
            await self._match(SYSTEMD, None, PROPERTIES, "PropertiesChanged", self._on_properties)
            (self._owner,) = await dbus.ask(bus, *broker, "GetNameOwner", "s", SYSTEMD)
            await self._subscribe()
        except Refused as refusal:
            await self.close()
            raise dbus.unanswered(refusal, "connecting to the systemd manager") from refusal
        return self

    async def close(self) -> None:
        """Ends subscriptions and waits: who waits for a job gets a HostFailure."""
        for slot in self._slots:
            slot.close()
        self._slots.clear()
        self._watchers.clear()
        for job in self._jobs.values():
            job.ended.cancel()
        self._jobs.clear()
        if self._resuming is not None:
            self._resuming.cancel()
            await asyncio.wait({self._resuming})

    # -- jobs ---------------------------------------------------------------------------------------------------------

    async def start_transient(
        self, unit: str, properties: Sequence[Property], *, timeout: Seconds = JOB_TIMEOUT
    ) -> None:
        """Makes and starts a transient unit; returns when its start job is done.

        For Type=exec that is when the command has been executed. Raises UnitExists, JobFailed, or HostFailure that
        names the property at fault.
        """
        try:
            await self._job(unit, True, self._send(lambda: self._transient(unit, properties)), timeout)
        except Refused as refusal:
            types = await self._types(unit) if refusal.name == WRONG_TYPE else {}
            raise why_not(unit, properties, refusal, types) from refusal

    async def start_unit(self, unit: str, *, timeout: Seconds = JOB_TIMEOUT) -> None:
        """Starts a unit that exists; returns when its job is done. Raises JobFailed, HostFailure."""
        try:
            await self._job(unit, True, self._manager("StartUnit", "ss", unit, "replace"), timeout)
        except Refused as refusal:
            if refusal.name == NO_SUCH_UNIT:
                raise HostFailure(
                    f"there is no {unit}", remedy="`systemctl daemon-reload` makes new units known"
                ) from refusal
            raise dbus.unanswered(refusal, f"start of {unit}") from refusal

    async def stop_unit(self, unit: str, *, timeout: Seconds = JOB_TIMEOUT) -> None:
        """Stops a unit; returns when its control group is empty, at once if there is no such unit.

        Raises JobFailed, HostFailure.
        """
        try:
            await self._job(unit, False, self._manager("StopUnit", "ss", unit, "replace"), timeout)
        except Refused as refusal:
            if refusal.name != NO_SUCH_UNIT:
                raise dbus.unanswered(refusal, f"stop of {unit}") from refusal

    async def kill_unit(self, unit: str, signal: Signals) -> None:
        """Sends `signal` to every process of the unit's control group; nothing if there is none. Raises HostFailure."""
        try:
            await self._manager("KillUnit", "ssi", unit, "all", int(signal))
        except Refused as refusal:
            if refusal.name not in NOTHING_TO_KILL:
                raise dbus.unanswered(refusal, f"{signal.name} to {unit}") from refusal

    async def processes(self, unit: str) -> tuple[int, ...]:
        """PIDs in the unit's control group; none if there is no such unit. Raises HostFailure."""
        try:
            (found,) = await self._manager("GetUnitProcesses", "s", unit)
        except Refused as refusal:
            if refusal.name == NO_SUCH_UNIT:
                return ()
            raise dbus.unanswered(refusal, f"processes of {unit}") from refusal
        return tuple(sorted(pid for _, pid, _ in found))

    async def set_properties(self, unit: str, properties: Sequence[Property]) -> None:
        """Sets properties of a unit, until the machine goes down, whether it is active or not. Raises HostFailure."""

        def message() -> SdBusMessage:
            call = dbus.message(self._bus, SYSTEMD, MANAGER_PATH, MANAGER, "SetUnitProperties")
            call.append_data("sb", unit, True)
            units.append_properties(call, unit, properties)
            return call

        try:
            await self._send(message)
        except Refused as refusal:
            raise dbus.unanswered(refusal, f"properties of {unit}") from refusal

    async def reset_failed(self, unit: str) -> None:
        """Forgets that the unit failed, which frees a transient unit's name. Raises HostFailure."""
        try:
            await self._manager("ResetFailedUnit", "s", unit)
        except Refused as refusal:
            if refusal.name != NO_SUCH_UNIT:
                raise dbus.unanswered(refusal, f"reset of {unit}") from refusal

    async def _job(self, unit: str, starts: bool, dispatch: Awaitable[tuple[Any, ...]], timeout: Seconds) -> None:
        """Sends a call that answers with a job, and waits for the job. Cancelling ends the wait, not the job."""
        self._dispatching += 1
        try:
            (path,) = await dispatch
            result = self._ended.get(path)
        finally:
            self._dispatching -= 1
            if not self._dispatching:
                self._ended.clear()
        if result is None:
            # Two calls may be answered with the same job.
            job = self._jobs.setdefault(path, _Job(unit, starts, asyncio.get_running_loop().create_future()))
            done, _ = await asyncio.wait({job.ended}, timeout=timeout)
            if not done:
                raise JobFailed(unit, "unfinished")
            if job.ended.cancelled():
                raise HostFailure(f"the connection to systemd was closed while a job for {unit} was waited for")
            result = job.ended.result()
        if result != "done":
            raise JobFailed(unit, result)

    # -- state --------------------------------------------------------------------------------------------------------

    async def unit(self, name: str) -> UnitStatus | None:
        """The unit's state, or None if it is not loaded (a transient unit that is gone). Raises HostFailure."""
        try:
            # Asking for the properties of an unknown unit would make the manager load it, and say so to all watchers.
            await self._manager("GetUnit", "s", name)
            found = await self._properties(name)
        except Refused as refusal:
            if refusal.name == NO_SUCH_UNIT:
                return None
            raise dbus.unanswered(refusal, f"state of {name}") from refusal
        status = units.status(found)
        return None if status.load_state == "not-found" and status.active_state == "inactive" else status

    async def list_units(self, *patterns: str) -> tuple[UnitStatus, ...]:
        """The loaded units that match any of the shell patterns, by name. Raises HostFailure."""
        names = await self._names(*patterns)
        found = [await self.unit(name) for name in names]
        return tuple(status for status in found if status is not None)

    async def stopping(self) -> bool:
        """Whether the machine, or the user's session, is going down. Raises HostFailure."""
        try:
            ((_, state),) = await self._send(
                lambda: dbus.message(self._bus, SYSTEMD, MANAGER_PATH, PROPERTIES, "Get", "ss", MANAGER, "SystemState")
            )
        except Refused as refusal:
            raise dbus.unanswered(refusal, "state of the system") from refusal
        return bool(state == "stopping")

    def watch(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Calls `callback(unit)` soon after any `aither-*` unit appears, changes or goes away.

        Changes that come in together are told once. Returns the function that ends the watch.
        """
        self._watchers.append(callback)

        def unwatch() -> None:
            if callback in self._watchers:
                self._watchers.remove(callback)

        return unwatch

    async def _names(self, *patterns: str) -> list[str]:
        try:
            (rows,) = await self._manager("ListUnitsByPatterns", "asas", [], list(patterns))
        except Refused as refusal:
            raise dbus.unanswered(refusal, "list of units") from refusal
        return sorted(row[0] for row in rows)

    async def _properties(self, unit: str) -> dict[str, Variant]:
        """Every property of every interface of the unit, in one call."""
        path = encode_object_path(UNITS, unit)
        (found,) = await self._send(lambda: dbus.message(self._bus, SYSTEMD, path, PROPERTIES, "GetAll", "s", ""))
        assert isinstance(found, dict)
        return found

    async def _types(self, unit: str) -> dict[str, str]:
        try:
            return {name: signature for name, (signature, _) in (await self._properties(unit)).items()}
        except Refused:
            return {}

    # -- calls --------------------------------------------------------------------------------------------------------

    def _manager(self, member: str, signature: str = "", *arguments: Any) -> Awaitable[tuple[Any, ...]]:
        bus = self._bus
        return self._send(lambda: dbus.message(bus, SYSTEMD, MANAGER_PATH, MANAGER, member, signature, *arguments))

    def _transient(self, unit: str, properties: Sequence[Property]) -> SdBusMessage:
        call = dbus.message(self._bus, SYSTEMD, MANAGER_PATH, MANAGER, "StartTransientUnit")
        call.append_data("ss", unit, "fail")
        units.append_properties(call, unit, properties)
        call.append_data("a(sa(sv))", [])
        return call

    async def _send(self, call: Callable[[], SdBusMessage]) -> tuple[Any, ...]:
        """Sends `call()`. Raises Refused.

        A manager that re-executes itself leaves the bus and reads nothing that was sent to it meanwhile: what it did
        not answer for that reason is sent again when it is back.
        """
        owner = self._owner
        try:
            return await dbus.send(self._bus, call())
        except Refused as refusal:
            if refusal.name not in UNREAD or not await self._came_back(owner):
                raise
        return await dbus.send(self._bus, call())

    async def _came_back(self, owner: str) -> bool:
        """Whether the manager has left the address `owner` and taken another, within RETURN_TIMEOUT."""
        deadline = asyncio.get_running_loop().time() + RETURN_TIMEOUT
        while self._owner != owner:
            if self._owner:
                return True
            self._moved.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._moved.wait()
            except TimeoutError:
                return False
        return False

    # -- signals ------------------------------------------------------------------------------------------------------

    async def _match(
        self, sender: str, path: str | None, interface: str, member: str, callback: Callable[[SdBusMessage], None]
    ) -> None:
        try:
            self._slots.append(await self._bus.match_signal_async(sender, path, interface, member, callback))
        except SdBusBaseError as error:
            raise Refused(dbus.DISCONNECTED, str(error)) from error

    async def _subscribe(self) -> None:
        try:
            await self._manager("Subscribe")
        except Refused as refusal:
            if refusal.name != ALREADY_SUBSCRIBED:
                raise

    def _genuine(self, signal: SdBusMessage) -> bool:
        """Whether the manager sent it. The broker filters what is broadcast, not what is sent to us alone."""
        return signal.sender == self._owner

    def _on_job(self, signal: SdBusMessage) -> None:
        if not self._genuine(signal):
            return
        _, path, _, result = signal.parse_to_tuple()
        job = self._jobs.pop(path, None)
        if job is not None:
            job.ended.set_result(result)
        elif self._dispatching:
            self._ended[path] = result

    def _on_unit(self, signal: SdBusMessage) -> None:
        if self._genuine(signal):
            name, _ = signal.parse_to_tuple()
            if name.startswith(WATCHED):
                self._tell(name)

    def _on_properties(self, signal: SdBusMessage) -> None:
        if signal.path is not None and signal.path.startswith(WATCHED_PATH) and self._genuine(signal):
            self._tell(decode_object_path(UNITS, signal.path))

    def _tell(self, unit: str) -> None:
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._tell_all)
        self._changed.add(unit)

    def _tell_all(self) -> None:
        changed, self._changed = self._changed, set()
        for unit in sorted(changed):
            for callback in tuple(self._watchers):
                callback(unit)

    def _on_owner(self, signal: SdBusMessage) -> None:
        if signal.sender != BROKER:
            return
        name, _, owner = signal.parse_to_tuple()
        if name == SYSTEMD:
            self._owner = owner
            self._moved.set()
            if owner and (self._resuming is None or self._resuming.done()):
                self._resuming = asyncio.get_running_loop().create_task(self._resume())

    async def _resume(self) -> None:
        """After the manager came back under another address (daemon-reexec): subscribes again, catches up."""
        try:
            await self._subscribe()
            await self._settle_jobs()
            for name in await self._names(f"{WATCHED}*"):
                self._tell(name)
        except (Refused, HostFailure) as error:
            # Waits for jobs still end by their timeouts, and the next change of owner tries again.
            structlog.get_logger("aitherd.systemd").error(f"the systemd manager came back but did not answer: {error}")

    async def _settle_jobs(self) -> None:
        """Ends the waits for jobs that are over, whose signal was missed."""
        for path, job in tuple(self._jobs.items()):
            try:
                await dbus.ask(self._bus, SYSTEMD, path, PROPERTIES, "GetAll", "s", "")
            except Refused:
                status = await self.unit(job.unit)
                up = status is not None and status.active_state in UP
                if not job.ended.done():
                    self._jobs.pop(path, None)
                    job.ended.set_result("done" if up == job.starts else "failed")


@dataclass(frozen=True, slots=True)
class _Job:
    unit: str
    starts: bool
    """Whether it is to bring the unit up; down otherwise."""
    ended: asyncio.Future[str]
