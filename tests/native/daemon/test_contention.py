"""Who gets the device when several want it at the same moment, or when it changes under a decision."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from pathlib import Path

import httpx

from tests.native.daemon.conftest import GIB, ask, chat, engine
from tests.native.daemon.test_main_job import steps
from tests.testbed.nvml import Fault, Gpu
from tests.testbed.rig import Rig


def gated(tmp_path: Path, text: str) -> tuple[str, Path]:
    """A model file like `text` whose engine waits, before it takes anything, until the file that is returned exists."""
    gate, script = tmp_path / "gate", tmp_path / "gated-engine"
    script.write_text(f'#!/bin/sh\nwhile ! test -e {shlex.quote(str(gate))}; do sleep 0.05; done\nexec engine "$@"\n')
    script.chmod(0o755)
    return text.replace('"engine"', f'"{script}"', 1), gate


def test_two_demands_at_once_are_both_met_one_after_the_other(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    for name in ("first", "second"):
        rig.model(name, engine("20 GiB", "--load-seconds", "0.3"))
    rig.ctl("list")
    together, answers = threading.Barrier(2), []

    def demand(name: str) -> None:
        with rig.http() as client:
            together.wait()
            answers.append(chat(client, name).status_code)

    threads = [threading.Thread(target=demand, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200, 200]
    (_, one), (_, gone), (_, other) = steps(rig)
    assert [step for step, _ in steps(rig)] == ["start", "stop", "start"]
    assert gone == one and {one, other} == {"first", "second"}
    # The stand-in would have died for lack of memory had both been there at once.
    assert gpu.card.used == 20 * GIB


def test_a_program_that_takes_the_room_between_check_and_load_costs_a_second_try_and_is_left_alone(
    rig: Rig, gpu: Gpu, http: httpx.Client, tmp_path: Path
) -> None:
    text, gate = gated(tmp_path, engine("12 GiB"))
    rig.model("idle", engine("10 GiB"))
    rig.model("vision", text)
    rig.ctl("start", "idle")
    answers = []

    def demand() -> None:
        with rig.http() as client:
            answers.append(chat(client, "vision").status_code)

    waits = threading.Thread(target=demand)
    waits.start()
    rig.wait_for(lambda: rig.status("vision")["residency"] == "starting", "the start")
    game = gpu.card.foreign(16 * GIB, graphics=True)
    try:
        gate.touch()
        waits.join()
        assert answers == [200] and game.poll() is None
        # What was in the way gives way; whoever is not ours does not.
        assert steps(rig) == [("start", "idle"), ("start", "vision"), ("stop", "idle"), ("start", "vision")]
        lagging = [record["message"] for record in rig.records() if record["event"] == "lagging"]
        assert any("once more, since others took its room meanwhile" in message for message in lagging), lagging
        assert rig.status("vision")["expected_bytes"] == 12 * GIB
    finally:
        game.kill()
        game.communicate()


def test_a_model_that_becomes_busy_while_its_eviction_is_decided_is_not_stopped(
    rig: Rig, gpu: Gpu, http: httpx.Client
) -> None:
    rig.model("busy", engine("20 GiB", "--token-seconds", "0.05"))
    rig.model("other", engine("20 GiB"))
    assert chat(http, "busy").status_code == 200
    order: list[str] = []

    def other() -> None:
        with rig.http() as client:
            assert chat(client, "other").status_code == 200
        order.append("other")

    # The measurement that the decision waits for does not come before the request is in flight.
    gpu.card.faults = Fault.HANG
    waits = threading.Thread(target=other)
    waits.start()
    rig.wait_for(lambda: rig.status("other")["waiting"] == 1, "the demand")
    with http.stream("POST", "/v1/chat/completions", json=ask("busy", stream=True, tokens=40)) as answer:
        lines = answer.iter_lines()
        next(lines)
        gpu.card.faults = Fault.NONE
        assert "data: [DONE]" in list(lines)
    order.append("busy")
    waits.join()
    assert order == ["busy", "other"]
    assert steps(rig) == [("start", "busy"), ("stop", "busy"), ("start", "other")]


def test_when_the_main_process_is_killed_a_child_that_holds_memory_goes_with_it(
    rig: Rig, gpu: Gpu, http: httpx.Client
) -> None:
    rig.model("parent", engine("20 GiB", "--fault", "child", more='stop-timeout = "1s"'))
    rig.model("other", engine("20 GiB"))
    rig.ctl("start", "parent")
    assert rig.status("parent")["measured_bytes"] == {"gpu0": 20 * GIB}
    shown = rig.manager.systemctl("show", "--property=MainPID", "--value", "aither-parent-engine.service")
    os.kill(int(shown.stdout), signal.SIGKILL)
    rig.wait_for(lambda: rig.status("parent")["residency"] == "failed", "the death to be seen")
    # The child held the memory on its own for a while, and nothing was started before it was gone.
    assert chat(http, "other").status_code == 200
    assert gpu.card.used == 20 * GIB
    assert rig.status("parent")["measured_bytes"] == {}


def test_a_stop_that_waits_for_a_long_answer_keeps_nobody_from_the_device(rig: Rig, http: httpx.Client) -> None:
    rig.model("long", engine("4 GiB", "--token-seconds", "0.05"))
    rig.model("other", engine("4 GiB"))
    assert chat(http, "long").status_code == 200
    with http.stream("POST", "/v1/chat/completions", json=ask("long", stream=True, tokens=200)) as answer:
        lines = answer.iter_lines()
        next(lines)
        stop = threading.Thread(target=rig.ctl, args=("stop", "long"))
        stop.start()
        rig.wait_for(lambda: rig.status("long")["residency"] == "stopping", "the drain")
        with rig.http() as client:
            assert chat(client, "other").status_code == 200
        assert stop.is_alive()
        assert "data: [DONE]" in list(lines)
    stop.join()
    assert rig.status("long")["residency"] == "absent" and rig.status("other")["residency"] == "ready"
