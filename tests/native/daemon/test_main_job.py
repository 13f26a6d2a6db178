"""A request for a cold model is planned, made room for, started, answered, released: real systemd, real D-Bus."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.native.daemon.conftest import GIB, ask, chat, engine
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig


def steps(rig: Rig) -> list[tuple[str, str]]:
    """What was done, in order."""
    return [(r["fields"]["step"], r["model"]) for r in rig.records() if r["event"] == "step"]


def test_a_cold_model_is_loaded_and_answers_and_says_how_it_came_to_be(rig: Rig, http: httpx.Client) -> None:
    rig.model("vision", engine())
    answer = chat(http, "vision")
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-aither-upstream"] == "vision"
    assert "loaded in" in answer.headers["x-aither-reason"]
    assert rig.status("vision")["measured_bytes"] == {"gpu0": 4 * GIB}
    again = chat(http, "vision")
    assert again.headers["x-aither-reason"] == "ready"
    assert again.headers["x-aither-waited-ms"] == "0"


def test_the_idle_give_way_and_nothing_starts_before_their_bytes_are_back(
    rig: Rig, gpu: Gpu, http: httpx.Client
) -> None:
    gpu.release_lag = 1.0
    for name in ("first", "second"):
        rig.model(name, engine("20 GiB"))
    assert chat(http, "first").status_code == 200
    assert chat(http, "second").status_code == 200
    assert steps(rig) == [("start", "first"), ("stop", "first"), ("start", "second")]
    records = rig.records()
    returned = next(r for r in records if r["event"] == "returned" and r["model"] == "first")
    started = next(r for r in records if r["event"] == "step" and r["model"] == "second")
    assert returned["time"] <= started["time"]
    assert returned["fields"]["returned"] == {"gpu0": 20 * GIB}
    # The stand-in would have died for lack of memory had it been started while the bytes were still in use.
    assert gpu.card.used == 20 * GIB


def test_the_essential_model_is_never_asked_to_give_way(rig: Rig, http: httpx.Client) -> None:
    rig.model("orchestrator", engine("19 GiB", kind="essential"))
    rig.model("challenger", engine("16 GiB"))
    rig.ctl("list")
    rig.wait_for(lambda: rig.status("orchestrator")["residency"] == "ready", "the orchestrator")
    refused = chat(http, "challenger")
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "no_room"
    assert "orchestrator" in refused.json()["error"]["message"]
    assert chat(http, "orchestrator").status_code == 200
    assert steps(rig) == [("start", "orchestrator")]


def test_a_busy_model_is_not_stopped_for_another(rig: Rig, http: httpx.Client) -> None:
    rig.model("busy", engine("20 GiB", "--token-seconds", "0.05"))
    rig.model("other", engine("20 GiB"))
    assert chat(http, "busy").status_code == 200
    ended: list[float] = []

    def other() -> None:
        with rig.http() as client:
            assert chat(client, "other").status_code == 200
        ended.append(time.monotonic())

    with http.stream("POST", "/v1/chat/completions", json=ask("busy", stream=True, tokens=40)) as answer:
        lines = answer.iter_lines()
        next(lines)
        waits = threading.Thread(target=other)
        waits.start()
        rest = list(lines)
    streamed = time.monotonic()
    waits.join()
    assert rest[-1] == "" or rest[-1] == "data: [DONE]"
    assert "data: [DONE]" in rest
    assert ended[0] > streamed
    assert steps(rig) == [("start", "busy"), ("stop", "busy"), ("start", "other")]


def test_many_requests_for_a_cold_model_start_it_once(rig: Rig, http: httpx.Client) -> None:
    rig.model("vision", engine("4 GiB", "--load-seconds", "0.5"))
    rig.ctl("list")

    def one(_: int) -> int:
        with rig.http() as client:
            return chat(client, "vision").status_code

    with ThreadPoolExecutor(30) as pool:
        assert list(pool.map(one, range(30))) == [200] * 30
    assert steps(rig) == [("start", "vision")]


def test_an_idle_model_is_stopped_and_a_held_one_is_not(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    rig.model("idle", engine(idle="1s"))
    rig.model("held", engine(idle="1s"))
    rig.reload()
    rig.ctl("hold", "held")
    assert chat(http, "idle").status_code == 200
    rig.wait_for(lambda: rig.status("idle")["residency"] == "absent", "the idle stop")
    assert rig.status("held")["residency"] == "ready"
    assert gpu.card.used == 4 * GIB
    rig.ctl("release", "held")
    rig.wait_for(lambda: rig.status("held")["residency"] == "absent", "the idle stop after the release")


def test_probes_and_questions_are_not_activity(rig: Rig, http: httpx.Client) -> None:
    rig.model("idle", engine(idle="1s"))
    assert chat(http, "idle").status_code == 200
    deadline = time.monotonic() + 30
    while rig.status("idle")["residency"] != "absent":
        for path in ("/health", "/v1/models", "/running", "/metrics"):
            assert http.get(path).status_code == 200
        assert time.monotonic() < deadline, "the questions kept it awake"


def test_a_model_without_device_memory_needs_no_room(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    gpu.card.claim(1, gpu.card.free)
    rig.model("host", engine("0 B"))
    assert chat(http, "host").status_code == 200


def test_foreign_bytes_are_respected_and_foreign_processes_left_alone(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    game = gpu.card.foreign(25 * GIB, graphics=True)
    try:
        rig.model("big", engine("20 GiB"))
        rig.settings('[arbiter]\nwait = "2s"\n')
        refused = chat(http, "big")
        assert refused.status_code == 503, refused.text
        assert game.poll() is None
        assert steps(rig) == []
    finally:
        game.kill()
        game.communicate()
    assert chat(http, "big").status_code == 200
