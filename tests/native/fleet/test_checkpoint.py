"""An engine that cannot sleep is suspended by cuda-checkpoint where its file says so; and how that goes wrong."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.native.daemon.conftest import GIB, chat, engine
from tests.native.fleet.conftest import said, steps
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig

SLOW = ("--load-seconds", "6")
"""Longer than a suspended process is expected to take, so that suspending is worth it. What is suspended is small: it
needs room in the memory of the machine that runs the test."""
ON = "checkpoint = true\n"


def process(rig: Rig) -> dict[str, str]:
    return rig.manager.show("aither-first-engine.service", "MainPID", "InvocationID")


def test_it_leaves_the_device_and_comes_back_as_the_same_process(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    gpu.release_lag = 0.3
    rig.model("first", engine("3 GiB", *SLOW, more=ON))
    rig.model("second", engine("29 GiB", *SLOW))
    assert chat(http, "first").status_code == 200
    before = process(rig)
    assert chat(http, "second").status_code == 200
    asleep = rig.status("first")
    assert (asleep["residency"], asleep["measured_bytes"]) == ("sleeping", {})
    assert gpu.card.used == 29 * GIB
    # The daemon is disposable: what is suspended shows in what it holds.
    rig.manager.systemctl("restart", "aitherd.service")
    rig.wait_for(lambda: rig.status("first")["residency"] == "sleeping", "the adoption of a suspended engine")
    answer = chat(http, "first")
    assert answer.status_code == 200, answer.text
    assert process(rig) == before
    assert rig.status("first")["measured_bytes"] == {"gpu0": 3 * GIB}
    assert steps(rig)[-1] == "wake first"
    assert gpu.card.used == 3 * GIB


def test_a_suspension_that_gives_nothing_back_ends_in_a_stop(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    Path(f"{gpu.path}.stuck").touch()
    rig.model("first", engine("3 GiB", *SLOW, more=ON))
    rig.model("second", engine("29 GiB", *SLOW))
    for name in ("first", "second"):
        answer = chat(http, name)
        assert answer.status_code == 200, answer.text
    assert steps(rig) == ["start first", "sleep first", "start second"]
    assert any("first does not sleep" in text for text in said(rig, "lagging"))
    assert rig.status("first")["residency"] == "absent"
    assert gpu.card.used == 29 * GIB


def test_a_driver_that_is_too_old_is_told_and_the_model_is_stopped(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    gpu.change_driver("560.35.03")
    rig.model("first", engine("3 GiB", *SLOW, more=ON))
    rig.model("second", engine("29 GiB", *SLOW))
    for name in ("first", "second"):
        assert chat(http, name).status_code == 200
    assert any("driver 560.35.03 cannot suspend processes; install 570" in text for text in said(rig, "lagging"))
    assert rig.status("first")["residency"] == "absent"
    refused = rig.ctl("check-config", check=False)
    assert refused.returncode != 0
    assert "driver 560.35.03 cannot suspend processes" in refused.stdout
