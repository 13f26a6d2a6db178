"""Host memory: the machine's from /proc, a control group's from its files. Nothing is kept, and nothing decided.

Files: proc(5); Documentation/admin-guide/cgroup-v2.rst of the Linux sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aitherd.core.readahead import Pressure
from aitherd.core.words import Bytes

PRESSURE = Path("/proc/pressure")
MEMINFO = Path("/proc/meminfo")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class HostMemory:
    """The machine's memory."""

    total: Bytes
    available: Bytes
    """What can be claimed without swapping (MemAvailable)."""
    budget: Bytes | None = None
    """What a control group may still take below its limits, file pages that can be dropped included; None without."""
    stalled: float = 0.0
    """Part of the last ten seconds, 0 to 1, in which somebody in the group, or anybody, waited for memory (PSI)."""


def host_memory(group: str = "", root: Path = CGROUPS) -> HostMemory:
    """The machine's memory now, and what is left of it for the control group `group` (`/aither.slice`).

    Without that group, its limits, or a kernel that tells of pressure, they do not matter. Raises OSError, or KeyError
    before Linux 3.14.
    """
    fields = {}
    for line in MEMINFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            fields[name] = int(value.split()[0]) * 1024
    stalled = _stalled(PRESSURE / "memory")
    if not group.strip("/"):
        return HostMemory(fields["MemTotal"], fields["MemAvailable"], None, stalled)
    own = root / group.lstrip("/")
    return HostMemory(
        fields["MemTotal"], fields["MemAvailable"], _budget(own), max(stalled, _stalled(own / "memory.pressure"))
    )


def host_pressure() -> Pressure | None:
    """How much the machine's tasks wait for memory and for disks now; None where the kernel does not tell.

    It does not without CONFIG_PSI, or with psi=0. (Linux, Documentation/accounting/psi.rst)
    """
    memory, io = (_some_avg10(PRESSURE / name) for name in ("memory", "io"))
    return None if memory is None or io is None else Pressure(memory, io)


def _some_avg10(path: Path) -> float | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith("some avg10="):
                return float(line.split()[1].removeprefix("avg10="))
    except (OSError, ValueError):
        return None
    return None


def _budget(group: Path) -> Bytes | None:
    """What a group may still take before the kernel slows it down, or kills in it."""
    current = _number(group / "memory.current")
    limits = [limit for name in ("memory.high", "memory.max") if (limit := _number(group / name)) is not None]
    if current is None or not limits:
        return None
    pages = _events(group / "memory.stat")
    return max(min(limits) - current + pages.get("active_file", 0) + pages.get("inactive_file", 0), 0)


def _stalled(path: Path) -> float:
    """The same as a part of the time; nothing where the kernel does not tell."""
    return (_some_avg10(path) or 0.0) / 100


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _events(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {name: int(count) for name, count in (line.split() for line in lines)}
