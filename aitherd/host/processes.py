"""What /proc says about a process: its control group, its name, its parent. Whose process it is, the ledger knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


def cgroup_of(pid: int, proc: Path = PROC) -> str:
    """Path of the control group that systemd keeps the process in, as in a unit's ControlGroup.

    Empty when the process is gone or hidden. On machines with cgroup v1 that is the `name=systemd` hierarchy: the v2
    line is there too, but says `/` where systemd does not use it. (cgroups(7))
    """
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return ""
    paths = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path
    return paths.get("name=systemd", paths.get("", ""))


def name_of(pid: int, proc: Path = PROC) -> str:
    """The process's name for people, cut off by the kernel after 15 bytes; empty when it is gone.

    Not from its command line: reading that waits for a process that hangs in a driver.
    """
    try:
        return (proc / str(pid) / "comm").read_text(errors="replace").removesuffix("\n")
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a process comes from. With `started` a PID means one process for ever."""

    parent: int
    """PID; 0 for one that has none in this namespace."""
    started: int
    """Clock ticks since boot."""


def origin_of(pid: int, proc: Path = PROC) -> Origin | None:
    """None when the process has ended, be it waited for or not, or is hidden. (proc_pid_stat(5))"""
    try:
        text = (proc / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name, in parentheses, may have parentheses and blanks of its own.
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return Origin(parent=int(fields[1]), started=int(fields[19]))
