"""What the daemon tells the service manager that started it, and the sockets and deadlines that it was given.

The protocol of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3). Started by hand, all of it does nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from array import array
from collections.abc import Sequence

from aitherd.core.words import Seconds

FIRST_DESCRIPTOR = 3


def ready(status: str = "") -> None:
    """The daemon serves: after its start, and after `reloading`."""
    _send("READY=1", *_status(status))


def status(text: str) -> None:
    """One line for `systemctl status`."""
    _send(*_status(text))


def reloading(text: str = "") -> None:
    """The configuration is read again; `ready` ends it."""
    _send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}", *_status(text))


def stopping(text: str = "") -> None:
    """The daemon is going away."""
    _send("STOPPING=1", *_status(text))


def keep(name: str, descriptor: int) -> None:
    """Has the manager keep a copy of `descriptor`: a daemon that comes back finds it in `listen_sockets` under `name`.

    `name` is at most 255 printable ASCII characters without a colon. The manager lets go of a descriptor whose other
    end is closed. (FDSTORE in sd_notify(3))
    """
    _send("FDSTORE=1", f"FDNAME={name}", descriptors=(descriptor,))


def let_go(name: str) -> None:
    """Has the manager close what it keeps under `name`. (FDSTOREREMOVE in sd_notify(3))"""
    _send("FDSTOREREMOVE=1", f"FDNAME={name}")


def watchdog() -> None:
    """The daemon's loop turns."""
    _send("WATCHDOG=1")


def watchdog_interval() -> Seconds | None:
    """How often `watchdog` must be called, half of what the unit allows; None when nobody watches."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1_000_000 / 2


def listen_sockets() -> dict[str, list[socket.socket]]:
    """The sockets that were passed in, by FileDescriptorName or the name given to `keep`; the caller owns them.

    To be asked once: the variables are removed, so that no child takes the sockets for its own.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {}
    if pid != str(os.getpid()) or not count.isdecimal():
        return found
    for index in range(int(count)):
        passed = socket.socket(fileno=FIRST_DESCRIPTOR + index)
        passed.set_inheritable(False)
        found.setdefault(names[index] if index < len(names) else "unknown", []).append(passed)
    return found


def _status(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())}"] if text else []


def _send(*fields: str, descriptors: Sequence[int] = ()) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not fields or address[:1] not in ("/", "@"):
        return
    # A manager that does not listen just now is no reason to stop serving, nor to wait.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out, contextlib.suppress(OSError):
        path = f"\0{address[1:]}" if address[0] == "@" else address
        # The control message as socket.send_fds has it: that takes no address. unix(7)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        out.sendmsg(["\n".join(fields).encode()], rights, socket.MSG_DONTWAIT, path)
