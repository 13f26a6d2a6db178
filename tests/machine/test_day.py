"""The whole shipped fleet lives a day in minutes on a card of 32606 MiB, as the system's service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.day import checks, plot
from tests.day.fleet import OLLAMA, PROGRAMS, SETTINGS, day_file
from tests.machine.conftest import ARTEFACTS, REPOSITORY, in_guest, keep_if_failed
from tests.machine.workstation import CARD, SOCKET, workstation
from tests.testbed import models
from tests.testbed.nvml.gpu import FILE_VARIABLE

DAY_S = 900.0
OLLAMA_PORT = 11434
VISION = (
    *("-m", f"/mnt/models/{models.CHAT}", "--mmproj", f"/mnt/models/{models.VISION}", "--no-mmproj-offload"),
    *("-ngl", "99", "--ctx-size", "4096", "--alias", "qwen2.5-vl", "--jinja", "--threads", "1"),
)


def test_the_fleet_lives_a_day(package: Path, request: pytest.FixtureRequest) -> None:
    with workstation("day", package) as station:
        for program in {words[0] for words in PROGRAMS.values()}:
            path = in_guest(REPOSITORY / "tests" / "testbed" / "bin" / program)
            wrapper = f"/usr/local/bin/{program}"
            station.guest.run(
                f"printf '#!/bin/sh\\nexec {path} \"$@\"\\n' >{wrapper} && chmod 755 {wrapper}", check=True
            )
        station.guest.run("cat >/etc/aither/aitherd.toml", stdin=SETTINGS.format(port=OLLAMA_PORT), check=True)
        program = in_guest(REPOSITORY / "tests" / "testbed" / "bin" / "ollama")
        unit = OLLAMA.format(port=OLLAMA_PORT, program=program)
        station.guest.run("cat >/etc/systemd/system/ollama.service && systemctl daemon-reload", stdin=unit, check=True)
        station.systemctl("start", "ollama.service")
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
    keep_if_failed(request.node, "day")
