"""The installed daemon on a whole machine: the main job with the system's manager, bus, polkit and kernel limits."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.conftest import in_guest, keep_if_failed
from tests.machine.workstation import CARD, Workstation, workstation
from tests.testbed.nvml.gpu import FILE_VARIABLE

GIB = 1 << 30
STATE = ("InvocationID", "MainPID")


@pytest.fixture(scope="module")
def booted(package: Path, request: pytest.FixtureRequest) -> Iterator[Workstation]:
    """The machine of this file's tests, with the models that they use."""
    with workstation("service", package) as station:
        station.vision()
        station.stand_in("small")
        grows = ("--fault", "grows", "--host-memory", "200MiB")
        station.stand_in("hungry", *grows, more='[resources]\nMemoryMax = "64M"\nMemorySwapMax = "0"')
        station.stand_in("slow", "--token-seconds", "0.2")
        yield station
    keep_if_failed(request.node, "service")


@pytest.fixture
def station(booted: Workstation) -> Iterator[Workstation]:
    """The machine with nothing of aitherd running but its socket, before each test and after it."""
    yield booted
    # Stopping a model's unit wakes the daemon. The last test leaves no daemon to stop.
    for unit in ("aither-*.service", "aitherd.service"):
        booted.systemctl("stop", unit, check=False)
    booted.systemctl("reset-failed", "aither*", check=False)


def used(station: Workstation) -> int:
    """Bytes of the card in use, asked of NVML as any program would."""
    ask = (
        "import pynvml as n; n.nvmlInit(); "
        "print(n.nvmlDeviceGetMemoryInfo(n.nvmlDeviceGetHandleByIndex(0), version=n.nvmlMemory_v2).used)"
    )
    program = f"/usr/lib/aitherd/bin/python -IB -c '{ask}'"
    return int(station.guest.run(program, env={FILE_VARIABLE: CARD}, check=True).stdout)


def test_a_call_starts_the_daemon_from_nothing(station: Workstation) -> None:
    assert station.active("aitherd.service") == "inactive"
    listed = station.call("ListModels")
    assert listed.returncode == 0, listed.stderr
    assert all(f'"{name}"' in listed.stdout for name in ("vision", "small", "hungry", "slow"))
    assert station.active("aitherd.service") == "active"
    shown = station.show("aitherd.service", "Type", "User", "WatchdogUSec", "StatusText")
    assert (shown["Type"], shown["User"]) == ("notify-reload", "aither")
    assert shown["StatusText"]
    # Being asked does not start a model.
    assert station.active("aither-vision.service") == "inactive"


def test_systemctl_start_blocks_until_the_model_answers_and_stop_gives_all_back(station: Workstation) -> None:
    assert station.active("aitherd.service") == "inactive"
    station.systemctl("start", "aither-vision.service")
    assert station.property("vision", "Residency") == 's "ready"'
    assert station.property("vision", "Held") == "b true"
    engine = station.show("aither-vision-engine.service", "ActiveState", "Slice", "User", "KillMode", "ControlGroup")
    assert engine.pop("ControlGroup") == "/aither.slice/aither-vision-engine.service"
    assert engine == {
        "ActiveState": "active",
        "Slice": "aither.slice",
        "User": "aither-engine",
        "KillMode": "control-group",
    }
    status, body = station.chat("qwen2.5-vl")
    assert status == 200, body
    assert json.loads(body)["choices"]
    assert used(station) >= 5 * GIB

    shown = station.keep(
        "aither-vision",
        [
            "systemctl status --no-pager aither-vision.service aither-vision-engine.service",
            "busctl introspect org.aitheros.Aither1 /org/aitheros/Aither1 org.aitheros.Aither1.Manager",
            "busctl introspect org.aitheros.Aither1 /org/aitheros/Aither1/model/vision org.aitheros.Aither1.Model",
            "busctl tree org.aitheros.Aither1",
            "systemd-cgls --no-pager -u aither.slice",
            "aitherctl list",
            "journalctl --no-pager --output=short-monotonic -u 'aither-vision*' -u aitherd",
            "systemd-analyze security --no-pager aitherd.service | tail -1",
            "systemd-analyze security --no-pager aither-vision-engine.service",
        ],
    )
    assert "active (exited)" in shown
    assert "llama-server" in shown.split("systemd-cgls", 1)[1].split("$ ", 1)[0]

    station.systemctl("stop", "aither-vision.service")
    assert station.active("aither-vision.service") == "inactive"
    assert station.active("aither-vision-engine.service") == "inactive"
    assert used(station) == 0


def test_a_request_on_the_socket_brings_a_model_in(station: Workstation) -> None:
    assert station.active("aitherd.service") == "inactive"
    status, body = station.chat("small")
    assert status == 200, body
    assert station.active("aither-small-engine.service") == "active"
    # Used, not held.
    assert station.active("aither-small.service") == "inactive"


def test_the_limits_of_the_model_file_are_the_kernels(station: Workstation) -> None:
    station.systemctl("start", "aither-vision.service")
    group = "/sys/fs/cgroup/aither.slice/aither-vision-engine.service"
    read = station.guest.run(f"cd {group} && cat memory.high memory.max cpu.weight", check=True).stdout.split()
    assert read == [str(1 << 30), str(1200 << 20), "50"]


def test_an_engine_is_confined(station: Workstation) -> None:
    station.systemctl("start", "aither-small.service")
    done = station.guest.run("systemd-analyze security --no-pager --threshold=40 aither-small-engine.service")
    assert done.returncode == 0, done.stdout
    # Nobody but the daemon and the engine itself reaches the engine's socket.
    socket = station.guest.run("ls /run/aither-engine/small/", check=True).stdout.strip()
    ask = f"curl --silent --fail --unix-socket /run/aither-engine/small/{socket} http://x/health"
    assert station.guest.run(ask, user="aither").returncode == 0
    assert station.guest.run(ask, user="alice").returncode != 0


def test_the_kernel_kills_at_memory_max_and_the_daemon_says_so(station: Workstation) -> None:
    station.systemctl("start", "aither-hungry.service")
    status, body = station.chat("hungry")
    assert status in (502, 503), body
    # The kernel's own account, the unit's, and the daemon's agree.
    station.wait_until('[ "$(systemctl is-active aither-hungry.service)" != active ]')
    station.wait_for_manager_to_say("aither-hungry-engine.service: Failed with result 'oom-kill'")
    station.wait_until(
        "busctl get-property org.aitheros.Aither1 /org/aitheros/Aither1/model/hungry"
        " org.aitheros.Aither1.Model Error | grep host_oom"
    )
    said = station.guest.journal("-b", "-u", "aitherd.service", "AITHER_EVENT=failed", "AITHER_MODEL=hungry")
    assert "the kernel killed it for host memory at MemoryMax 64" in said
    # Nobody asks, so nothing is tried again: it would be killed again.
    assert station.active("aither-hungry-engine.service") in ("inactive", "failed")
    starts = station.guest.journal("-b", "-u", "aitherd.service", "AITHER_EVENT=step", "AITHER_MODEL=hungry")
    assert starts.count("starting hungry") == 1


def test_a_killed_daemon_comes_back_and_adopts_what_runs(station: Workstation) -> None:
    station.systemctl("start", "aither-vision.service")
    assert station.chat("small")[0] == 200
    engines = ("aither-vision-engine.service", "aither-small-engine.service")
    before = {engine: station.show(engine, *STATE) for engine in engines}
    daemon = station.show("aitherd.service", *STATE)
    station.systemctl("kill", "--signal=KILL", "aitherd.service")
    station.wait_until(
        f'[ "$(systemctl show --property=MainPID --value aitherd.service)" != {daemon["MainPID"]} ]'
        " && systemctl is-active aitherd.service"
    )
    assert station.show("aitherd.service", *STATE) != daemon
    assert {engine: station.show(engine, *STATE) for engine in engines} == before
    assert station.property("vision", "Held") == "b true"
    assert station.active("aither-vision.service") == "active"
    assert station.property("small", "Residency") == 's "ready"'
    for model in ("vision", "small"):
        status, body = station.chat(model)
        assert status == 200, body
    assert {engine: station.show(engine, *STATE) for engine in engines} == before


def test_leases_outlive_a_restart_and_a_stop_of_the_daemon(station: Workstation) -> None:
    holder = station.guest.start("exec aitherctl lease --vram 8G --purpose training sleep infinity")
    listed = "aitherctl --json leases | grep -E 'waiting.: ?false'"
    station.wait_until(listed)
    before = station.guest.run("aitherctl --json leases", check=True).stdout
    # Kept by the manager over a restart, and over a stop, too (FileDescriptorStorePreserve= of systemd 254).
    station.systemctl("restart", "aitherd.service")
    assert json.loads(station.guest.run("aitherctl --json leases", check=True).stdout) == json.loads(before)
    station.systemctl("stop", "aitherd.service")
    station.systemctl("start", "aitherd.service")
    assert json.loads(station.guest.run("aitherctl --json leases", check=True).stdout) == json.loads(before)
    assert holder.running
    holder.kill()
    station.wait_until("[ \"$(aitherctl --json leases)\" = '[]' ]")


def test_a_model_that_cannot_start_fails_its_unit_with_the_reason(station: Workstation) -> None:
    station.stand_in("broken", "--fault", "exit", "--says", "error: no such tensor")
    station.systemctl("start", "aitherd.service")
    assert station.systemctl("start", "aither-broken.service", check=False).returncode != 0
    status = station.systemctl("status", "--no-pager", "--lines=20", "aither-broken.service", check=False).stdout
    assert "no such tensor" in status, status
    assert "Failed" in status
    station.guest.run("rm /etc/aither/models.d/broken.toml", check=True)


def test_a_reload_takes_new_models_and_refuses_broken_files_with_the_reason(station: Workstation) -> None:
    station.systemctl("start", "aither-small.service")
    before = station.show("aither-small-engine.service", *STATE)
    station.stand_in("another")
    station.systemctl("reload", "aitherd.service")
    assert station.property("another", "Residency") == 's "absent"'
    station.model("another", "engine = 'exec'\nvram = 'some'\n")
    refused = station.systemctl("reload", "aitherd.service", check=False)
    assert refused.returncode != 0
    place = "/etc/aither/models.d/another.toml:2: vram"
    assert place in station.guest.journal("-b", "-u", "aitherd.service")
    status = station.systemctl("status", "--no-pager", "--full", "aitherd.service").stdout
    assert f'Status: "the configuration on disk is not in use: {place}' in status
    assert station.active("aitherd.service") == "active"
    assert station.property("another", "Residency") == 's "absent"'
    assert station.show("aither-small-engine.service", *STATE) == before
    station.guest.run("rm /etc/aither/models.d/another.toml; systemctl daemon-reload", check=True)
    station.systemctl("reload", "aitherd.service")


def test_the_log_level_is_systemctls_to_set_and_roots_alone(station: Workstation) -> None:
    station.systemctl("start", "aitherd.service")
    level = "systemctl service-log-level aitherd.service"
    assert station.guest.run(level, user="alice").stdout == "info\n"
    station.guest.run(f"{level} debug", check=True)
    assert station.guest.run(f"{level} info", user="alice").returncode != 0
    assert station.guest.run(level, check=True).stdout == "debug\n"


def test_who_may_ask_is_decided_by_polkit_and_the_sockets_group(station: Workstation) -> None:
    assert station.call("ListModels", user="alice").returncode == 0
    refused = station.call("Start", "s", "small", user="alice")
    assert refused.returncode != 0
    assert "not allowed to start small" in refused.stderr
    assert station.active("aither-small-engine.service") == "inactive"
    assert station.chat("small", user="alice")[0] == 0
    station.guest.run("usermod --append --groups aither alice", check=True)
    try:
        started = station.call("Start", "s", "small", user="alice")
        assert started.returncode == 0, started.stderr
        assert station.chat("small", user="alice")[0] == 200
        assert station.call("ForceStop", "s", "small", user="alice").returncode != 0
        assert station.active("aither-small-engine.service") == "active"
    finally:
        station.guest.run("gpasswd --delete alice aither", check=True)


def test_an_upgrade_keeps_engines_holds_and_a_stream(station: Workstation, newer_package: Path) -> None:
    station.systemctl("start", "aither-vision.service", "aither-slow.service")
    engines = ("aither-vision-engine.service", "aither-slow-engine.service")
    before = {engine: station.show(engine, *STATE) for engine in engines}
    daemon = station.show("aitherd.service", *STATE)
    body = json.dumps(
        {"model": "slow", "stream": True, "max_tokens": 100, "messages": [{"role": "user", "content": "x"}]}
    )
    stream = station.guest.start(
        f"curl --silent --no-buffer --unix-socket /run/aither/aither.sock --data {shlex.quote(body)} "
        "http://aither/v1/chat/completions"
    )
    station.wait_until(
        "busctl get-property org.aitheros.Aither1 /org/aitheros/Aither1/model/slow"
        " org.aitheros.Aither1.Model InFlight | grep 1"
    )
    station.guest.run(f"dpkg --install {in_guest(newer_package)}", check=True, timeout=240)
    streamed = stream.wait(240)
    assert streamed.returncode == 0
    assert streamed.stdout.rstrip().endswith("data: [DONE]")
    assert station.active("aitherd.service") == "active"
    assert station.show("aitherd.service", *STATE) != daemon
    assert {engine: station.show(engine, *STATE) for engine in engines} == before
    assert station.property("vision", "Held") == "b true"
    assert station.active("aither-vision.service") == "active"
    status, answer = station.chat("vision")
    assert status == 200, answer


def test_after_a_boot_the_daemon_runs_and_models_come_when_asked_for(station: Workstation) -> None:
    station.guest.run(f"cp {CARD} /root/card", check=True)
    station.guest.reboot()
    station.guest.run(f"cp /root/card {CARD} && chmod 666 {CARD}", check=True)
    station.guest.run(f"systemctl set-environment {FILE_VARIABLE}={CARD} && systemctl restart aitherd", check=True)
    assert station.active("aitherd.service") == "active"
    assert station.active("aither-small.service") == "inactive"
    station.systemctl("start", "aither-small.service")
    assert station.property("small", "Residency") == 's "ready"'


def test_removing_the_package_stops_what_it_started(station: Workstation) -> None:
    station.stand_in("always", kind="essential")
    station.systemctl("start", "aither-small.service", "aither-vision.service")
    station.wait_until("systemctl is-active aither-always.service")
    station.guest.run("dpkg --remove aitherd", check=True, timeout=180)
    assert station.guest.run("systemctl list-units --no-legend --plain 'aither*'").stdout == ""
    processes = station.guest.run("ps -eo user:20,args").stdout
    assert not re.search(r"^aither|aitherd|llama-server|stand_ins", processes, re.MULTILINE), processes
    station.guest.run("dpkg --purge aitherd", check=True)
    gone = "ls -d /etc/aither /run/aither* /var/lib/aither /var/cache/aither-engine /usr/lib/aitherd 2>/dev/null"
    assert station.guest.run(gone).stdout == ""
