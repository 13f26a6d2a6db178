"""One call on a bus, and what a refusal means to a person. No proxies: the interfaces used are small and fixed.

Calls raise `Refused` with the D-Bus error as it came; who knows what the call was for turns it into one of the
program's errors, with `unanswered` for the refusals that mean the same everywhere.
"""

from __future__ import annotations

from typing import Any

import structlog
from sdbus import SdBus
from sdbus.exceptions import DbusFailedError, SdBusBaseError, SdBusLibraryError, SdBusUnmappedMessageError
from sdbus.sd_bus_internals import SdBusMessage

from aitherd.errors import HostFailure

ACCESS_DENIED = frozenset(
    {
        "org.freedesktop.DBus.Error.AccessDenied",
        "org.freedesktop.DBus.Error.AuthFailed",
        "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
        "System.Error.EACCES",
        "System.Error.EPERM",
    }
)
NO_ANSWER = frozenset(
    {
        "org.freedesktop.DBus.Error.NoReply",
        "org.freedesktop.DBus.Error.Timeout",
        "org.freedesktop.DBus.Error.TimedOut",
        "System.Error.ETIMEDOUT",
    }
)
ABSENT = frozenset({"org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner"})
DISCONNECTED = "org.freedesktop.DBus.Error.Disconnected"


class Refused(Exception):
    """The other side, the broker or the connection answered with an error."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        """D-Bus error name."""
        self.message = message


def unanswered(refusal: Refused, what: str) -> HostFailure:
    """`refusal` as a HostFailure; `what` names the attempt (`start of aither-vision-engine.service`)."""
    if refusal.name in ACCESS_DENIED:
        return HostFailure(
            f"{what} was not allowed ({refusal.message})",
            remedy="the daemon's user needs org.freedesktop.systemd1.manage-units for aither-* units: "
            "install aitherd's polkit rule, or run as the user whose systemd manager is used",
        )
    if refusal.name in NO_ANSWER:
        return HostFailure(
            f"{what}: no answer in time", remedy="see `systemctl status` for what the manager is busy with"
        )
    if refusal.name in ABSENT:
        return HostFailure(
            f"{what}: nobody answers to that name on this bus ({refusal.message})",
            remedy="systemd must be on the bus; in per-user mode that takes dbus.service of the user's own manager",
        )
    if refusal.name == DISCONNECTED:
        return HostFailure(f"{what}: the connection to the bus is gone", remedy="restart aitherd once the bus is back")
    return HostFailure(f"{what} failed: {refusal.message}", remedy=f"the bus error was {refusal.name}")


def message(
    bus: SdBus, destination: str, path: str, interface: str, member: str, signature: str = "", *arguments: Any
) -> SdBusMessage:
    """A method call with `arguments` of `signature`. Raises Refused when the connection is closed."""
    try:
        call = bus.new_method_call_message(destination, path, interface, member)
    except SdBusLibraryError as error:
        raise Refused(DISCONNECTED, str(error)) from error
    if signature:
        call.append_data(signature, *arguments)
    return call


async def send(bus: SdBus, call: SdBusMessage) -> tuple[Any, ...]:
    """The reply's arguments, always as a tuple. Raises Refused. At level debug each call is logged, without values."""
    structlog.get_logger("aitherd").debug(f"calls {call.member} of {call.destination}", object=call.path)
    try:
        reply = await bus.call_async(call)
    except SdBusUnmappedMessageError as error:
        name, text = error.args
        raise Refused(name, text) from error
    except DbusFailedError as error:
        raise Refused(error.dbus_error_name, str(error)) from error
    except SdBusBaseError as error:
        raise Refused(DISCONNECTED, str(error)) from error
    return reply.parse_to_tuple()


async def ask(
    bus: SdBus, destination: str, path: str, interface: str, member: str, signature: str = "", *arguments: Any
) -> tuple[Any, ...]:
    """Calls a method and returns the reply's arguments. Raises Refused."""
    return await send(bus, message(bus, destination, path, interface, member, signature, *arguments))
