"""The control groups of a bed: made where this process may, filled, and taken down with everything in them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.testbed.errors import ManagerUnavailable

PREFIX = "aithertestbed-"
KILL_TIMEOUT_S = 10.0
POLL_S = 0.005


def own_groups() -> Iterator[Path]:
    """This process's folders in the hierarchies that systemd uses: the unified one and, on hybrid machines, v1's."""
    paths = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
        controller = "" if kind == "cgroup2" else "name=systemd" if "name=systemd" in options else None
        if controller in paths:
            mount = Path(fields[4])
            inner = mount / paths[controller].strip("/")
            yield inner if inner.is_dir() else mount


def make(*, delegated: bool, is_keeper: Callable[[str], bool]) -> list[Path]:
    """Makes the bed's control group: one folder a hierarchy, named after this process.

    With `delegated` it is the group that this process is in; else a new one below it is made, and those of others for
    whose PID `is_keeper` is false are removed.
    """
    groups = []
    for own in own_groups():
        if delegated:
            group = own
        else:
            for old in own.glob(f"{PREFIX}*.slice"):
                if not is_keeper(old.name.removeprefix(PREFIX).removesuffix(".slice")):
                    clear(old)
            group = own / f"{PREFIX}{os.getpid()}.slice"
            try:
                group.mkdir()
            except PermissionError as problem:
                raise ManagerUnavailable(
                    f"{problem}; where systemd does not run, only root can make a control group"
                ) from None
        groups.append(group)
    if not groups:
        raise ManagerUnavailable("no control group hierarchy that systemd could use is mounted")
    return groups


def join(groups: list[Path], name: str = "") -> None:
    """Moves this process into the groups' child `name`, made if missing."""
    for group in groups:
        target = group / name
        target.mkdir(parents=True, exist_ok=True)
        (target / "cgroup.procs").write_text(str(os.getpid()))


def delegate(group: Path, uid: int) -> None:
    """Lets the manager set limits where the hierarchy offers them; where it does not, they have no effect."""
    for folder in (group, group / "user.slice", group / "user.slice" / f"user-{uid}.slice"):
        with contextlib.suppress(OSError):
            for controller in (folder / "cgroup.controllers").read_text().split():
                with contextlib.suppress(OSError):
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def clear(group: Path) -> None:
    """Kills what is in the group and removes it, with everything below; waits at most KILL_TIMEOUT_S."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while group.exists() and time.monotonic() < deadline:
        folders = sorted((folder for folder in (group, *group.rglob("*")) if folder.is_dir()), reverse=True)
        for folder in folders:
            with contextlib.suppress(OSError):
                for pid in (folder / "cgroup.procs").read_text().split():
                    if int(pid) != os.getpid():
                        os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                folder.rmdir()
        reap()
        if _holds(group, os.getpid()):
            return
        time.sleep(POLL_S)


def _holds(group: Path, pid: int) -> bool:
    """Whether `pid` is in the group or below it, which then cannot be removed by that process."""
    with contextlib.suppress(OSError):
        return any(str(pid) in procs.read_text().split() for procs in group.rglob("cgroup.procs"))
    return False


def reap() -> None:
    """Collects every child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
