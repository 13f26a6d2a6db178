"""Holds one private service manager: starts it in namespaces of its own and takes everything down when its input ends.

A program, not a module: `UserManager` starts it, writes one line of JSON to it and keeps its input open. The end of
that input, however the test run ends, is the order to clean up. Standard library only: it also runs inside guests.

The manager becomes an ordinary user's, whoever runs the tests: in its user namespace root is somebody else, so that
the journal has a file of the user's own and nothing is privileged by accident. `/run` and `/var/log` are the bed's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from tests.testbed import control_groups
from tests.testbed.errors import ManagerUnavailable
from tests.testbed.inside import USER_ID, Inside, become_subreaper

HOME_PREFIX = "aither-"
KEEPER_PID = "keeper.pid"
START_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 10.0
POLL_S = 0.005


def main() -> int:
    """Runs until the input ends. Writes one line of JSON: what runs where, or `{"problem": …}`."""
    order = json.loads(sys.stdin.readline())
    home = Path(order["home"])
    become_subreaper()
    remove_left_homes(home.parent)
    (home / KEEPER_PID).write_text(str(os.getpid()))
    groups: list[Path] = []
    status = 0
    try:
        groups = control_groups.make(delegated=order["delegated"], is_keeper=is_keeper)
        started = _start(home, groups, order["environment"])
        print(json.dumps(started), flush=True)
        sys.stdin.read()
    except (OSError, ManagerUnavailable) as problem:
        print(json.dumps({"problem": str(problem)}), flush=True)
        status = 1
    finally:
        end_children()
        for group in groups:
            control_groups.clear(group)
        remove_home(home)
    return status


def remove_left_homes(parent: Path) -> None:
    """Removes what keepers left that were killed themselves."""
    for pid in parent.glob(f"{HOME_PREFIX}*/{KEEPER_PID}"):
        with contextlib.suppress(OSError):
            if not is_keeper(pid.read_text()):
                remove_home(pid.parent)


def remove_home(home: Path) -> None:
    """Removes a bed's folder, as far as it is there."""
    # systemd keeps folders there that nobody may write to or enter, their owner included.
    inaccessible = home / "run" / "systemd" / "inaccessible"
    for folder in (inaccessible, inaccessible / "dir"):
        with contextlib.suppress(OSError):
            folder.chmod(0o700)
    shutil.rmtree(home, ignore_errors=True)


def is_keeper(pid: str) -> bool:
    """Whether the process with this PID lives and is a keeper."""
    try:
        return Path(__file__).stem.encode() in Path(f"/proc/{int(pid)}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False


def end_children() -> None:
    """Kills every descendant: as the parent of all orphans below, this process is left with none."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while time.monotonic() < deadline:
        control_groups.reap()
        pids = children.read_text().split()
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(POLL_S)


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
            raise ManagerUnavailable(report["problem"])
        if any(not group.name.startswith(control_groups.PREFIX) for group in groups):
            control_groups.join(groups, "keeper")
        for group in groups:
            control_groups.delegate(group, uid)
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
    raise ManagerUnavailable(f"the private service manager did not come up: {log or 'it said nothing'}")


if __name__ == "__main__":
    sys.exit(main())
