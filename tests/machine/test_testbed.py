"""The native test bed works on a machine that systemd booted, too: for root and for an ordinary user."""

from __future__ import annotations

import pytest

from tests.machine.vm import Guest

SCRIPT = """
import sys
sys.path.insert(0, "/mnt/repo")
from tests.testbed.manager import UserManager
with UserManager() as manager:
    manager.run(["systemd-run", "--user", "--unit=speaker", "sh", "-c", "echo spoken; exec sleep 4321"])
    while "spoken" not in manager.journal("_SYSTEMD_USER_UNIT=speaker.service").splitlines():
        assert manager.has_journal
    hog = ["systemd-run", "--user", "--wait", "--unit=hog", "-p", "MemoryMax=20M", "-p", "MemorySwapMax=0"]
    manager.run([*hog, sys.executable, "-c", "x = bytearray(10**8)"], check=False)
    print(manager.uid, manager.show("hog.service", "Result")["Result"], manager.home)
"""

LEFT = "pgrep --full 'sleep 432[1]'; ls -d /tmp/aither-*; find /sys/fs/cgroup -name 'aithertestbed*'"


@pytest.mark.parametrize("user", [None, "alice"])
def test_a_private_service_manager_beside_the_machines_own(guest: Guest, user: str | None) -> None:
    env = {}
    if user is not None:
        guest.run(f"loginctl enable-linger {user}", check=True)
        guest.run("until systemctl is-active user@1000.service; do sleep 0.05; done", check=True)
        env = {"XDG_RUNTIME_DIR": "/run/user/1000"}
    done = guest.run(["python3", "-c", SCRIPT], user=user, env=env, check=True)
    # The controllers are on cgroup v2 and delegated: a limit of a user's unit holds.
    assert done.stdout.split()[:2] == ["1000", "oom-kill"]
    assert guest.run(LEFT).stdout == ""
    if user is not None:
        guest.run(f"loginctl disable-linger {user}", check=True)
