"""What befalls the host under a running daemon: it serves on, or comes back, and no engine is touched."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.native.daemon.conftest import chat, engine
from tests.native.daemon.test_disposable import invocation
from tests.testbed.nvml import Gpu, NvmlError
from tests.testbed.rig import Rig

MODELS = ("held", "used", "essential")


@pytest.fixture
def fleet(rig: Rig, http: httpx.Client) -> dict[str, str]:
    """Three models that run: their engines' invocations by name."""
    rig.model("held", engine())
    rig.model("used", engine(idle="1h"))
    rig.model("essential", engine(kind="essential"))
    rig.reload()
    rig.ctl("hold", "held")
    assert chat(http, "used").status_code == 200
    rig.wait_for(lambda: rig.status("essential")["residency"] == "ready", "the essential model")
    return {name: invocation(rig, name) for name in MODELS}


def all_as_before(rig: Rig, fleet: dict[str, str]) -> bool:
    with rig.http() as client:
        answers = [chat(client, name) for name in MODELS]
    return (
        [answer.headers.get("x-aither-reason") for answer in answers] == ["ready"] * len(MODELS)
        and {name: invocation(rig, name) for name in MODELS} == fleet
        and rig.status("held")["held"] is True
    )


def test_a_restart_of_the_bus_costs_a_restart_of_the_daemon_and_nothing_else(rig: Rig, fleet: dict[str, str]) -> None:
    daemon = rig.daemon_pid()
    rig.manager.systemctl("restart", "dbus.service")
    rig.manager.await_bus_name()
    rig.wait_for(lambda: rig.running and rig.daemon_pid() not in (0, daemon), "the daemon to come back")
    assert all_as_before(rig, fleet)


@pytest.mark.parametrize("verb", ["daemon-reload", "daemon-reexec"])
def test_the_manager_may_be_told_anything_while_models_run(rig: Rig, fleet: dict[str, str], verb: str) -> None:
    daemon = rig.daemon_pid()
    for _ in range(3):
        rig.manager.systemctl(verb)
    if verb == "daemon-reexec":
        rig.manager.await_bus_name()
    assert all_as_before(rig, fleet)
    assert rig.daemon_pid() == daemon
    # The death of an engine is still seen, and it is still brought back.
    rig.manager.systemctl("kill", "--signal=KILL", "aither-essential-engine.service")
    rig.wait_for(
        lambda: (
            invocation(rig, "essential") not in ("", fleet["essential"])
            and rig.status("essential")["residency"] == "ready"
        ),
        "the essential model to come back",
    )


def test_a_full_disk_is_reported_and_costs_no_request(rig: Rig, http: httpx.Client) -> None:
    rig.model("vision", engine())
    rig.reload()
    rig.ctl("hold", "vision")
    state = next(path for path in rig.manager.home.rglob("state.json"))
    assert '"vision"' in state.read_text()
    # What is written there is met with ENOSPC, as on a disk that is full.
    beside = state.with_suffix(".new")
    beside.symlink_to("/dev/full")
    rig.ctl("release", "vision")
    rig.wait_for(lambda: "No space left on device; holds would not survive a restart" in rig.said(), "the warning")
    assert chat(http, "vision").status_code == 200
    assert rig.status("vision")["held"] is False
    beside.unlink()
    rig.wait_for(lambda: '"held": []' in state.read_text(), "the state to be written once there is room")


def test_a_driver_that_was_upgraded_is_taken_up(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    rig.model("runs", engine())
    rig.model("cold", engine())
    assert chat(http, "runs").status_code == 200
    gpu.change_driver("999.1")
    assert [chat(http, name).status_code for name in ("cold", "runs")] == [200, 200]


def test_while_library_and_driver_do_not_match_what_runs_serves_on_and_the_remedy_is_told(
    rig: Rig, gpu: Gpu, http: httpx.Client
) -> None:
    rig.model("runs", engine())
    rig.model("cold", engine())
    assert chat(http, "runs").status_code == 200
    before = invocation(rig, "runs")
    gpu.broken = NvmlError.LIB_RM_VERSION_MISMATCH
    gpu.change_driver("999.1")
    refused = chat(http, "cold")
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "device_unavailable"
    assert "reboot, or reload the nvidia modules" in refused.json()["error"]["message"]
    assert chat(http, "runs").headers["x-aither-reason"] == "ready"
    health = http.get("/health")
    assert health.status_code == 503 and "differ in version" in health.text
    gpu.broken = NvmlError.NONE
    rig.wait_for(lambda: chat(http, "cold").status_code == 200, "loads after a reboot of the driver")
    assert invocation(rig, "runs") == before


def test_more_clients_than_descriptors_allow_are_told_to_come_again_and_cost_nobody_else(
    rig: Rig, http: httpx.Client
) -> None:
    drop_in = rig.manager.config / "systemd" / "user" / "aitherd.service.d"
    drop_in.mkdir()
    (drop_in / "few.conf").write_text("[Service]\nLimitNOFILE=64\n")
    rig.manager.reload()
    rig.model("runs", engine())
    rig.model("cold", engine())
    assert chat(http, "runs").status_code == 200
    http.close()
    daemon, before = rig.daemon_pid(), invocation(rig, "runs")
    with ExitStack() as crowd:
        told = b""
        for _ in range(200):
            one = crowd.enter_context(socket.socket(socket.AF_UNIX))
            one.settimeout(5.0)
            one.connect(str(rig.socket))
            with suppress(OSError):
                # Who is told so has not been listened to.
                one.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
            if readable(one):
                told = one.recv(4096)
                break
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in told.lower()
    assert rig.daemon_pid() == daemon
    with rig.http() as client:
        rig.wait_for(lambda: answered(client, "runs") and answered(client, "cold"), "requests after that")
    assert invocation(rig, "runs") == before
    assert rig.daemon_pid() == daemon


def readable(one: socket.socket) -> bool:
    """Whether something comes within a moment: a client that was let in hears nothing before it has asked."""
    return bool(select.select([one], [], [], 0.1)[0])


def answered(client: httpx.Client, model: str) -> bool:
    try:
        return chat(client, model).status_code == 200
    except httpx.TransportError:
        return False
