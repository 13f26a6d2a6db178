"""The private service manager is a real one, is an ordinary user's, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.native.conftest import StartManager
from tests.testbed.control_groups import PREFIX, own_groups
from tests.testbed.manager import UserManager

WAIT_S = 20.0

SLEEPER = """[Service]
ExecStart=/bin/sh -c 'trap "" TERM; sleep 4321 & echo up; echo oops >&2; wait'
TimeoutStopSec=60
"""

ACTIVATED = """[Service]
Type=dbus
BusName=org.example.Testbed
ExecStart={python} -c 'import time; print("activated", flush=True); time.sleep(4321)'
"""

GENERATOR = """#!/bin/sh
line="echo generated for $XDG_CONFIG_HOME; exec sleep 4321"
printf '[Service]\\nExecStart=/bin/sh -c "%s"\\n' "$line" >"$1/made.service"
"""


def gone(pid: int) -> bool:
    """Whether no process has this PID any more, a zombie not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def keeper_of(manager: int) -> int:
    """The process that started the manager with this PID."""
    return int(Path(f"/proc/{manager}/stat").read_text().rpartition(")")[2].split()[1])


def groups(keeper: int) -> list[Path]:
    """The control groups of a bed; others may run beside it."""
    return [group for own in own_groups() for group in own.glob(f"{PREFIX}{keeper}.slice")]


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def until(what: str, true: object) -> None:
    """Waits for `true()`; fails naming `what`."""
    assert callable(true)
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def say(manager: UserManager, unit: str, script: str, line: str) -> None:
    """Runs a script in a unit and waits until the unit's journal has `line`.

    The unit lives on: of a process that ends as soon as it has spoken, the journal may not learn in which unit it was.
    """
    manager.run(["systemd-run", "--user", f"--unit={unit}", "sh", "-c", f"{script}; exec sleep 4321"])
    until(f"it says {line}", lambda: line in manager.journal("-u", unit).splitlines())


def test_a_transient_unit_runs_and_its_end_is_reported(manager: UserManager) -> None:
    done = manager.run(["systemd-run", "--user", "--wait", "--unit=short", "sh", "-c", "exit 3"], check=False)
    assert done.returncode == 3
    shown = manager.show("short.service", "Result", "ExecMainStatus", "ActiveState")
    assert shown == {"Result": "exit-code", "ExecMainStatus": "3", "ActiveState": "failed"}


def test_everything_inside_is_an_ordinary_user(manager: UserManager) -> None:
    assert manager.uid >= 1000
    say(manager, "who", 'echo "$(id -u) $(grep CapEff /proc/self/status)"', f"{manager.uid} CapEff:\t0000000000000000")


def test_processes_are_in_their_units_control_group(manager: UserManager) -> None:
    manager.run(["systemd-run", "--user", "--unit=grouped", "--slice=some.slice", "sleep", "4321"])
    shown = manager.show("grouped.service", "MainPID", "ControlGroup")
    assert shown["ControlGroup"].endswith("/some.slice/grouped.service")
    # The same path and the same PID out here, where tests run parts of the daemon in their own process.
    listed = Path(f"/proc/{shown['MainPID']}/cgroup").read_text().splitlines()
    assert shown["ControlGroup"] in {line.split(":", 2)[2] for line in listed}


def test_killing_a_unit_reaches_its_children(manager: UserManager) -> None:
    manager.install_unit("sleeper.service", SLEEPER)
    manager.reload()
    manager.systemctl("start", "sleeper.service")
    until("the child runs", lambda: "up" in manager.journal("-u", "sleeper"))
    main = int(manager.show("sleeper.service", "MainPID")["MainPID"])
    children = [int(pid) for pid in Path(f"/proc/{main}/task/{main}/children").read_text().split()]
    assert children
    manager.systemctl("kill", "--signal=KILL", "sleeper.service")
    until("all are dead", lambda: all(gone(pid) for pid in [main, *children]))


def test_the_journal_knows_unit_invocation_and_stream(manager: UserManager) -> None:
    manager.install_unit("sleeper.service", SLEEPER)
    manager.reload()
    manager.systemctl("start", "sleeper.service")
    invocation = manager.show("sleeper.service", "InvocationID")["InvocationID"]
    until("it speaks", lambda: "oops" in manager.journal("-u", "sleeper"))
    lines = manager.journal(f"_SYSTEMD_INVOCATION_ID={invocation}", output="json").splitlines()
    records = {record["MESSAGE"]: record for record in map(json.loads, lines)}
    assert set(records) == {"up", "oops"}
    assert records["up"]["_SYSTEMD_USER_UNIT"] == "sleeper.service"
    assert records["up"]["_UID"] == str(manager.uid)
    assert any("Started" in line for line in manager.journal(f"USER_INVOCATION_ID={invocation}").splitlines())


def test_a_record_sent_in_the_native_protocol_arrives_at_once(manager: UserManager) -> None:
    send = (
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "s.sendto(b'MESSAGE=structured\\nAITHER_STEP=start\\n', '/run/systemd/journal/socket')"
    )
    manager.run([sys.executable, "-c", send])
    assert manager.journal("AITHER_STEP=start") == "structured\n"


def test_a_call_on_the_bus_starts_the_unit(manager: UserManager) -> None:
    manager.install_unit("activated.service", ACTIVATED.format(python=sys.executable))
    manager.install_bus_name("org.example.Testbed", "activated.service")
    manager.reload()
    call = ["busctl", "--user", "--timeout=1", "call", "org.example.Testbed", "/", "org.freedesktop.DBus.Peer", "Ping"]
    assert manager.run(call, check=False).returncode != 0  # It never takes the name; that it ran is the point.
    until("it runs", lambda: "activated" in manager.journal("-u", "activated"))


def test_a_socket_unit_hands_its_socket_over(manager: UserManager) -> None:
    manager.install_unit("echo.socket", "[Socket]\nListenStream=%t/echo.sock\nFileDescriptorName=front\n")
    serve = (
        "import os, socket; assert os.environ['LISTEN_FDNAMES'] == 'front'; "
        "c, _ = socket.socket(fileno=3).accept(); c.sendall(b'hello')"
    )
    manager.install_unit("echo.service", f'[Service]\nExecStart={sys.executable} -c "{serve}"\n')
    manager.reload()
    manager.systemctl("start", "echo.socket")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT_S)
        client.connect(str(manager.runtime / "echo.sock"))
        assert client.recv(100) == b"hello"


def test_a_generator_makes_units(manager: UserManager) -> None:
    manager.install_generator("example-generator", GENERATOR)
    manager.reload()
    manager.systemctl("start", "made.service")
    until("it runs", lambda: f"generated for {manager.config}" in manager.journal("-u", "made"))


def test_the_manager_survives_reexecution_with_its_units(manager: UserManager) -> None:
    manager.run(["systemd-run", "--user", "--unit=stays", "sleep", "4321"])
    before = manager.show("stays.service", "MainPID", "InvocationID")
    manager.systemctl("daemon-reexec")
    assert manager.show("stays.service", "MainPID", "InvocationID") == before
    assert "org.freedesktop.systemd1" in manager.run(["busctl", "--user", "list", "--acquired"]).stdout


def test_units_and_clients_get_the_environment(start_manager: StartManager) -> None:
    manager = start_manager({"AITHER_EXAMPLE": "a b"})
    say(manager, "env", 'echo "[$AITHER_EXAMPLE]"', "[a b]")
    assert manager.run(["sh", "-c", 'printf %s "$AITHER_EXAMPLE"']).stdout == "a b"


def test_two_managers_do_not_see_each_other(start_manager: StartManager) -> None:
    first, second = start_manager({}), start_manager({})
    first.run(["systemd-run", "--user", "--unit=mine", "sleep", "4321"])
    assert first.show("mine.service", "LoadState")["LoadState"] == "loaded"
    assert second.show("mine.service", "LoadState")["LoadState"] == "not-found"
    assert second.journal("-u", "mine") == ""


def test_nothing_is_left_after_the_end() -> None:
    before = mounts()
    with UserManager() as manager:
        manager.install_unit("sleeper.service", SLEEPER)
        manager.reload()
        manager.systemctl("start", "sleeper.service")
        client = manager.popen(["sleep", "4321"])
        keeper = keeper_of(manager.pid)
        pids = [keeper, manager.pid, client.pid, int(manager.show("sleeper.service", "MainPID")["MainPID"])]
        home = manager.home
    assert [pid for pid in pids if not gone(pid)] == []
    assert groups(keeper) == []
    assert mounts() == before
    assert not home.exists()


CRASH = """
import os, sys
from tests.testbed.manager import UserManager
with UserManager() as manager:
    manager.run(["systemd-run", "--user", "--unit=left", "sleep", "4321"])
    client = manager.popen(["sleep", "4321"])
    service = manager.show("left.service", "MainPID")["MainPID"]
    print(manager.pid, client.pid, service, manager.home, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("victim", ["the test run", "the keeper"])
def test_nothing_is_left_after_a_crash_of(victim: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CRASH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    ) as run:
        assert run.stdout is not None
        manager, client, service, home = run.stdout.readline().split()
        keeper = keeper_of(int(manager))
        os.kill(run.pid if victim == "the test run" else keeper, signal.SIGKILL)
        if victim == "the keeper":
            until("the manager is dead", lambda: gone(int(manager)))
            # Nobody is left who could clean up: the next bed does.
            run.kill()
            with UserManager():
                assert gone(int(service))
        until("all are dead", lambda: all(gone(int(pid)) for pid in (manager, client, service)))
    until("its folder is gone", lambda: not Path(home).exists())
    until("its control group is gone", lambda: not groups(keeper))
