"""The program's errors as D-Bus errors: mapped here and nowhere else."""

from __future__ import annotations

from functools import cache

from sdbus import DbusFailedError

from aitherd.bus.names import ERROR
from aitherd.bus.values import text
from aitherd.errors import AitherError


def refusal(error: AitherError) -> DbusFailedError:
    """What a caller gets for `error`: `org.aitheros.Aither1.Error.…`, and message and remedy as one text."""
    said = f"{error.message}; {error.remedy}" if error.remedy else error.message
    return _kind(f"{ERROR}.{error.dbus_name}")(text(said))


@cache
def _kind(name: str) -> type[DbusFailedError]:
    """The exception that sdbus sends under `name`: it looks the name up by the exact class."""
    return type(name.rpartition(".")[2], (DbusFailedError,), {"dbus_error_name": name})
