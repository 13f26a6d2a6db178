"""Where structured records go: to the journal with their fields, or as lines to stderr when it is not a journal's.

The journal's native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/) over structlog. Which records there are is
not decided here. Loggers are to be had by `structlog.get_logger(NAME)` and not bound, so that a new level reaches them.
"""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import structlog
from structlog.typing import EventDict, WrappedLogger

IDENTIFIER = "aitherd"
JOURNAL = Path("/run/systemd/journal/socket")

PRIORITIES = MappingProxyType({"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7})
"""structlog's levels as syslog's. (syslog(3))"""
LEVELS = MappingProxyType(
    {
        "emerg": "critical",
        "alert": "critical",
        "crit": "critical",
        "critical": "critical",
        "err": "error",
        "error": "error",
        "warning": "warning",
        "notice": "info",
        "info": "info",
        "debug": "debug",
    }
)
"""Names of levels, syslog's (as `systemctl service-log-level` has them) and structlog's."""
SYSLOG_NAMES = MappingProxyType({"critical": "crit", "error": "err"})
"""What syslog calls the levels that structlog calls otherwise."""

FIELD_LENGTH = 64
NOT_IN_FIELDS = re.compile(r"[^A-Z0-9_]+")
RESERVED = frozenset({"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"})


_level = "info"
_target = "console"


def setup(level: str = "info") -> None:
    """Sends records of `level` and above to the journal if stderr is connected to it, else as lines to stderr.

    Raises ValueError for a name that is not in LEVELS.
    """
    set_target("journal" if under_journal() else "console")
    set_level(level)


def set_level(level: str) -> None:
    """From now on records below `level` are dropped. Raises ValueError for a name that is not in LEVELS."""
    global _level  # noqa: PLW0603 - structlog's configuration, which it goes with, is global
    if level not in LEVELS:
        raise ValueError(f"{level!r} is not a log level; there are {', '.join(LEVELS)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]))
    _level = SYSLOG_NAMES.get(level, level)


def get_level() -> str:
    """The level as it was set last, as syslog(3) names it."""
    return _level


def set_target(target: str) -> None:
    """From now on records go to the journal with their fields (`journal`), or as lines to stderr (`console`).

    Raises ValueError for anything else. (org.freedesktop.LogControl1(5))
    """
    global _target  # noqa: PLW0603 - as above
    if target not in ("journal", "console"):
        raise ValueError(f"{target!r} is not where records can go; there are journal and console")
    write = Journal().write if target == "journal" else write_line
    # The last processor writes: nothing is left to do for structlog's own loggers.
    structlog.configure(
        processors=[structlog.processors.format_exc_info, write],
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    _target = target


def get_target() -> str:
    """Where records go."""
    return _target


def under_journal() -> bool:
    """Whether stderr is a stream to the journal, by JOURNAL_STREAM. (systemd.exec(5))"""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def write_line(logger: WrappedLogger, level: str, record: EventDict) -> NoReturn:
    """Writes `12:34:56 warning: message (field=value, …)` to stderr, a traceback below it."""
    sys.stderr.write(_line(level, record))
    raise structlog.DropEvent


class Journal:
    """Records as journal entries. Never blocks and never raises: what a full journal does not take is dropped."""

    def __init__(self, path: Path = JOURNAL) -> None:
        self._path = os.fspath(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def close(self) -> None:
        """Closes the connection; nothing is lost."""
        self._socket.close()

    def write(self, logger: WrappedLogger, level: str, record: EventDict) -> NoReturn:
        """Sends a record."""
        entry = b"".join(_encoded(_fields(level, record)))
        try:
            self._send(entry)
        except BlockingIOError:
            # stderr is a stream to the same journal, and would hold up the daemon.
            raise structlog.DropEvent from None
        except OSError:
            sys.stderr.write(_line(level, record))
        raise structlog.DropEvent

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_file(entry)

    def _send_file(self, entry: bytes) -> None:
        """An entry too large for a datagram goes in a sealed memory file."""
        descriptor = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(descriptor, "wb") as file:
            file.write(entry)
            file.flush()
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
            self._socket.sendmsg([], [rights], 0, self._path)


def _line(level: str, record: Mapping[str, Any]) -> str:
    fields = ", ".join(f"{key}={_text(value)}" for key, value in record.items() if key not in ("event", "exception"))
    time = datetime.now(UTC).astimezone()
    line = f"{time:%H:%M:%S} {level}: {record['event']}{f' ({fields})' if fields else ''}\n"
    return f"{line}{record['exception']}\n" if "exception" in record else line


def _fields(level: str, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The journal fields of a record: names in capitals, values as text, collections as JSON."""
    yield "MESSAGE", f"{record['event']}\n{record['exception']}" if "exception" in record else str(record["event"])
    yield "PRIORITY", str(PRIORITIES.get(level, PRIORITIES["info"]))
    yield "SYSLOG_IDENTIFIER", IDENTIFIER
    for key, value in record.items():
        if key in ("event", "exception"):
            continue
        name = NOT_IN_FIELDS.sub("_", key.upper()).strip("_")
        if name in RESERVED or not name or name[0].isdigit():
            name = f"AITHER_{name}"
        yield name[:FIELD_LENGTH], _text(value)


def _encoded(fields: Iterator[tuple[str, str]]) -> Iterator[bytes]:
    """A value with a newline in it is preceded by its length, any other ends with one."""
    for name, value in fields:
        data = value.encode(errors="replace")
        if b"\n" in data:
            yield name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
        else:
            yield name.encode() + b"=" + data + b"\n"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps({str(key): inner for key, inner in value.items()}, default=str)
    return json.dumps(list(value), default=str) if isinstance(value, list | tuple | set | frozenset) else str(value)
