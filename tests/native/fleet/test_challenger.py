"""The challenger sleeps, wakes, and shares its slot, as vLLM does it; and what comes of a vLLM that does it wrong."""

from __future__ import annotations

import httpx
import pytest

from aitherd.host.memory import host_memory
from tests.native.daemon.conftest import GIB, chat
from tests.native.fleet.conftest import said, shipped, steps
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig

SLOW = ("--x-load-seconds", "4")
"""A start that takes longer than a wake is expected to take, so that sleeping is worth it."""
SLOWER = ("--x-load-seconds", "12")
"""The same for a wake that has to read the weights again."""
CONTEXT = int(1.4 * GIB)


def test_the_slot_changes_hands_by_sleep_and_wake(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    rig.model("challenger", shipped("challenger", *SLOW))
    rig.model("challenger-offload", shipped("challenger-offload"))
    assert chat(http, "gemma-4-26b-a4b").status_code == 200
    share = rig.status("challenger")["measured_bytes"]["gpu0"]
    assert share == int(0.50 * gpu.card.total)
    assert chat(http, "gemma-4-26b-a4b-offload").status_code == 200
    # Both would fit this card; a slot is for one.
    asleep = rig.status("challenger")
    assert (asleep["residency"], asleep["level"], asleep["measured_bytes"]) == ("sleeping", 1, {"gpu0": CONTEXT})
    woken = chat(http, "gemma-4-26b-a4b")
    assert woken.status_code == 200, woken.text
    assert woken.json()["choices"][0]["message"]["content"].split() == ["word", "word"]
    assert rig.status("challenger")["measured_bytes"] == {"gpu0": share}
    assert gpu.card.used == share
    assert steps(rig) == [
        "start challenger",
        "sleep challenger",
        "start challenger-offload",
        # It cannot sleep: what it keeps in host memory already has nowhere to go.
        "stop challenger-offload",
        "wake challenger",
    ]


@pytest.mark.parametrize(
    ("words", "more", "problem"),
    [
        (("--x-sleep", "dies"), "", "does not sleep: it said yes and is "),
        (("--x-sleep-keeps", "12GiB"), "", "on gpu0 did not come back"),
        ((), '\n[service]\nEnvironment = ["VLLM_SERVER_DEV_MODE=0"]\n', "does not sleep: /sleep answered 404"),
    ],
    ids=["answers and dies", "keeps its memory", "has no such route"],
)
def test_a_sleep_that_lies_ends_in_a_stop_and_costs_nobody_an_answer(
    rig: Rig, gpu: Gpu, http: httpx.Client, words: tuple[str, ...], more: str, problem: str
) -> None:
    rig.model("challenger", shipped("challenger", *SLOW, *words, more=more))
    rig.model("challenger-offload", shipped("challenger-offload"))
    for name in ("gemma-4-26b-a4b", "gemma-4-26b-a4b-offload"):
        answer = chat(http, name)
        assert answer.status_code == 200, answer.text
    assert any(problem in text for text in said(rig, "lagging")), said(rig, "lagging")
    assert rig.status("challenger")["residency"] == "absent"
    assert gpu.card.used == int(0.30 * gpu.card.total)
    # Once more: nobody is put off for having slept badly.
    assert chat(http, "gemma-4-26b-a4b").status_code == 200
    assert steps(rig)[-2:] == ["stop challenger-offload", "start challenger"]


def test_without_host_memory_to_spare_it_sleeps_without_its_weights_and_wakes_again(
    rig: Rig, gpu: Gpu, http: httpx.Client
) -> None:
    # All of it is kept for others, so no weights may go there.
    rig.settings(f"[arbiter]\nhost-reserve = {host_memory().total}\n")
    rig.model("challenger", shipped("challenger", *SLOWER))
    rig.model("challenger-offload", shipped("challenger-offload"))
    assert chat(http, "gemma-4-26b-a4b").status_code == 200
    share = rig.status("challenger")["measured_bytes"]["gpu0"]
    assert chat(http, "gemma-4-26b-a4b-offload").status_code == 200
    asleep = rig.status("challenger")
    assert (asleep["residency"], asleep["level"]) == ("sleeping", 2)
    woken = chat(http, "gemma-4-26b-a4b")
    assert woken.status_code == 200 and woken.json()["choices"][0]["message"]["content"].split() == ["word", "word"]
    assert rig.status("challenger")["measured_bytes"] == {"gpu0": share}
    assert steps(rig)[-2:] == ["stop challenger-offload", "wake challenger"]


def test_a_wake_that_finds_no_room_ends_in_a_cold_start(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    rig.model("challenger", shipped("challenger", *SLOW, "--x-wake", "fails"))
    rig.model("challenger-offload", shipped("challenger-offload"))
    for name in ("gemma-4-26b-a4b", "gemma-4-26b-a4b-offload", "gemma-4-26b-a4b"):
        answer = chat(http, name)
        assert answer.status_code == 200, answer.text
    assert steps(rig)[-2:] == ["wake challenger", "start challenger"]
    assert any("does not wake: /wake_up answered 500" in text for text in said(rig, "lagging"))
    # What the failed wake had mapped is gone with the process.
    assert gpu.card.used == int(0.50 * gpu.card.total)


def test_a_server_that_is_killed_alone_takes_its_child_and_its_bytes_with_it(
    rig: Rig, gpu: Gpu, http: httpx.Client
) -> None:
    rig.model("challenger-offload", shipped("challenger-offload", "--x-core"))
    assert chat(http, "gemma-4-26b-a4b-offload").status_code == 200
    assert gpu.card.used == int(0.30 * gpu.card.total)
    server = int(rig.manager.show("aither-challenger-offload-engine.service", "MainPID")["MainPID"])
    assert server not in gpu.card.processes
    rig.manager.run(["kill", "-KILL", str(server)])
    rig.wait_for(lambda: gpu.card.used == 0, "the bytes of the child")
    rig.wait_for(lambda: rig.ctl_json("list")[0]["residency"] in ("failed", "absent"), "the end of the engine")
    rig.ctl("start", "challenger-offload")
    assert chat(http, "gemma-4-26b-a4b-offload").status_code == 200
