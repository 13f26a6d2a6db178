"""Where a request comes from: which process of this machine, and which web page. It decides what may be done.

Anybody who reaches the proxy may ask models and look; stopping them is for those who may use the Unix socket. Whose
requests they are, and what those are given, is not decided here.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import socket
import sys
from pathlib import Path

from aitherd.proxy.refusals import NotAllowed
from aitherd.proxy.wire import RequestHead

SOCKETS = Path("/proc/net")
SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_PORT = re.compile(r":[0-9]*$")


class Visitor:
    """The process at the other end of a connection."""

    __slots__ = ("_may_stop", "_transport", "remote")

    def __init__(self, transport: asyncio.BaseTransport, *, remote: bool) -> None:
        """`remote` says whether it came over TCP."""
        self.remote = remote
        self._transport = transport
        # On the Unix socket the file's permissions have let it in.
        self._may_stop: bool | None = None if remote else True

    async def may_stop(self) -> bool:
        """Whether it may stop models: root, the daemon's own user, and members of its group."""
        if self._may_stop is None:
            ends = [self._transport.get_extra_info(name) for name in ("peername", "sockname")]
            self._may_stop = all(ends) and await asyncio.to_thread(_trusted, ends[0][:2], ends[1][:2])
        return self._may_stop


class Hosts:
    """The names under which the proxy may be reached over TCP.

    A web page of somebody else can have its own name point here and would then be of the same origin as we are; an
    address cannot be made to do that.
    """

    def __init__(self, names: frozenset[str] = frozenset()) -> None:
        """`names` are allowed besides addresses, `localhost`, and the machine's own name."""
        own = socket.gethostname().lower()
        self._names = {"localhost", own, own.partition(".")[0], *(name.lower() for name in names)}
        self._fine: set[bytes] = set()
        """Those that were looked at; few, and bounded by the names above and by addresses of this machine."""

    def check(self, head: RequestHead, visitor: Visitor) -> None:
        """Refuses a request that a web page of somebody else may have caused. Raises NotAllowed."""
        if visitor.remote and head.host not in self._fine:
            self._know(head.host)
        origin = head.origin
        if origin and (head.method not in SAFE or head.upgrade) and origin.partition(b"://")[2] != head.host.lower():
            raise NotAllowed(
                "a web page of another origin may not do that", remedy="call without a browser, or from this page"
            )

    def _know(self, host: bytes) -> None:
        name = _PORT.sub("", host.decode("latin-1").lower()) if not host.endswith(b"]") else host.decode("latin-1")
        if host and name not in self._names and not name.endswith(".localhost") and not _is_address(name.strip("[]")):
            raise NotAllowed(
                f"{name!r} is not a name of this machine",
                remedy="use localhost or an address, or add the name to `hosts` in section [proxy] of aitherd.toml",
            )
        if len(self._fine) < 64:
            self._fine.add(host)


def _is_address(name: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in name else socket.AF_INET, name)
    except OSError:
        return False
    return True


def _trusted(client: tuple[str, int], server: tuple[str, int]) -> bool:
    """Whether the process on this machine that has the other end of a TCP connection is one of ours."""
    uid = _owner(client, server)
    if uid is None:
        return False
    if uid in (0, os.geteuid()):
        return True
    try:
        entry = pwd.getpwuid(uid)
        return os.getegid() in os.getgrouplist(entry.pw_name, entry.pw_gid)
    except (KeyError, OSError):
        return False


def _owner(client: tuple[str, int], server: tuple[str, int]) -> int | None:
    """The user that owns the client's socket, which must be one of this machine. (proc_net(5))"""
    family = socket.AF_INET6 if ":" in client[0] else socket.AF_INET
    wanted = [_as_the_kernel_writes(family, *end) for end in (client, server)]
    try:
        lines = (SOCKETS / ("tcp6" if family == socket.AF_INET6 else "tcp")).read_text().splitlines()
    except OSError:
        return None
    for line in lines[1:]:
        columns = line.split()
        if columns[1:3] == wanted:
            return int(columns[7])
    return None


def _as_the_kernel_writes(family: socket.AddressFamily, host: str, port: int) -> str:
    packed = socket.inet_pton(family, host)
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"
