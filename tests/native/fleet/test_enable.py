"""Installing starts nothing; one command turns models on, and the essential one comes up by itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.native.daemon.conftest import engine
from tests.native.fleet.conftest import is_ready, shipped
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Shipped files whose programs are here, and one whose is not."""
    directory = tmp_path / "examples"
    directory.mkdir()
    (directory / "orchestrator.toml").write_text(shipped("orchestrator"))
    (directory / "plain.toml").write_text(engine())
    (directory / "lost.toml").write_text(engine().replace('"engine", "--socket"', '"/opt/x/engine", "--socket"'))
    return directory


def ctl(rig: Rig, examples: Path, *words: str, check: bool = True) -> CompletedProcess[str]:
    command = [sys.executable, "-m", "aitherd.ctl", "--user", *words]
    return rig.manager.run(command, check=check, env={"AITHER_SHIPPED_DIR": str(examples)})


def test_one_command_turns_the_fleet_on_and_another_a_model_off(rig: Rig, gpu: Gpu, examples: Path) -> None:
    assert rig.ctl_json("list") == []
    enabled = ctl(rig, examples, "enable", "--all", check=False)
    assert enabled.returncode == 1
    assert "/opt/x/engine does not exist" in enabled.stderr
    assert {model["name"] for model in rig.ctl_json("list")} == {"orchestrator", "plain"}
    rig.wait_for(lambda: is_ready(rig, "orchestrator"), "the orchestrator")
    assert gpu.card.used == int(0.60 * gpu.card.total)
    # systemd has its units, too.
    assert rig.manager.show("aither-plain.service", "LoadState")["LoadState"] == "loaded"
    ctl(rig, examples, "disable", "plain")
    assert {model["name"] for model in rig.ctl_json("list")} == {"orchestrator"}


def test_the_doctor_sees_the_card_and_what_is_missing(rig: Rig) -> None:
    rig.model("speak", shipped("speak", "--model-folder", "/srv/xtts/models"))
    rig.model("vision", engine())
    found = json.loads(rig.ctl("--json", "doctor", check=False).stdout)
    by_name = {finding["about"]: finding for finding in found}
    assert by_name["gpu0"]["message"] == "NVIDIA GeForce RTX 5090, 31.8 GiB, driver 580.95.05"
    assert by_name["vision"]["message"] == "nothing stands in its way"
    assert by_name["speak"]["message"] == "--model-folder /srv/xtts/models cannot be read"
