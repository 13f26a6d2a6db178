"""A person puts a model to sleep and wakes it; what cannot sleep says so and stays."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import httpx

from tests.native.daemon.conftest import GIB, chat, engine
from tests.native.fleet.conftest import shipped, steps
from tests.testbed.rig import Rig

CONTEXT = int(1.4 * GIB)


def test_a_model_sleeps_and_wakes_as_it_is_told(rig: Rig, http: httpx.Client) -> None:
    rig.model("challenger", shipped("challenger"))
    rig.ctl("hold", "challenger")
    rig.ctl("sleep", "challenger")
    asleep = rig.status("challenger")
    assert (asleep["residency"], asleep["level"], asleep["measured_bytes"]) == ("sleeping", 1, {"gpu0": CONTEXT})
    # What sleeps is held no longer, and its unit says so.
    assert not asleep["held"]
    unit = "aither-challenger.service"
    rig.wait_for(lambda: rig.manager.show(unit, "ActiveState")["ActiveState"] == "inactive", "the end of the hold")
    assert rig.status("challenger")["residency"] == "sleeping"
    rig.ctl("wake", "challenger")
    assert rig.status("challenger")["residency"] == "ready"
    assert chat(http, "challenger").status_code == 200
    assert steps(rig) == ["start challenger", "sleep challenger", "wake challenger"]


def test_the_deeper_level_can_be_asked_for(rig: Rig) -> None:
    rig.model("challenger", shipped("challenger"))
    rig.ctl("start", "challenger")
    rig.ctl("sleep", "--level", "2", "challenger")
    assert rig.status("challenger")["level"] == 2
    refused = rig.ctl("sleep", "--level", "7", "challenger", check=False)
    assert refused.returncode == 1


def test_a_request_in_flight_is_answered_before_its_model_sleeps(rig: Rig, http: httpx.Client) -> None:
    rig.model("challenger", shipped("challenger", "--x-token-seconds", "0.1"))
    rig.ctl("start", "challenger")
    answers: list[httpx.Response] = []

    def ask() -> None:
        with rig.http() as client:
            answers.append(chat(client, "challenger", tokens=20))

    asking = threading.Thread(target=ask)
    asking.start()
    rig.wait_for(lambda: rig.status("challenger")["in_flight"] == 1, "the request")
    rig.ctl("sleep", "challenger")
    asking.join()
    assert answers[0].status_code == 200
    assert rig.status("challenger")["residency"] == "sleeping"


def test_what_cannot_sleep_or_does_not_sleep_says_so(rig: Rig) -> None:
    rig.model("plain", engine())
    rig.ctl("start", "plain")
    refused = rig.ctl("sleep", "plain", check=False)
    assert (refused.returncode, "cannot sleep" in refused.stderr) == (1, True)
    assert rig.status("plain")["residency"] == "ready"
    rig.ctl("stop", "plain")
    refused = rig.ctl("wake", "plain", check=False)
    assert (refused.returncode, "aitherctl start plain" in refused.stderr) == (1, True)


def test_events_come_as_they_happen_until_the_daemon_ends(rig: Rig) -> None:
    rig.model("vision", engine())
    rig.model("other", engine("2 GiB"))
    rig.ctl("list")
    command = [sys.executable, "-m", "aitherd.ctl", "--user", "--json", "events", "vision"]
    with rig.manager.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        follow(rig, watching)


def follow(rig: Rig, watching: subprocess.Popen[str]) -> None:
    """What is read from it is what happens."""
    assert watching.stdout is not None
    assert watching.stderr is not None
    # It says nothing when it is there: something happens until it is seen.
    lines = watching.stdout
    first = threading.Thread(target=lambda: seen.append(json.loads(lines.readline())))
    seen: list[dict[str, object]] = []
    first.start()
    while first.is_alive():
        rig.ctl("stop", "vision")
        rig.ctl("start", "vision")
        first.join(0.5)
    rig.ctl("stop", "vision")
    while seen[-1]["event"] != "stopped":
        seen.append(json.loads(lines.readline()))
    rig.ctl("start", "other")
    rig.ctl("start", "vision")
    seen = [json.loads(lines.readline()) for _ in range(4)]
    assert [one["event"] for one in seen] == ["demand", "plan", "step", "ready"]
    assert {one["model"] for one in seen} == {"vision"}
    rig.manager.systemctl("stop", "aitherd.service")
    assert watching.wait(30) == 1
    assert "aitherd has ended" in watching.stderr.read()
