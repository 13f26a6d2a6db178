"""aitherctl against the service: what people and programs get, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
from typing import Any

import pytest

from aitherd import __version__
from aitherd.bus.names import BUS_NAME
from aitherd.bus.service import BusService
from aitherd.conductor.records import Event
from aitherd.core.words import Residency
from tests.native.bus.broker import Broker, Ran
from tests.native.bus.fleet import GIB, NOW, SmallFleet


async def ctl(broker: Broker, *arguments: str, environment: dict[str, str] | None = None) -> Ran:
    """Runs `aitherctl --user`."""
    return await broker.run(sys.executable, "-m", "aitherd.ctl", "--user", *arguments, environment=environment)


async def answer(broker: Broker, *arguments: str, status: int = 0) -> Any:
    """What `aitherctl --json` prints."""
    ran = await ctl(broker, "--json", *arguments)
    assert ran.status == status, ran.err
    return json.loads(ran.out)


async def test_list_for_programs_and_for_people(broker: Broker, fleet: SmallFleet, service: BusService) -> None:
    fleet.change("vision", residency=Residency.STARTING, stage="waiting for gpu0", waiting=3, in_flight=1, stops_at=0.0)
    models = {model["name"]: model for model in await answer(broker, "list")}
    assert list(models) == ["0.5b-draft", "broken", "orchestrator", "vision"]
    assert models["orchestrator"] == {
        "name": "orchestrator",
        "description": "what orchestrator does",
        "engine": "llama-server",
        "class": "essential",
        "residency": "ready",
        "level": 0,
        "serves": [],
        "can": ["chat"],
        "unit": "aither-orchestrator.service",
        "engine_unit": "aither-orchestrator-engine.service",
        "command": ["llama-server", "--alias", "orchestrator"],
        "declared_bytes": 5 * GIB,
        "expected_bytes": 5 * GIB,
        "measured_bytes": {"gpu0": 19 * GIB},
        "in_flight": 0,
        "tokens": 0,
        "waiting": 0,
        "held": False,
        "busy": False,
        "since": NOW,
        "last_used": None,
        "stops_at": None,
        "endpoint": "unix:/run/aither-engine/orchestrator/http.sock",
        "error": "",
        "stage": "",
        "start_seconds": 0.0,
    }
    head, *rows, trouble = (await ctl(broker, "list")).out.splitlines()
    assert head.split() == ["MODEL", "CLASS", "RESIDENCY", "VRAM", "NEEDS", "REQUESTS", "STOPS", "DESCRIPTION"]
    assert trouble == "× broken: exited with status 1; see aitherctl logs broken"
    assert rows[2].split()[:5] == ["orchestrator", "essential", "ready", "19", "GiB"]
    assert {row.index("on-demand") for row in (rows[0], rows[1], rows[3])} == {head.index("CLASS")}
    assert "1 +3 waiting" in rows[3]
    assert "waiting for gpu0" in rows[3]


@pytest.mark.parametrize(
    ("names", "status"), [(("orchestrator",), 0), (("vision", "orchestrator"), 3), (("broken",), 3), (("visoin",), 4)]
)
async def test_the_exit_status_of_status(
    broker: Broker, service: BusService, names: tuple[str, ...], status: int
) -> None:
    assert (await ctl(broker, "status", *names)).status == status


async def test_status_shows_a_model_in_full(broker: Broker, fleet: SmallFleet, service: BusService) -> None:
    fleet.change("vision", residency=Residency.READY, held=True, in_flight=2, measured={"gpu0": 5 * GIB})
    fleet.records.add(Event.READY, "vision is ready after 3.1 s", model="vision", seconds=3.1)
    ran = await ctl(broker, "status", "qwen2.5-vl")
    for line in (
        "● vision - what vision does",
        "       Class: on-demand, engine llama-server",
        "        Held: until it is released or stopped",
        "    Requests: 2 in flight, 0 waiting; not used yet",
        "        VRAM: 5 GiB on gpu0 (expected 5 GiB, declared 5 GiB)",
        "        Unit: aither-vision.service, engine in aither-vision-engine.service",
        "     Command: llama-server --alias vision",
    ):
        assert line in ran.out.splitlines()
    assert ran.out.splitlines()[-1].endswith(" ready         vision is ready after 3.1 s")
    (model,) = await answer(broker, "status", "vision")
    (record,) = model["records"]
    assert (record["time"], record["event"], record["model"]) == (NOW, "ready", "vision")
    assert record["fields"] == {"seconds": 3.1}


async def test_status_without_a_name_is_the_fleet(broker: Broker, fleet: SmallFleet, service: BusService) -> None:
    fleet.faults = ("the driver hangs; reload it",)
    whole = await answer(broker, "status")
    problems = ["the driver hangs; reload it"]
    assert whole["daemon"] == {"version": __version__, "healthy": False, "problems": problems, "leases": []}
    assert [model["name"] for model in whole["models"]] == ["0.5b-draft", "broken", "orchestrator", "vision"]
    ran = await ctl(broker, "status")
    assert ran.out.splitlines()[1] == "  the driver hangs; reload it"
    # What is free is what a plan may use, as everywhere.
    assert "25 GiB of 32 GiB used, 6.5 GiB free" in ran.out


async def test_devices_show_owners(broker: Broker, service: BusService) -> None:
    (device,) = await answer(broker, "devices")
    assert device["models"] == {"orchestrator": 19 * GIB}
    assert device["foreign"] == [{"name": "gnome-shell", "pid": 4711, "bytes": 300 * 2**20}]
    rows = [line.split() for line in (await ctl(broker, "devices")).out.splitlines()]
    assert ["orchestrator", "19", "GiB", "ready"] in rows
    assert ["gnome-shell", "300", "MiB", "foreign,", "PID", "4711"] in rows
    assert ["reserve", "512", "MiB", "no", "plan", "may", "use", "it"] in rows
    # With what is free they are the whole device.
    assert next(row for row in rows if row[:1] == ["driver"])[1:3] == ["5.7", "GiB"]


async def test_models_are_held_released_and_stopped(broker: Broker, fleet: SmallFleet, service: BusService) -> None:
    (model,) = await answer(broker, "hold", "qwen2.5-vl")
    assert (model["name"], model["residency"], model["held"]) == ("vision", "ready", True)
    ran = await ctl(broker, "release", "vision")
    assert (ran.status, ran.out, ran.err) == (0, "", "")
    assert (await ctl(broker, "stop", "vision")).status == 0
    assert (await ctl(broker, "stop", "--force", "vision")).status == 0
    assert fleet.stopped == [("vision", False), ("vision", True)]


async def test_failures_are_one_line_or_one_object(broker: Broker, service: BusService) -> None:
    ran = await ctl(broker, "start", "broken")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == "aitherctl: broken did not become ready: exited with status 1; see aitherctl logs broken\n"
    ran = await ctl(broker, "--json", "plan", "visoin")
    assert (ran.status, ran.out) == (4, "")
    error = json.loads(ran.err)["error"]
    assert error["name"] == f"{BUS_NAME}.Error.NoSuchModel"
    assert error["message"].startswith("no model is called visoin; there is ")


async def test_a_start_that_is_interrupted_is_withdrawn(broker: Broker, fleet: SmallFleet, service: BusService) -> None:
    fleet.gate.clear()
    # A shell without job control has its background children ignore interruptions, and they theirs.
    heeding = ("env", "--default-signal=INT")
    process = await broker.start(*heeding, sys.executable, "-m", "aitherd.ctl", "--user", "start", "vision")
    await broker.until(lambda: fleet.demands.get("vision") == 1)
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 130
    await broker.until(lambda: fleet.demands["vision"] == 0)


async def test_waiting_can_be_bounded(broker: Broker, fleet: SmallFleet, service: BusService) -> None:
    fleet.gate.clear()
    ran = await ctl(broker, "start", "vision", "--timeout", "0.2")
    assert ran.status == 1
    assert ran.err.startswith("aitherctl: there was no answer in time")
    await broker.until(lambda: fleet.demands["vision"] == 0)


async def test_plans_and_refusals(broker: Broker, service: BusService) -> None:
    assert (await answer(broker, "plan", "vision"))["seconds"] == 10.0
    ran = await ctl(broker, "plan", "vision")
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert lines == [
        "● vision can be brought in on gpu0 in about 10 s: fits after one stop",
        "STEP MEMORY TIME BECAUSE",
        "1. stop embedder gives 2 GiB on gpu0 2 s idle for 5 min",
        "2. start vision takes 5 GiB on gpu0 8 s wanted",
        "above the reserve afterwards: 3 GiB on gpu0",
    ]
    assert (await answer(broker, "plan", "broken", status=1))["kind"] == "never"
    refused = (await ctl(broker, "plan", "broken")).out
    assert refused.startswith("× broken can never be brought in: 3 GiB are missing for ever")
    assert "orchestrator" in refused


async def test_why_tells_what_happened(broker: Broker, fleet: SmallFleet, service: BusService) -> None:
    for number in range(5):
        fleet.records.add(Event.REFUSED, f"refused for the {number}. time", model="broken", missing=GIB)
    records = await answer(broker, "why", "broken", "-n", "2")
    assert [record["message"] for record in records] == ["refused for the 3. time", "refused for the 4. time"]
    fleet.records.add(Event.CONFIGURATION, "configuration read")
    everything = await answer(broker, "why")
    assert everything[-1]["message"] == "configuration read"
    assert [one for one in everything if one["model"] == "broken"][-2:] == records
    lines = (await ctl(broker, "why", "broken")).out.splitlines()
    assert lines[0].startswith("broken is failed since ")
    assert lines[1] == "  exited with status 1; see aitherctl logs broken"
    assert len(lines) == 7


async def test_what_a_model_says_cannot_control_the_terminal(
    broker: Broker, fleet: SmallFleet, service: BusService
) -> None:
    fleet.change("broken", error="\033[2Jgone\nnext", description="\033]0;title\007")
    fleet.records.add(Event.FAILED, "\033[2Jgone", model="broken")
    for arguments in (("list",), ("status",), ("status", "broken"), ("why", "broken")):
        assert "\033" not in (await ctl(broker, *arguments)).out


async def test_reload_and_version(broker: Broker, service: BusService) -> None:
    assert "newcomer" in (await answer(broker, "reload"))["models"]
    assert await answer(broker, "version") == {"aitherctl": __version__, "aitherd": __version__}


async def test_without_the_daemon(broker: Broker) -> None:
    ran = await ctl(broker, "list")
    assert ran.status == 1
    assert ran.err == (
        "aitherctl: aitherd is not on this bus, and the bus cannot start it; "
        "is it installed? The user's own daemon is reached with --user\n"
    )
    assert await answer(broker, "version") == {"aitherctl": __version__, "aitherd": None}


async def test_sizes_of_devices_come_from_the_daemon(broker: Broker, service: BusService, tmp_path: Any) -> None:
    models = tmp_path / "models.d"
    models.mkdir()
    (models / "huge.toml").write_text(
        'engine = "exec"\nclass = "essential"\nvram = "40 GiB"\ncommand = ["sleep", "{port}"]\n'
    )
    report = await answer(broker, "check-config", str(tmp_path), status=1)
    assert not report["valid"]
    assert [device["total"] for device in report["devices"]] == [32 * GIB]
    assert "the essential models do not fit" in report["problems"][-1]["message"]


async def test_colour_is_for_terminals(broker: Broker, service: BusService) -> None:
    """On a terminal the residency is coloured; NO_COLOR forbids it."""
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-c", SHOW_ON_TERMINAL.format(program=sys.executable, terminal=theirs)]
        process = await broker.start(*command, environment={"TERM": "xterm", **environment}, pass_fds=(theirs,))
        _, err = await process.communicate()
        os.close(theirs)
        shown = os.read(ours, 65536).decode()
        os.close(ours)
        assert process.returncode == 0, err
        assert "orchestrator" in shown
        assert ("\033[32mready" in shown) == coloured
        assert ("\033" in shown) == coloured


SHOW_ON_TERMINAL = """
import subprocess
with open({terminal}, "w", closefd=False) as terminal:
    raise SystemExit(subprocess.run(["{program}", "-m", "aitherd.ctl", "--user", "list"], stdout=terminal).returncode)
"""
