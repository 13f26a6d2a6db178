"""The day of the fleet on the native test bed, where it takes a minute; on a whole machine it is in tests/machine."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from tests.day import checks, plot
from tests.day.fleet import OLLAMA, PROGRAMS, SETTINGS, day_file
from tests.testbed.rig import REPOSITORY, STAND_INS, Rig


def test_the_fleet_lives_a_day(start_rig: Callable[..., Rig], real_llama: Path, tmp_path: Path) -> None:
    rig = start_rig(path=[real_llama])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rig.settings(SETTINGS.format(port=port))
    rig.manager.install_unit("ollama.service", OLLAMA.format(port=port, program=STAND_INS / "ollama"))
    rig.manager.reload()
    rig.manager.systemctl("start", "ollama.service")
    for name in (*PROGRAMS, "vision"):
        rig.model(name, day_file(name))
    ctl = [sys.executable, "-m", "aitherd.ctl", "--user"]
    report = tmp_path / "report.json"
    story = [sys.executable, "-m", "tests.day.story", str(rig.socket), str(report), str(port), "--", *ctl]
    rig.manager.run(story, timeout=600.0)
    told = json.loads(report.read_text())
    plot.draw(told, REPOSITORY / "build" / "day" / "native")
    checks.check(told)
    print(checks.latencies(told))
