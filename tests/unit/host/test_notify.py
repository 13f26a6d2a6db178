"""The service manager's protocols, spoken to real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitherd.host import notify


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that a service manager listens on."""
    address = str(tmp_path / "notify") if request.param == "path" else f"\0aitherd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(address)
        ours.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        yield ours


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_each_message_is_what_the_manager_understands(manager: socket.socket) -> None:
    notify.ready("2 models")
    notify.status("loading\nvision")
    notify.stopping()
    notify.watchdog()
    assert [heard(manager) for _ in range(4)] == [
        ["READY=1", "STATUS=2 models"],
        ["STATUS=loading vision"],
        ["STOPPING=1"],
        ["WATCHDOG=1"],
    ]


def test_a_reload_tells_when_it_began(manager: socket.socket) -> None:
    before = time.monotonic()
    notify.reloading()
    first, second = heard(manager)
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) / 1e6 + 1e-6 <= time.monotonic() + 1e-6


def test_the_manager_is_given_a_descriptor_to_keep(manager: socket.socket) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        notify.keep("lease-a1", ours.fileno())
        text, (kept,), _, _ = socket.recv_fds(manager, 4096, 2)
        assert text.decode().split("\n") == ["FDSTORE=1", "FDNAME=lease-a1"]
        with socket.socket(fileno=kept) as copy:
            theirs.send(b"x")
            assert copy.recv(1) == b"x"
    notify.let_go("lease-a1")
    assert heard(manager) == ["FDSTOREREMOVE=1", "FDNAME=lease-a1"]


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready()
    notify.keep("lease-a1", 0)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify.ready()


def test_a_manager_that_does_not_read_holds_up_nobody(manager: socket.socket) -> None:
    for _ in range(2000):
        notify.watchdog()
    assert heard(manager) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("30000000", None, 15.0),
        ("30000000", str(os.getpid()), 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("", None, None),
        ("soon", None, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_asked(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, interval: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid is None:
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
    else:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    assert notify.watchdog_interval() == interval


RECEIVER = """
import os, socket
os.environ["LISTEN_PID"] = os.environ.get("FOR") or str(os.getpid())
from aitherd.host import notify
found = notify.listen_sockets()
tell = lambda s: (s.family.name, s.getsockname(), s.get_inheritable())
print({name: list(map(tell, sockets)) for name, sockets in found.items()})
print(sorted(name for name in os.environ if name.startswith("LISTEN")), notify.listen_sockets())
"""


def received(listeners: list[socket.socket], names: str, **extra: str) -> str:
    """What a process says that is started with `listeners` as its descriptors from 3 on."""
    shell = " ".join(f"{3 + index}<&{listener.fileno()}" for index, listener in enumerate(listeners))
    return subprocess.run(
        ["/bin/bash", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, RECEIVER],
        pass_fds=[listener.fileno() for listener in listeners],
        env={**os.environ, "LISTEN_FDS": str(len(listeners)), "LISTEN_FDNAMES": names, **extra},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_passed_sockets_come_by_name_and_once(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(path)
        # Descriptors out of the way of 3, 4…, which the shell assigns one after another.
        high = [os.dup2(listener.fileno(), 60 + index) for index, listener in enumerate((unix, tcp))]
        listeners = [socket.socket(fileno=descriptor) for descriptor in high]
        port = tcp.getsockname()[1]
        said = received(listeners, "proxy:proxy").splitlines()
        other = received(listeners, "proxy:proxy", FOR="1").splitlines()
        for listener in listeners:
            listener.close()
    assert said[0] == str({"proxy": [("AF_UNIX", path, False), ("AF_INET", ("127.0.0.1", port), False)]})
    assert said[1] == "[] {}"
    assert other[0] == "{}"
