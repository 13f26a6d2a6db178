"""The whole shipped fleet lives a day in minutes on a card of 32606 MiB, as the system's service.

And what else of engines only the system's manager shows: helpers of theirs in units of another user.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.day import checks, plot
from tests.day.fleet import OLLAMA, PROGRAMS, SETTINGS, day_file
from tests.machine.conftest import ARTEFACTS, REPOSITORY, in_guest, keep_if_failed
from tests.machine.workstation import CARD, SOCKET, Workstation, workstation
from tests.testbed import models
from tests.testbed.nvml.gpu import FILE_VARIABLE

DAY_S = 1500.0
OLLAMA_PORT = 11434
WEIGHTS = f"/mnt/models/{models.CHAT}"
VISION = (
    *("-m", WEIGHTS, "--mmproj", f"/mnt/models/{models.VISION}", "--no-mmproj-offload"),
    *("-ngl", "99", "--ctx-size", "4096", "--alias", "qwen2.5-vl", "--jinja", "--threads", "1"),
)


@pytest.fixture(scope="module")
def station(package: Path, request: pytest.FixtureRequest) -> Iterator[Workstation]:
    """A machine with stand-ins for the programs of the shipped files, and an Ollama that is not aitherd's."""
    with workstation("day", package) as booted:
        for program in {*(words[0] for words in PROGRAMS.values()), "cuda-checkpoint"}:
            path = in_guest(REPOSITORY / "tests" / "testbed" / "bin" / program)
            wrapper = f"/usr/local/bin/{program}"
            booted.guest.run(
                f"printf '#!/bin/sh\\nexec {path} \"$@\"\\n' >{wrapper} && chmod 755 {wrapper}", check=True
            )
        booted.guest.run("cat >/etc/aither/aitherd.toml", stdin=SETTINGS.format(port=OLLAMA_PORT), check=True)
        program = in_guest(REPOSITORY / "tests" / "testbed" / "bin" / "ollama")
        unit = OLLAMA.format(port=OLLAMA_PORT, program=program)
        booted.guest.run("cat >/etc/systemd/system/ollama.service && systemctl daemon-reload", stdin=unit, check=True)
        booted.systemctl("start", "ollama.service")
        yield booted
    keep_if_failed(request.node, "day")


def test_the_fleet_lives_a_day(station: Workstation) -> None:
    for name in (*PROGRAMS, "vision"):
        station.model(name, day_file(name, vision=VISION, port="8307"))
    station.systemctl("restart", "aitherd.service")
    arguments = f"{SOCKET} /mnt/host/report.json {OLLAMA_PORT} -- aitherctl"
    story = f"cd {in_guest(REPOSITORY)} && python3 -m tests.day.story {arguments}"
    station.guest.run(story, env={FILE_VARIABLE: CARD}, check=True, timeout=DAY_S)
    told = json.loads((ARTEFACTS / "day" / "report.json").read_text())
    picture = plot.draw(told, REPOSITORY / "build" / "day" / "machine")
    print(f"{checks.latencies(told)}\n{picture}")
    checks.check(told)
    assert station.show("ollama.service", "ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
    # Where other programs expect it.
    assert station.guest.journal("-b", "AITHER_MODEL=vision", "AITHER_ENDPOINT=tcp:127.0.0.1:8307")


def test_a_program_that_sees_no_gpu_is_found_out_in_the_units_own_sandbox(station: Workstation) -> None:
    command = json.dumps(["llama-server", "-m", WEIGHTS, "--threads", "1"])
    station.model("blind", f'engine = "llama-server"\nvram = "1 GiB"\ncommand = {command}\n')
    station.systemctl("restart", "aitherd.service")
    refused = station.guest.run("aitherctl start blind")
    assert refused.returncode != 0
    assert "llama-server: it sees no GPU; take a build with CUDA" in refused.stderr
    station.wait_for_manager_to_say("aither-blind-check.service")
    station.guest.run("rm /etc/aither/models.d/blind.toml", check=True)


def test_an_engine_that_cannot_sleep_is_suspended_as_its_own_user(station: Workstation) -> None:
    # Small enough for the memory of the machine that it goes to.
    station.stand_in("first", "--load-seconds", "6", more="checkpoint = true")
    large = (31 << 30) - (512 << 20)
    program = in_guest(REPOSITORY / "tests" / "testbed" / "bin" / "engine")
    command = json.dumps([program, "--socket", "{socket}", "--vram", str(large)])
    station.model("second", f'engine = "exec"\nvram = "30.5 GiB"\ncommand = {command}\n')
    station.guest.run("rm /etc/aither/models.d/orchestrator.toml /etc/aither/models.d/embed.toml", check=True)
    station.guest.run("printf '[arbiter]\\nhost-reserve = \"64 MiB\"\\n' >/etc/aither/aitherd.toml", check=True)
    station.systemctl("restart", "aitherd.service")
    station.guest.run("aitherctl stop orchestrator embed; aitherctl start first", check=True, timeout=DAY_S)
    before = station.show("aither-first-engine.service", "MainPID", "InvocationID")
    station.guest.run("aitherctl start second", check=True, timeout=DAY_S)
    assert station.property("first", "Residency") == 's "sleeping"'
    status, body = station.chat("first")
    assert status == 200, body
    assert station.show("aither-first-engine.service", "MainPID", "InvocationID") == before
