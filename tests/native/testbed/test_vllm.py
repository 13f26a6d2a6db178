"""The stand-in for vLLM starts, sleeps and wakes as vLLM does, and dies of what vLLM dies of."""

from __future__ import annotations

import os
import threading

import httpx
import pytest

from tests.native.testbed.server import CHAT, GIB, Server, Start, ask, until
from tests.testbed.nvml import Gpu

VLLM = ("serve", "some/model", "--enable-sleep-mode", "--x-kv", "4GiB", "--max-model-len", "8192")
DEV = {"VLLM_SERVER_DEV_MODE": "1"}
AWAKE = 6 * GIB + 4 * GIB + int(1.4 * GIB)
ASLEEP = int(1.4 * GIB)


def is_sleeping(server: Server) -> object:
    return server.http.get("/is_sleeping").json()["is_sleeping"]


def say(server: Server) -> str:
    text = server.http.post(CHAT, json=ask(1)).json()["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text.strip()


def test_vllm_sleeps_and_wakes_at_level_one(start: Start, gpu: Gpu) -> None:
    server = start("vllm", *VLLM, **DEV)
    assert gpu.card.used == AWAKE
    # A body is not looked at: this is level 1.
    assert server.http.post("/sleep", params={"mode": "wait"}, json={"level": 2}).content == b""
    assert (is_sleeping(server), gpu.card.used, server.healthy("/health")) == (True, ASLEEP, True)
    server.http.post("/wake_up")
    assert (is_sleeping(server), gpu.card.used, say(server)) == (False, AWAKE, "word")


def test_vllm_needs_its_weights_reloaded_after_level_two(start: Start, gpu: Gpu) -> None:
    server = start("vllm", *VLLM, **DEV)
    server.http.post("/sleep", params={"level": "2", "mode": "wait"})
    server.http.post("/wake_up")
    assert say(server) == "!"
    server.http.post("/sleep", params={"level": "2", "mode": "wait"})
    server.http.post("/wake_up", params={"tags": "weights"})
    assert (is_sleeping(server), gpu.card.used) == (True, ASLEEP + 6 * GIB)
    server.http.post("/collective_rpc", json={"method": "reload_weights"})
    server.http.post("/wake_up", params={"tags": "kv_cache"})
    assert (is_sleeping(server), gpu.card.used, say(server)) == (False, AWAKE, "word")


@pytest.mark.parametrize(
    ("words", "environment"), [(VLLM, {}), (tuple(word for word in VLLM if word != "--enable-sleep-mode"), DEV)]
)
def test_vllm_has_no_sleep_routes_unless_started_for_it(
    start: Start, words: tuple[str, ...], environment: dict[str, str]
) -> None:
    server = start("vllm", *words, **environment)
    assert server.http.get("/is_sleeping").status_code == 404
    assert server.http.post("/sleep").status_code == 404


def streaming(server: Server, lines: list[str]) -> threading.Thread:
    """Reads a stream of many tokens in the background; `lines` grows while it comes, and ends with how it ended."""

    def read() -> None:
        try:
            with server.http.stream("POST", CHAT, json=ask(400, stream=True)) as response:
                lines.extend(line for line in response.iter_lines() if line)
        except httpx.TransportError as error:
            lines.append(type(error).__name__)

    thread = threading.Thread(target=read)
    thread.start()
    until("it streams", lambda: server.http.get("/load").json()["server_load"] == 1)
    return thread


def test_vllm_dies_of_a_sleep_while_it_answers(start: Start) -> None:
    server = start("vllm", *VLLM, "--x-token-seconds", "0.02", **DEV)
    lines: list[str] = []
    thread = streaming(server, lines)
    assert server.http.post("/sleep").status_code == 200
    assert server.died() == 1
    thread.join()
    assert "data: [DONE]" not in lines
    assert "illegal memory access" in server.log.read_text()


def test_vllm_waits_for_the_answers_under_way_when_told_to(start: Start) -> None:
    server = start("vllm", *VLLM, "--x-token-seconds", "0.001", **DEV)
    lines: list[str] = []
    thread = streaming(server, lines)
    assert server.http.post("/sleep", params={"mode": "wait"}).status_code == 200
    thread.join()
    assert lines[-1] == "data: [DONE]"
    assert is_sleeping(server) is True


def test_vllm_dies_of_a_request_while_asleep(start: Start) -> None:
    server = start("vllm", *VLLM, **DEV)
    server.http.post("/sleep")
    assert server.http.post(CHAT, json=ask(1)).status_code == 500
    assert server.died() == 1


def test_vllm_aborts_its_start_when_memory_is_given_back_meanwhile(start: Start, gpu: Gpu) -> None:
    gpu.card.claim(os.getpid(), 4 * GIB)
    server = start("vllm", *VLLM, "--x-profile-seconds", "1", ready="")
    gpu.card.wait(lambda card: server.process.pid in card.processes)
    gpu.card.claim(os.getpid(), 0)
    assert server.died() == 1
    assert "grew" in server.log.read_text()


def test_vllm_does_not_start_where_its_share_is_not_free(start: Start, gpu: Gpu) -> None:
    gpu.card.claim(os.getpid(), 20 * GIB)
    server = start("vllm", "serve", "m", "--gpu-memory-utilization", "0.60", ready="")
    assert server.died() == 1
    assert "--gpu-memory-utilization" in server.log.read_text()


def test_vllm_sizes_its_cache_by_its_share(start: Start, gpu: Gpu) -> None:
    start("vllm", "serve", "m", "--gpu-memory-utilization", "0.50")
    assert gpu.card.used == gpu.card.total // 2


def test_vllm_fails_to_wake_without_room_and_leaks(start: Start, gpu: Gpu) -> None:
    server = start("vllm", *VLLM, **DEV)
    server.http.post("/sleep")
    gpu.card.claim(os.getpid(), gpu.card.free - GIB)
    assert server.http.post("/wake_up").status_code == 500
    assert is_sleeping(server) is True
    assert gpu.card.processes[server.process.pid] > ASLEEP


def test_vllm_may_keep_more_than_it_should(start: Start, gpu: Gpu) -> None:
    server = start("vllm", *VLLM, "--x-sleep-keeps", "5GiB", **DEV)
    server.http.post("/sleep")
    assert gpu.card.used == ASLEEP + 5 * GIB


def test_vllm_notices_that_its_client_has_gone(start: Start) -> None:
    server = start("vllm", *VLLM, "--x-token-seconds", "0.005", **DEV)
    with server.http.stream("POST", CHAT, json=ask(100_000, stream=True)) as response:
        lines = response.iter_lines()
        next(lines)
        assert server.http.get("/load").json()["server_load"] == 1
    until("it has stopped", lambda: server.http.get("/load").json()["server_load"] == 0)
