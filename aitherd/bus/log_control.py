"""`org.freedesktop.LogControl1`: what `systemctl service-log-level` and `service-log-target` speak to.

Interface and values are those of org.freedesktop.LogControl1(5). What a level or a target means for our records is
decided where they are written; here they only pass through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog
from sdbus import DbusPropertyConstFlag, dbus_property_async
from sdbus.dbus_proxy_async_interface_base import DbusInterfaceBaseAsync

INTERFACE = "org.freedesktop.LogControl1"
PATH = "/org/freedesktop/LogControl1"


class LogControl(Protocol):
    """How the program's own log is set while it runs."""

    IDENTIFIER: str
    """SYSLOG_IDENTIFIER of its records."""

    def get_level(self) -> str:
        """The least that is written, as syslog(3) names it."""

    def set_level(self, level: str) -> None:
        """Raises ValueError for a level that there is not."""

    def get_target(self) -> str:
        """`journal` or `console`."""

    def set_target(self, target: str) -> None:
        """Raises ValueError for a target that there is not."""


# Of the bare base: the usual one would announce the value that was asked for, even if it was not taken.
class LogControlObject(DbusInterfaceBaseAsync, interface_name=INTERFACE):
    """The log as it is written now.

    The two properties that can be written lack DbusUnprivilegedFlag, so sd-bus itself refuses everybody but root and
    the daemon's own user. A value that there is not is left out with a warning: an exception here would reach the
    event loop, and its caller as a failure without a word.
    """

    def __init__(self, control: LogControl) -> None:
        super().__init__()
        self._control = control
        self._log = structlog.get_logger("aitherd")

    @dbus_property_async("s", property_name="LogLevel")
    def log_level(self) -> str:
        """The least that is written: `debug`, `info`, `warning`, `err`, or another of syslog's."""
        return self._control.get_level()

    @log_level.setter
    def set_log_level(self, level: str) -> None:
        """Lasts until the daemon ends or takes over a configuration."""
        self._set(self._control.set_level, level)

    @dbus_property_async("s", property_name="LogTarget")
    def log_target(self) -> str:
        """Where records go: `journal` or `console`."""
        return self._control.get_target()

    @log_target.setter
    def set_log_target(self, target: str) -> None:
        """Lasts until the daemon ends."""
        self._set(self._control.set_target, target)

    @dbus_property_async("s", flags=DbusPropertyConstFlag, property_name="SyslogIdentifier")
    def syslog_identifier(self) -> str:
        """SYSLOG_IDENTIFIER of its records."""
        return self._control.IDENTIFIER

    def _set(self, what: Callable[[str], None], value: str) -> None:
        try:
            what(value)
        except ValueError as error:
            self._log.warning(f"the log stays as it is: {error}")
