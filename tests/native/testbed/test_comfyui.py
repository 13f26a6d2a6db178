"""The stand-in for ComfyUI caches, frees and queues as ComfyUI does, and misbehaves as it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.native.testbed.server import GIB, MIB, Server, Start, until
from tests.testbed.nvml import Gpu

FREE = {"unload_models": True, "free_memory": True}


@pytest.fixture
def comfyui(start: Start, unused_port: int) -> Callable[..., Server]:
    def started(*words: str) -> Server:
        return start("comfyui", *words, ready="/system_stats", port=unused_port)

    return started


def test_comfyui_caches_weights_and_gives_them_back_when_asked(comfyui: Callable[..., Server], gpu: Gpu) -> None:
    server = comfyui("--prompt-seconds", "0")
    assert gpu.card.used == 400 * MIB
    server.http.post("/prompt", json={"prompt": {}})
    until("the weights are there", lambda: gpu.card.used == 4 * GIB + 400 * MIB)
    until("the queue is empty", lambda: server.http.get("/prompt").json() == {"exec_info": {"queue_remaining": 0}})
    assert server.http.post("/api/free", json=FREE).content == b""
    gpu.card.wait(lambda card: card.used == 400 * MIB)


def test_comfyui_frees_only_after_the_running_prompt(comfyui: Callable[..., Server], gpu: Gpu) -> None:
    server = comfyui("--warm")
    server.http.post("/prompt", json={"prompt": {"seconds": 3600}})
    until("it renders", lambda: server.http.get("/queue").json()["queue_running"])
    assert server.http.post("/free", json=FREE).status_code == 200
    # Asked for after `/free` was handled, and nothing has changed.
    assert server.http.get("/queue").json()["queue_running"][0][1] == "prompt-0"
    assert gpu.card.used == 4 * GIB + 400 * MIB
    server.http.post("/interrupt", json={})
    gpu.card.wait(lambda card: card.used == 400 * MIB)
    assert server.http.get("/history/prompt-0").json()["prompt-0"]["status"]["status_str"] == "interrupted"


def test_comfyui_keeps_everything_without_the_flags(comfyui: Callable[..., Server], gpu: Gpu) -> None:
    server = comfyui("--warm", "--prompt-seconds", "0")
    server.http.post("/free", json={})
    server.http.post("/prompt", json={"prompt": {}})
    until("the prompt is done", lambda: server.http.get("/history").json())
    assert gpu.card.used == 4 * GIB + 400 * MIB


@pytest.mark.parametrize(("manner", "stays"), [("ignored", 4 * GIB), ("part", 2 * GIB), ("slow", 0)])
def test_comfyui_misbehaves(comfyui: Callable[..., Server], gpu: Gpu, manner: str, stays: int) -> None:
    server = comfyui("--warm", "--free", manner, "--free-seconds", "0.01", "--prompt-seconds", "0")
    server.http.post("/free", json=FREE)
    # The worker is through with freeing when it has rendered what came after.
    server.http.post("/prompt", json={"prompt": {}})
    if manner == "ignored":
        until("the prompt is done", lambda: server.http.get("/history").json())
        assert gpu.card.used == 400 * MIB + stays
    else:
        gpu.card.wait(lambda card: card.used == 400 * MIB + 4 * GIB)


def test_comfyui_queue_can_be_cleared(comfyui: Callable[..., Server]) -> None:
    server = comfyui()
    for _ in range(3):
        server.http.post("/prompt", json={"prompt": {"seconds": 3600}})
    until("it renders", lambda: len(server.http.get("/queue").json()["queue_pending"]) == 2)
    server.http.post("/queue", json={"delete": ["prompt-1"]})
    assert [entry[1] for entry in server.http.get("/queue").json()["queue_pending"]] == ["prompt-2"]
    server.http.post("/queue", json={"clear": True})
    assert server.http.get("/queue").json()["queue_pending"] == []
