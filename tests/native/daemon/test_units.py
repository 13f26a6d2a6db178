"""`systemctl` is all one needs: a model unit holds its model, and tells the truth about it."""

import threading

import httpx
import pytest

from tests.native.daemon.conftest import GIB, ask, chat, engine
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig


def active(rig: Rig, unit: str) -> str:
    return rig.manager.show(unit, "ActiveState")["ActiveState"]


def test_starting_the_unit_starts_the_daemon_and_blocks_until_the_model_answers(rig: Rig, http: httpx.Client) -> None:
    rig.model("vision", engine(idle="1s"))
    rig.reload()
    assert not rig.running
    rig.manager.systemctl("start", "aither-vision.service")
    assert rig.status("vision")["residency"] == "ready"
    assert rig.status("vision")["held"] is True
    assert active(rig, "aither-vision-engine.service") == "active"
    assert chat(http, "vision").headers["x-aither-reason"] == "ready"


def test_a_load_that_fails_fails_the_unit_with_the_reason(rig: Rig) -> None:
    rig.model("broken", engine("1 GiB", "--fault", "exit", "--says", "error: no such tensor"))
    rig.reload()
    failed = rig.manager.systemctl("start", "aither-broken.service", check=False)
    assert failed.returncode != 0
    assert active(rig, "aither-broken.service") == "failed"
    assert "no such tensor" in rig.manager.journal("-u", "aither-broken.service")
    assert "error: no such tensor" in rig.manager.journal("-u", "aither-broken-engine.service")


def test_stopping_the_unit_drains_what_is_in_flight(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    rig.model("vision", engine("4 GiB", "--token-seconds", "0.05"))
    rig.reload()
    rig.manager.systemctl("start", "aither-vision.service")
    with http.stream("POST", "/v1/chat/completions", json=ask("vision", stream=True, tokens=30)) as answer:
        lines = answer.iter_lines()
        next(lines)
        stop = threading.Thread(target=rig.manager.systemctl, args=("stop", "aither-vision.service"))
        stop.start()
        assert "data: [DONE]" in list(lines)
    stop.join()
    assert active(rig, "aither-vision.service") == "inactive"
    assert rig.status("vision")["residency"] == "absent"
    assert gpu.card.used == 0


def test_a_forced_stop_does_not_wait(rig: Rig, http: httpx.Client) -> None:
    rig.model("vision", engine("4 GiB", "--token-seconds", "0.05"))
    rig.ctl("start", "vision")
    with http.stream("POST", "/v1/chat/completions", json=ask("vision", stream=True, tokens=1000)) as answer:
        lines = answer.iter_lines()
        next(lines)
        rig.ctl("stop", "--force", "vision")
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    assert rig.status("vision")["residency"] == "absent"


def test_when_the_engine_dies_the_unit_leaves_active_and_the_next_request_starts_anew(
    rig: Rig, gpu: Gpu, http: httpx.Client
) -> None:
    rig.model("vision", engine())
    rig.reload()
    rig.manager.systemctl("start", "aither-vision.service")
    rig.manager.systemctl("kill", "--signal=KILL", "aither-vision-engine.service")
    rig.wait_for(lambda: active(rig, "aither-vision.service") != "active", "the unit to leave active")
    assert rig.status("vision")["held"] is False
    rig.wait_for(lambda: "signal" in rig.status("vision")["error"], "the cause to be known")
    refused = chat(http, "vision")
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "backing_off"
    assert float(refused.headers["retry-after"]) > 0
    rig.ctl("start", "vision")
    assert chat(http, "vision").status_code == 200
    assert gpu.card.used == 4 * GIB


def test_a_hold_and_an_active_unit_are_the_same_thing(rig: Rig) -> None:
    rig.model("vision", engine())
    rig.reload()
    rig.ctl("hold", "vision")
    rig.wait_for(lambda: active(rig, "aither-vision.service") == "active", "the unit to follow the hold")
    rig.ctl("release", "vision")
    rig.wait_for(lambda: active(rig, "aither-vision.service") == "inactive", "the unit to follow the release")
    assert rig.status("vision")["residency"] == "ready"


def test_limits_of_the_model_file_are_the_units_properties(rig: Rig) -> None:
    rig.model(
        "vision", engine(more='[resources]\nMemoryMax = "2G"\nCPUWeight = 50\nTasksMax = 100\nCPUQuota = "150%"\n')
    )
    rig.ctl("start", "vision")
    shown = rig.manager.show(
        "aither-vision-engine.service", "MemoryMax", "CPUWeight", "TasksMax", "CPUQuotaPerSecUSec", "Slice", "KillMode"
    )
    # Written differently by different versions of systemctl.
    assert shown.pop("CPUQuotaPerSecUSec") in ("1.5s", "1.500000s")
    assert shown == {
        "MemoryMax": str(2 * GIB),
        "CPUWeight": "50",
        "TasksMax": "100",
        "Slice": "aither.slice",
        "KillMode": "control-group",
    }


def test_an_essential_model_comes_up_with_the_daemon_and_comes_back_when_it_dies(rig: Rig) -> None:
    rig.model("orchestrator", engine("19 GiB", kind="essential"))
    rig.reload()
    rig.ctl("list")
    rig.wait_for(lambda: active(rig, "aither-orchestrator.service") == "active", "the essential model's unit")
    rig.manager.systemctl("kill", "--signal=KILL", "aither-orchestrator-engine.service")
    rig.wait_for(lambda: rig.status("orchestrator")["residency"] == "failed", "the death to be seen")
    rig.wait_for(lambda: rig.status("orchestrator")["residency"] == "ready", "the essential model to come back")
    rig.wait_for(lambda: active(rig, "aither-orchestrator.service") == "active", "its unit to come back")
    rig.manager.systemctl("stop", "aither-orchestrator.service")
    assert rig.status("orchestrator")["residency"] == "absent"


def test_the_bus_shows_the_fleet(rig: Rig) -> None:
    rig.model("vision", engine())
    tree = rig.manager.run(["busctl", "--user", "tree", "org.aitheros.Aither1"]).stdout
    assert "/org/aitheros/Aither1/model/vision" in tree
    assert "/org/aitheros/Aither1/device/gpu0" in tree
    rig.manager.run(
        [
            *("busctl", "--user", "call", "org.aitheros.Aither1", "/org/aitheros/Aither1"),
            *("org.aitheros.Aither1.Manager", "Start", "s", "vision"),
        ]
    )
    shown = rig.manager.run(
        [
            *("busctl", "--user", "get-property", "org.aitheros.Aither1", "/org/aitheros/Aither1/model/vision"),
            *("org.aitheros.Aither1.Model", "Residency"),
        ]
    )
    assert shown.stdout == 's "ready"\n'


def test_everything_can_be_stopped_in_one_command(rig: Rig, gpu: Gpu) -> None:
    rig.model("vision", engine())
    rig.reload()
    rig.manager.systemctl("start", "aither-vision.service")
    rig.manager.systemctl(
        "stop", "aitherd.socket", "aitherd.service", "aither-vision.service", "aither-vision-engine.service"
    )
    assert gpu.card.used == 0
    assert not rig.running


def test_without_a_daemon_stopping_the_unit_stops_the_engine(rig: Rig, gpu: Gpu) -> None:
    rig.model("vision", engine())
    rig.reload()
    rig.manager.systemctl("start", "aither-vision.service")
    rig.manager.systemctl("stop", "aitherd.socket", "aitherd.service")
    rig.manager.systemctl("stop", "aither-vision.service")
    assert gpu.card.used == 0
    assert not rig.running
    rig.manager.systemctl("start", "aitherd.service")
    assert rig.status("vision")["residency"] == "absent" and rig.status("vision")["held"] is False


def test_an_essential_model_cannot_be_released_but_stopped(rig: Rig) -> None:
    rig.model("orchestrator", engine("19 GiB", kind="essential"))
    rig.reload()
    rig.ctl("list")
    rig.wait_for(lambda: active(rig, "aither-orchestrator.service") == "active", "the essential model's unit")
    refused = rig.ctl("release", "orchestrator", check=False)
    assert refused.returncode == 1 and "essential" in refused.stderr
    rig.manager.systemctl("stop", "aither-orchestrator.service")
    assert rig.status("orchestrator")["residency"] == "absent"


def test_an_essential_model_that_a_reload_brings_comes_up(rig: Rig) -> None:
    rig.reload()
    rig.ctl("list")
    rig.model("orchestrator", engine("19 GiB", kind="essential"))
    rig.reload()
    rig.wait_for(lambda: rig.status("orchestrator")["residency"] == "ready", "the new essential model")
