"""Host memory: the machine's from /proc, a control group's from its files. Nothing is kept."""

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


@dataclass(frozen=True, slots=True)
class GroupMemory:
    """A control group's memory. It counts cached file pages; device memory is not in it, also where they are one."""

    current: Bytes
    peak: Bytes | None
    """Highest ever; None before Linux 5.19."""
    oom_kills: int
    """Processes that the kernel killed in it because its limit, or the machine, was out of memory."""


def host_memory() -> HostMemory:
    """The machine's memory now. Raises OSError, or KeyError before Linux 3.14."""
    fields = {}
    for line in MEMINFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            fields[name] = int(value.split()[0]) * 1024
    return HostMemory(fields["MemTotal"], fields["MemAvailable"])


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


def group_memory(control_group: str, root: Path = CGROUPS) -> GroupMemory | None:
    """The memory of the control group (`/aither.slice/…`, as systemd names it).

    None when it is gone, has no memory controller, or the machine's controllers are on cgroup v1.
    """
    if not control_group.strip("/"):
        return None
    group = root / control_group.lstrip("/")
    current = _number(group / "memory.current")
    if current is None:
        return None
    return GroupMemory(current, _number(group / "memory.peak"), _events(group / "memory.events").get("oom_kill", 0))


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
