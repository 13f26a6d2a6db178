"""Units as values, and the ways in which the manager refuses them. Nothing here talks to a bus: `systemd.py` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from sdbus.exceptions import SdBusLibraryError
from sdbus.sd_bus_internals import SdBusMessage

from aitherd.core.words import Seconds
from aitherd.errors import HostFailure
from aitherd.host.dbus import Refused, unanswered

Variant: TypeAlias = tuple[str, object]
"""A D-Bus signature and a value that fits it."""
Property: TypeAlias = tuple[str, Variant]

UNIT_EXISTS = "org.freedesktop.systemd1.UnitExists"
BAD_SETTING = "org.freedesktop.systemd1.BadUnitSetting"
WRONG_TYPE = "System.Error.ENXIO"
BAD_VALUE = frozenset(
    {
        "org.freedesktop.DBus.Error.InvalidArgs",
        "org.freedesktop.DBus.Error.PropertyReadOnly",
        "org.freedesktop.DBus.Error.UnknownProperty",
        "System.Error.EINVAL",
        "System.Error.ERANGE",
    }
)


class UnitExists(HostFailure):
    """A transient unit cannot be made: the name is taken, by a unit that runs or by a failed one not yet reset."""

    def __init__(self, unit: str) -> None:
        super().__init__(f"{unit} exists already", remedy=f"stop it, or `systemctl reset-failed {unit}`")
        self.unit = unit


class JobFailed(HostFailure):
    """A job ended otherwise than done.

    `result` is systemd's word for it (`canceled, timeout, failed, dependency, skipped, collected`…), or `unfinished`
    when the wait ran out and the job is still queued.
    """

    def __init__(self, unit: str, result: str) -> None:
        super().__init__(f"the job for {unit} ended as {result}", remedy=f"see `systemctl status {unit}`")
        self.unit = unit
        self.result = result


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """One unit as the manager knew it at an instant. What a kind of unit does not have is 0 or empty."""

    name: str
    load_state: str
    active_state: str
    """`active, reloading, inactive, failed, activating, deactivating`…"""
    sub_state: str
    result: str
    """Of a service: `success`, or why it failed: `exit-code, signal, core-dump, timeout, oom-kill, watchdog`…"""
    exec_main_code: int
    """How the main process ended, as in waitid(2): 1 exited, 2 killed, 3 dumped; 0 while it runs."""
    exec_main_status: int
    """Its exit status, or the signal's number."""
    main_pid: int
    invocation_id: str
    """32 hex digits; empty when it never ran."""
    control_group: str
    """Path below the cgroup root; empty when there is none."""
    log_extra_fields: Mapping[str, str]
    """LogExtraFields as its creator set them."""
    active_enter_monotonic: Seconds
    """Monotonic instant at which it last became active; 0 if never."""


def status(found: Mapping[str, tuple[str, Any]]) -> UnitStatus:
    """A UnitStatus from the properties of all the unit's interfaces."""

    def value(name: str, default: Any) -> Any:
        return found[name][1] if name in found else default

    entries = (bytes(entry).decode(errors="replace").partition("=") for entry in value("LogExtraFields", []))
    return UnitStatus(
        name=value("Id", ""),
        load_state=value("LoadState", ""),
        active_state=value("ActiveState", ""),
        sub_state=value("SubState", ""),
        result=value("Result", ""),
        exec_main_code=value("ExecMainCode", 0),
        exec_main_status=value("ExecMainStatus", 0),
        main_pid=value("MainPID", 0),
        invocation_id=bytes(value("InvocationID", b"")).hex(),
        control_group=value("ControlGroup", ""),
        log_extra_fields=MappingProxyType({key: text for key, _, text in entries}),
        active_enter_monotonic=value("ActiveEnterTimestampMonotonic", 0) / 1_000_000,
    )


def bad_property(unit: str, name: str, why: str) -> HostFailure:
    """Says which property of a transient unit is at fault."""
    return HostFailure(
        f"systemd does not take {name} for {unit} ({why})",
        remedy="mend [resources] or [service] in the model's file; what the properties mean is in "
        "systemd.resource-control(5) and systemd.exec(5) of this machine's systemd",
    )


def append_properties(call: SdBusMessage, unit: str, properties: Sequence[Property]) -> None:
    """Appends properties to a call as the manager takes them. Raises HostFailure that names one that cannot be sent."""
    call.open_container("a", "(sv)")
    for name, (signature, value) in properties:
        try:
            call.open_container("r", "sv")
            call.append_data("s", name)
            call.open_container("v", signature)
            call.append_data(signature, value)
        except (TypeError, ValueError, OverflowError, SdBusLibraryError) as error:
            raise bad_property(unit, name, f"{value!r} is not of D-Bus type {signature} ({error})") from error
        call.close_container()
        call.close_container()
    call.close_container()


def why_not(unit: str, properties: Sequence[Property], refusal: Refused, types: Mapping[str, str]) -> HostFailure:
    """What a refused StartTransientUnit means. `types` are the signatures that the manager reads properties as."""
    if refusal.name == UNIT_EXISTS:
        return UnitExists(unit)
    if refusal.name == WRONG_TYPE:
        # The manager does not say which one. Most properties are written as the type they are read as, but not Exec….
        wrong = [
            name
            for name, (signature, _) in properties
            if types.get(name, signature) != signature and not name.startswith("Exec")
        ]
        return bad_property(unit, ", ".join(wrong) or "one of its properties", refusal.message)
    if refusal.name == BAD_SETTING:
        return bad_property(unit, "its properties together", "the manager's own journal lines say why")
    if refusal.name in BAD_VALUE:
        named = [name for name, _ in properties if name in refusal.message]
        return bad_property(unit, max(named, key=len, default="one of its properties"), refusal.message)
    return unanswered(refusal, f"start of {unit}")
