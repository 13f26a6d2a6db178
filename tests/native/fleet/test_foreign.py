"""An Ollama that somebody else runs gives way when room is needed: asked by its own API, measured, and never killed."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.native.daemon.conftest import GIB, SETTINGS, chat, engine
from tests.native.fleet.conftest import said, steps
from tests.testbed.nvml import Gpu
from tests.testbed.rig import STAND_INS, Rig

LLAMA = "llama3.2:latest"
UNIT = """
[Service]
Environment=OLLAMA_HOST=127.0.0.1:{port}
ExecStart={program} serve --x-weights 6GiB {words}
"""
FOREIGN = """
[foreign.ollama]
engine = "ollama"
unit = "ollama.service"
port = {port}
"""

Serve = Callable[..., httpx.Client]


@pytest.fixture
def serve(rig: Rig) -> Iterator[Serve]:
    """Runs an Ollama as a service of its own that aitherd is told of; a client of it."""

    def serve(*words: str) -> httpx.Client:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        rig.settings(SETTINGS + FOREIGN.format(port=port))
        unit = UNIT.format(port=port, program=STAND_INS / "ollama", words=" ".join(words))
        rig.manager.install_unit("ollama.service", unit)
        rig.manager.reload()
        rig.manager.systemctl("start", "ollama.service")
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False))
        rig.wait_for(lambda: answers(client), "Ollama")
        return client

    with ExitStack() as stack:
        yield serve


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/").is_success
    except httpx.TransportError:
        return False


def load(client: httpx.Client) -> None:
    assert client.post("/api/generate", json={"model": LLAMA}).json()["done_reason"] == "load"


def process(rig: Rig) -> dict[str, str]:
    return rig.manager.show("ollama.service", "MainPID", "InvocationID", "ActiveState", "NRestarts")


def test_it_is_unloaded_when_room_is_needed_and_lives_on(rig: Rig, gpu: Gpu, http: httpx.Client, serve: Serve) -> None:
    rig.model("large", engine("28 GiB"))
    ollama = serve()
    load(ollama)
    before = process(rig)
    gpu.release_lag = 0.5
    (device,) = (one for one in rig.ctl_json("devices") if one["id"] == "gpu0")
    assert [(one["name"], one["bytes"]) for one in device["foreign"]] == [("ollama", 6 * GIB)]
    plan = json.loads(rig.ctl("--json", "plan", "large").stdout)
    assert [(step["verb"], step["model"]) for step in plan["steps"]] == [("free", "ollama"), ("start", "large")]
    assert plan["steps"][0]["takes"] == {"gpu0": -6 * GIB}
    answer = chat(http, "large")
    assert answer.status_code == 200, answer.text
    assert "after free ollama" in answer.headers["x-aither-reason"]
    assert steps(rig) == ["free ollama", "start large"]
    assert ["6 GiB on gpu0 measured as returned" in text for text in said(rig, "returned")] == [True]
    assert ollama.get("/api/ps").json() == {"models": []}
    assert "freeing ollama: makes room for large" in rig.ctl("why", "ollama").stdout
    assert process(rig) == before
    assert gpu.card.used == 28 * GIB
    # It is anybody's card: what Ollama loads anew while there is no room fails there, and nowhere else.
    assert ollama.post("/api/generate", json={"model": LLAMA}).status_code == 500
    assert chat(http, "large").headers["x-aither-reason"] == "ready"


def test_it_is_left_alone_while_it_works_and_asked_when_it_is_done(rig: Rig, http: httpx.Client, serve: Serve) -> None:
    rig.model("large", engine("28 GiB"))
    ollama = serve("--x-work-seconds", "8")
    rig.ctl("list")
    said_by_ollama: list[str] = []

    def write() -> None:
        answer = ollama.post("/api/generate", json={"model": LLAMA, "prompt": "x"})
        said_by_ollama.append(answer.json()["done_reason"])

    writes = threading.Thread(target=write)
    writes.start()
    rig.wait_for(lambda: rig.gpu.card.used == 6 * GIB, "Ollama's model")
    refused = json.loads(rig.ctl("--json", "plan", "large", check=False).stdout)
    assert [(one["name"], one["why"]) for one in refused["holders"] if one["name"] != "driver"] == [("ollama", "busy")]
    assert said_by_ollama == []
    answer = chat(http, "large")
    assert answer.status_code == 200, answer.text
    writes.join()
    assert said_by_ollama == ["stop"]
    assert steps(rig) == ["free ollama", "start large"]


def test_one_that_keeps_its_memory_is_a_foreign_program_like_any_other(
    rig: Rig, gpu: Gpu, http: httpx.Client, serve: Serve
) -> None:
    rig.model("large", engine("28 GiB"))
    rig.model("small", engine("20 GiB"))
    ollama = serve("--x-keeps")
    load(ollama)
    before = process(rig)
    assert chat(http, "small").status_code == 200
    waiting = threading.Thread(target=chat, args=(http, "large"))
    waiting.start()
    rig.wait_for(lambda: any("ollama" in text for text in said(rig, "lagging")), "that it gave nothing")
    rig.wait_for(lambda: any("ollama keeps 6 GiB (foreign)" in text for text in said(rig, "refused")), "the reason")
    assert steps(rig).count("free ollama") == 1
    assert process(rig) == before
    waiting.join()
