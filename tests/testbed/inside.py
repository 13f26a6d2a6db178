"""Inside the bed's namespaces: what a booted machine has, a journal, and the manager that this process becomes.

Everything here runs in the child that the keeper forks. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import control_groups
from tests.testbed.errors import ManagerUnavailable

USER_ID = 1000
"""Who root is inside; above the range of system users, whose records the journal would not keep apart."""

MACHINE_ID = "a17ebed0a17ebed0a17ebed0a17ebed0"
JOURNAL_TIMEOUT_S = 30.0
POLL_S = 0.005

SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
JOURNALD = ("/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald")
JOURNAL_STREAM = Path("/run/systemd/journal/stdout")
JOURNALD_PID = Path("/run/aither-journald.pid")

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


def become_subreaper() -> None:
    """Makes this process the parent of everything below it that loses its own."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "become the parent of orphans")


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
            # The journal learns a sender's unit from /proc while the sender lives. On a loaded machine it comes too
            # late for one in seven of those that end at once, here as anywhere; but tests are to come out the same.
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
            self._enter()
            self._furnish()
            journal = self._journal()
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            # The journal reads the owner off the slice's name and the unit off what comes after `user@`.
            control_groups.join(self.groups, f"user.slice/user-{self.uid}.slice/user@{self.uid}.service")
            manager = _find(SYSTEMD)
            target = "journal" if journal else "console"
            os.write(self.report, json.dumps({"journal": journal}).encode())
            os.close(self.report)
            # With the keeper goes its manager; what the manager ran is found by its control group.
            _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "die with the keeper")
            arguments = [manager, "--user", f"--log-target={target}"]
            os.execve(manager, arguments, {**self.environment, "NOTIFY_SOCKET": str(self.home / "notify")})
        except (OSError, ManagerUnavailable) as problem:
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
            raise ManagerUnavailable(
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
        with contextlib.suppress(ManagerUnavailable):
            program = _find(JOURNALD)
            Path("/run/systemd/journald.conf.d/testbed.conf").write_text(JOURNALD_CONF)
            # A flushed journal writes to /var, and only there does a user have a file of his own.
            Path("/run/systemd/journal/flushed").touch()
            Path("/var/log/journal", MACHINE_ID).mkdir(parents=True)
            _orphan(lambda: self._become_journald(program))
            deadline = time.monotonic() + JOURNAL_TIMEOUT_S
            while time.monotonic() < deadline and not _has_ended(JOURNALD_PID):
                if Path("/var/log/journal", MACHINE_ID, "system.journal").exists() and _listens(JOURNAL_STREAM):
                    return True
                time.sleep(POLL_S)
        return False

    def _become_journald(self, program: str) -> None:
        """It reads a sender's unit off the control group, so the bed's group has to look like the root to it.

        The root, to systemd, is where the first process is.
        """
        control_groups.join(self.groups)
        _check(_libc.unshare(CLONE_NEWCGROUP | CLONE_NEWNS), "make a control group namespace")
        Path("/run/aither-root-group").write_text("1:name=systemd:/\n0::/\n")
        _mount("/run/aither-root-group", "/proc/1/cgroup", flags=MS_BIND)
        control_groups.join(self.groups, "systemd-journald.service")
        _redirect(self.home / "journald.log")
        JOURNALD_PID.write_text(str(os.getpid()))
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


def _has_ended(pid: Path) -> bool:
    """Whether the process that wrote its PID there has ended; its parent, the keeper, has not collected it yet."""
    try:
        return Path(f"/proc/{int(pid.read_text())}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, ValueError):
        return False


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
    raise ManagerUnavailable(f"{candidates[0]} is missing: install systemd")


def _mount(source: Path | str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    arguments = [os.fsencode(text) if text else None for text in (source, target, kind)]
    done = _libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(data) or None)
    _check(done, f"mount {source} on {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")
