"""Holds one private service manager: starts it in namespaces of its own and takes everything down when its input ends.

A program, not a module: `UserManager` starts it, writes one line of JSON to it and keeps its input open. The end of
that input, however the test run ends, is the order to clean up. Standard library only: it also runs inside guests.

The manager becomes an ordinary user's, whoever runs the tests: a user namespace maps root to `USER_ID`, so that the
journal has a file of the user's own and nothing is privileged by accident. `/run` and `/var/log` are the bed's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

USER_ID = 1000
"""Who root is inside; above the range of system users, whose records the journal would not keep apart."""

CGROUP_PREFIX = "aithertestbed-"
HOME_PREFIX = "aither-"
KEEPER_PID = "keeper.pid"
MACHINE_ID = "a17ebed0a17ebed0a17ebed0a17ebed0"
START_TIMEOUT_S = 30.0
JOURNAL_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 10.0
POLL_S = 0.005

SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
JOURNALD = ("/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald")

JOURNAL_STREAM = Path("/run/systemd/journal/stdout")

JOURNALD_CONF = """[Journal]
Storage=persistent
SyncIntervalSec=1h
RateLimitIntervalSec=0
SystemMaxUse=256M
ForwardToSyslog=no
ForwardToWall=no
ReadKMsg=no
Audit=no
Seal=no
"""

# <linux/sched.h>, <sys/mount.h>, <sys/prctl.h>
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUSER = 0x00020000, 0x02000000, 0x10000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Runs until the input ends. Writes one line of JSON: what runs where, or `{"problem": …}`."""
    order = json.loads(sys.stdin.readline())
    home = Path(order["home"])
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "become the parent of orphans")
    remove_left_homes(home.parent)
    (home / KEEPER_PID).write_text(str(os.getpid()))
    groups: list[Path] = []
    status = 0
    try:
        groups = bed_groups(delegated=order["delegated"])
        started = _start(home, groups, order["environment"])
        print(json.dumps(started), flush=True)
        sys.stdin.read()
    except (OSError, Unavailable) as problem:
        print(json.dumps({"problem": str(problem)}), flush=True)
        status = 1
    finally:
        end_children()
        for group in groups:
            clear_group(group)
        remove_home(home)
    return status


class Unavailable(Exception):
    """No private manager can be had on this machine; the text says why."""


def remove_left_homes(parent: Path) -> None:
    """Removes what keepers left that were killed themselves."""
    for pid in parent.glob(f"{HOME_PREFIX}*/{KEEPER_PID}"):
        with contextlib.suppress(OSError):
            if not _is_keeper(pid.read_text()):
                remove_home(pid.parent)


def remove_home(home: Path) -> None:
    """Removes a bed's folder, as far as it is there."""
    # systemd keeps folders there that nobody may write to or enter, their owner included.
    inaccessible = home / "run" / "systemd" / "inaccessible"
    for folder in (inaccessible, inaccessible / "dir"):
        with contextlib.suppress(OSError):
            folder.chmod(0o700)
    shutil.rmtree(home, ignore_errors=True)


# Control groups


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


def bed_groups(*, delegated: bool) -> list[Path]:
    """Makes this bed's control group, one folder a hierarchy, each with `keeper` and `user` inside.

    With `delegated` the group that this process is in is given to it; else a new one beside it is made, and groups
    that killed keepers left are removed.
    """
    groups = []
    for own in own_groups():
        if delegated:
            group = own
        else:
            for old in own.glob(f"{CGROUP_PREFIX}*.slice"):
                if not _is_keeper(old.name.removeprefix(CGROUP_PREFIX).removesuffix(".slice")):
                    clear_group(old)
            group = own / f"{CGROUP_PREFIX}{os.getpid()}.slice"
            try:
                group.mkdir()
            except PermissionError as problem:
                raise Unavailable(
                    f"{problem}; where systemd does not run, only root can make a control group"
                ) from None
        groups.append(group)
    if not groups:
        raise Unavailable("no control group hierarchy that systemd could use is mounted")
    return groups


def _is_keeper(pid: str) -> bool:
    try:
        return Path(__file__).name.encode() in Path(f"/proc/{int(pid)}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False


def join(groups: list[Path], name: str = "") -> None:
    """Moves this process into the groups' child `name`, made if missing."""
    for group in groups:
        target = group / name
        target.mkdir(parents=True, exist_ok=True)
        (target / "cgroup.procs").write_text(str(os.getpid()))


def delegate_controllers(group: Path, uid: int) -> None:
    """Lets the manager set limits where the hierarchy offers them; where it does not, they have no effect."""
    for folder in (group, group / "user.slice", group / "user.slice" / f"user-{uid}.slice"):
        with contextlib.suppress(OSError):
            for controller in (folder / "cgroup.controllers").read_text().split():
                with contextlib.suppress(OSError):
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def clear_group(group: Path) -> None:
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


# Processes


def reap() -> None:
    """Collects every child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


def end_children() -> None:
    """Kills every descendant: as the parent of all orphans below, this process is left with none."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while time.monotonic() < deadline:
        reap()
        pids = children.read_text().split()
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(POLL_S)


# The start


def _start(home: Path, groups: list[Path], environment: dict[str, str]) -> dict[str, object]:
    uid = os.geteuid() or USER_ID
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(home / "notify"))
        ready.settimeout(POLL_S)
        read, write = os.pipe()
        inside = Inside(home, groups, uid, environment, write)
        child = os.fork()
        if child == 0:
            os.close(read)
            inside.become_manager()
        os.close(write)
        with os.fdopen(read) as said:
            report = json.loads(said.read() or '{"problem": "the child that should become the manager died"}')
        if "problem" in report:
            raise Unavailable(report["problem"])
        if any(not group.name.startswith(CGROUP_PREFIX) for group in groups):
            join(groups, "keeper")
        for group in groups:
            delegate_controllers(group, uid)
        _await(ready, child, home)
    return {"pid": child, "journal": report["journal"], "uid": uid}


def _await(ready: socket.socket, manager: int, home: Path) -> None:
    """Waits for the manager's notification that its first transaction is done."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            if "READY=1" in ready.recv(4096).decode().splitlines():
                return
        if os.waitpid(manager, os.WNOHANG)[0]:
            break
    log = (home / "manager.log").read_text(errors="replace").strip()
    raise Unavailable(f"the private service manager did not come up: {log or 'it said nothing'}")


@dataclass(frozen=True)
class Inside:
    """The child that enters the namespaces, prepares them, and turns into the manager."""

    home: Path
    groups: list[Path]
    uid: int
    environment: dict[str, str]
    report: int

    def become_manager(self) -> None:
        """Never returns: becomes `systemd --user`, or reports the problem and exits."""
        try:
            _redirect(self.home / "manager.log")
            self._enter()
            self._furnish()
            journal = self._journal()
            # The journal reads the owner off the slice's name and the unit off what comes after `user@`.
            join(self.groups, f"user.slice/user-{self.uid}.slice/user@{self.uid}.service")
            manager = _find(SYSTEMD)
            target = "journal" if journal else "console"
            os.write(self.report, json.dumps({"journal": journal}).encode())
            os.close(self.report)
            # With the keeper goes its manager; what the manager ran is found by its control group.
            _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "die with the keeper")
            arguments = [manager, "--user", f"--log-target={target}"]
            os.execve(manager, arguments, {**self.environment, "NOTIFY_SOCKET": str(self.home / "notify")})
        except (OSError, Unavailable) as problem:
            os.write(self.report, json.dumps({"problem": str(problem)}).encode())
        finally:
            os._exit(1)

    def _enter(self) -> None:
        uid, gid = os.geteuid(), os.getegid()
        try:
            _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "make a user and a mount namespace")
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{self.uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid or USER_ID} {gid} 1")
            _mount("none", "/", flags=MS_REC | MS_PRIVATE)
            _mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        except OSError as problem:
            raise Unavailable(
                f"{problem}; allow user namespaces (sysctl user.max_user_namespaces, "
                "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns) or run as root"
            ) from problem

    def _furnish(self) -> None:
        """What a booted machine has: a mark that systemd runs, the user's directories, his name, no units of others."""
        for name in ("system", "journal", "journald.conf.d", "user-generators", "units"):
            Path("/run/systemd", name).mkdir(parents=True)
        # The journal finds the invocation of a user's unit only below this path.
        runtime = Path("/run/user", str(self.uid))
        for folder in (Path("/run/log"), Path("/run/lock"), runtime):
            folder.mkdir(parents=True)
        _mount(self.environment["XDG_RUNTIME_DIR"], runtime, flags=MS_BIND)
        _mount(self.home / "generators", "/run/systemd/user-generators", flags=MS_BIND)
        _mount("tmpfs", "/var/log", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        Path("/run/aither-machine-id").write_text(MACHINE_ID + "\n")
        _mount("/run/aither-machine-id", "/etc/machine-id", flags=MS_BIND)
        users = Path("/etc/passwd").read_text()
        if f":x:{self.uid}:" not in users:
            users += f"testbed:x:{self.uid}:{os.getegid()}::{self.environment['HOME']}:/bin/sh\n"
            Path("/run/aither-passwd").write_text(users)
            _mount("/run/aither-passwd", "/etc/passwd", flags=MS_BIND)
        empty = Path("/run/aither-empty")
        empty.mkdir()
        if Path("/etc/systemd/user").is_dir():
            _mount(empty, "/etc/systemd/user", flags=MS_BIND)

    def _journal(self) -> bool:
        """Starts the namespace's own journal; False when this machine has none or it does not come up."""
        with contextlib.suppress(Unavailable):
            program = _find(JOURNALD)
            Path("/run/systemd/journald.conf.d/testbed.conf").write_text(JOURNALD_CONF)
            # A flushed journal writes to /var, and only there does a user have a file of his own.
            Path("/run/systemd/journal/flushed").touch()
            Path("/var/log/journal", MACHINE_ID).mkdir(parents=True)
            _orphan(lambda: self._become_journald(program))
            deadline = time.monotonic() + JOURNAL_TIMEOUT_S
            while time.monotonic() < deadline:
                if Path("/var/log/journal", MACHINE_ID, "system.journal").exists() and _listens(JOURNAL_STREAM):
                    return True
                time.sleep(POLL_S)
        return False

    def _become_journald(self, program: str) -> None:
        """It reads a sender's unit off the control group, so the bed's group has to look like the root to it.

        The root, to systemd, is where the first process is.
        """
        join(self.groups)
        _check(_libc.unshare(CLONE_NEWCGROUP | CLONE_NEWNS), "make a control group namespace")
        Path("/run/aither-root-group").write_text("1:name=systemd:/\n0::/\n")
        _mount("/run/aither-root-group", "/proc/1/cgroup", flags=MS_BIND)
        join(self.groups, "systemd-journald.service")
        _redirect(self.home / "journald.log")
        Path("/run/aither-journald.pid").write_text(str(os.getpid()))
        os.close(self.report)
        os.execve(program, [program], {"PATH": os.defpath})


def _orphan(become: Callable[[], None]) -> None:
    """Runs `become`, which must not return, in a grandchild, so that the keeper and not the manager is its parent."""
    child = os.fork()
    if child == 0:
        try:
            if os.fork() == 0:
                become()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def _redirect(log: Path) -> None:
    """Nothing below may hold the pipes of the test run open."""
    for number, file, mode in ((0, Path("/dev/null"), os.O_RDONLY), (1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
        opened = os.open(file, mode, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    os.dup2(1, 2)


def _find(candidates: tuple[str, ...]) -> str:
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate
    raise Unavailable(f"{candidates[0]} is missing: install systemd")


def _mount(source: Path | str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    arguments = [os.fsencode(text) if text else None for text in (source, target, kind)]
    done = _libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(data) or None)
    _check(done, f"mount {source} on {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main())
