"""Who may change what: asks polkit on the system bus. On a user's own bus everything is the user's own.

Reading is free and never asked for.
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Any

import structlog
from sdbus import DbusFailedError, SdBus, SdBusBaseError, SdBusUnmappedMessageError
from sdbus.sd_bus_internals import SdBusMessage

from aitherd.bus.names import BUS_NAME
from aitherd.core.words import Seconds
from aitherd.errors import NotAllowed

POLKIT = "org.freedesktop.PolicyKit1"
POLKIT_PATH = "/org/freedesktop/PolicyKit1/Authority"
POLKIT_INTERFACE = "org.freedesktop.PolicyKit1.Authority"
ALLOW_INTERACTION = 1
"""CheckAuthorization may ask a person for a password where an agent runs that can; without one it answers at once.

The caller's own wish (ALLOW_INTERACTIVE_AUTHORIZATION in the message) is not visible through sdbus.
"""
INTERACTION_TIMEOUT: Seconds = 120.0
"""A person has this long to type a password."""


class Action(StrEnum):
    """What is asked for, as the polkit actions `org.aitheros.Aither1.…` name it."""

    START = "start"
    """Start or hold a model."""
    STOP = "stop"
    """Stop or release a model."""
    LEASE = "lease"
    RELOAD = "reload"
    MANAGE = "manage"
    """Override the arbiter, such as ending requests in flight."""


class Authority:
    """Answers whether a caller may do something."""

    def __init__(self, bus: SdBus, *, user: bool) -> None:
        """`user`: `bus` is a session bus, on which nobody but the user and root can call."""
        self._bus = bus
        self._user = user
        self._log = structlog.get_logger("aitherd")

    async def check(self, sender: str, action: Action, model: str = "") -> None:
        """Returns if `sender` (a unique bus name) may do `action`. Raises NotAllowed otherwise."""
        if self._user:
            return
        what = f"{action} {model}".rstrip()
        try:
            # Root is asked for nothing, so that units work where polkit is not there (yet); nor is the daemon's own
            # user, who could do anything to it anyway.
            (uid,) = await self._ask(_to_broker("GetConnectionUnixUser", self._bus, sender))
            if uid in (0, os.geteuid()):
                return
            call = self._bus.new_method_call_message(POLKIT, POLKIT_PATH, POLKIT_INTERFACE, "CheckAuthorization")
            subject = ("system-bus-name", {"name": ("s", sender)})
            details = {"model": model} if model else {}
            call.append_data("(sa{sv})sa{ss}us", subject, f"{BUS_NAME}.{action}", details, ALLOW_INTERACTION, "")
            ((authorized, _, _),) = await self._ask(call)
        except (DbusFailedError, SdBusUnmappedMessageError) as error:
            self._log.error("a caller's authorization cannot be checked", caller=sender, action=what, error=str(error))
            raise NotAllowed(
                f"not allowed to {what}: polkit does not answer", remedy="see systemctl status polkit, or be root"
            ) from error
        if not authorized:
            self._log.info("a caller is not authorized", caller=sender, action=what, uid=uid)
            raise NotAllowed(
                f"not allowed to {what}",
                remedy=f"be root or in the group aither, or have a polkit rule grant {BUS_NAME}.{action}",
            )

    async def _ask(self, call: SdBusMessage) -> tuple[Any, ...]:
        # The time-out belongs to the connection; it counts for a call from the moment that it is sent.
        usual = self._bus.method_call_timeout_usec
        self._bus.method_call_timeout_usec = int(INTERACTION_TIMEOUT * 1_000_000)
        try:
            answer = self._bus.call_async(call)
        except SdBusBaseError as error:
            raise DbusFailedError(f"the connection to the bus is gone: {error}") from error
        finally:
            self._bus.method_call_timeout_usec = usual
        return (await answer).parse_to_tuple()


def _to_broker(member: str, bus: SdBus, name: str) -> SdBusMessage:
    call = bus.new_method_call_message("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", member)
    call.append_data("s", name)
    return call
