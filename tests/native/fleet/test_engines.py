"""ComfyUI and speaches give way in their own manner, and are left alone while they work for themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.native.daemon.conftest import GIB, chat, engine
from tests.native.fleet.conftest import shipped, steps
from tests.testbed import models, speech
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig

MIB = 1 << 20
WHISPER = "Systran/faster-whisper-large-v3"


def render(http: httpx.Client, seconds: float) -> str:
    """Queues a prompt; returns its id at once."""
    answer = http.post("/upstream/imagine/prompt", json={"prompt": {"seconds": seconds}})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["prompt_id"])


def outcome(http: httpx.Client, prompt: str) -> str | None:
    found = http.get(f"/upstream/imagine/history/{prompt}").json().get(prompt)
    return None if found is None else str(found["status"]["status_str"])


def test_a_render_that_nobody_waits_for_is_not_cut_short(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    rig.model("imagine", shipped("imagine"))
    rig.model("large", engine("28 GiB"))
    prompt = render(http, 2.0)
    assert outcome(http, prompt) is None
    answer = chat(http, "large")
    assert answer.status_code == 200, answer.text
    assert outcome(http, prompt) == "success"
    assert steps(rig) == ["start imagine", "free imagine", "start large"]
    assert gpu.card.used == 28 * GIB + 500 * MIB


def test_it_does_not_idle_out_while_it_renders(rig: Rig, http: httpx.Client) -> None:
    rig.model("imagine", shipped("imagine", keys={"idle": '"1s"'}))
    prompt = render(http, 3.0)
    rig.wait_for(lambda: rig.status("imagine")["residency"] == "absent", "the idle stop")
    (idled,) = [record for record in rig.records() if record["event"] == "idle"]
    (ready,) = [record for record in rig.records() if record["event"] == "ready"]
    assert idled["time"] - ready["time"] > 3.0, f"{prompt} was cut short"


def test_a_page_that_is_only_open_keeps_nothing_loaded_and_loads_nothing(
    rig: Rig, gpu: Gpu, http: httpx.Client
) -> None:
    rig.model("imagine", shipped("imagine", keys={"idle": '"1s"'}))
    rig.model("large", engine("28 GiB"))
    assert http.get("/upstream/imagine/").status_code == 200
    key = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    with rig.http() as page, page.stream("GET", "/upstream/imagine/ws", headers=key) as socket:
        assert socket.status_code == 101
        told = socket.extensions["network_stream"]
        assert b'"queue_remaining": 0' in told.read(1024, timeout=30)

        def is_gone() -> bool:
            # As a page does, all the time.
            polled = http.get("/upstream/imagine/api/queue")
            assert polled.status_code in (200, 502, 503), polled.text
            return bool(rig.status("imagine")["residency"] == "absent")

        rig.wait_for(is_gone, "the idle stop under an open page")
        # The page's own connection went with the engine.
        assert told.read(1024, timeout=30) == b""
    refused = http.get("/upstream/imagine/api/queue")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_loaded")
    assert steps(rig) == ["start imagine", "stop imagine"]
    assert gpu.card.used == 0


def test_freed_weights_wait_in_host_memory_for_the_next_render(rig: Rig, http: httpx.Client) -> None:
    rig.model("imagine", shipped("imagine"))
    rig.model("large", engine("28 GiB"))
    for _ in range(2):
        prompt = render(http, 0.0)
        rig.wait_for(partial(outcome, http, prompt), "the render")
        assert chat(http, "large").status_code == 200
        rig.ctl("stop", "large")
    system = http.get("/upstream/imagine/system_stats").json()["system"]
    assert (steps(rig).count("free imagine"), system["x_weights_read"]) == (2, 1)


def test_speaches_unloads_its_model_and_stays(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    rig.model("listen", shipped("listen"))
    rig.model("large", engine("29 GiB"))

    def listen() -> httpx.Response:
        files = {"file": ("a.wav", speech.sound(0.1), "audio/wav")}
        return http.post("/v1/audio/transcriptions", data={"model": WHISPER}, files=files)

    assert listen().json() == {"text": "words"}
    rig.wait_for(lambda: rig.status("listen")["measured_bytes"] == {"gpu0": 3 * GIB + 400 * MIB}, "the weights")
    assert chat(http, "large").status_code == 200
    assert steps(rig) == ["start listen", "free listen", "start large"]
    assert gpu.card.used == 29 * GIB + 400 * MIB


@pytest.mark.parametrize("keep", [True, False])
def test_llama_server_goes_on_where_it_stopped_if_its_file_says_so(
    start_rig: Callable[..., Rig], real_llama: Path, tmp_path: Path, keep: bool
) -> None:
    rig = start_rig(path=[real_llama])
    words = ["llama-server", *models.llama_flags(), "--parallel", "1", "--slot-save-path", str(tmp_path)]
    text = f'engine = "llama-server"\nvram = "0 B"\nserves = ["tiny-chat"]\ncommand = {json.dumps(words)}\n'
    rig.model("keeper", f"{text}keep-slots = {json.dumps(keep)}\n")
    with rig.http() as http:
        assert chat(http, "tiny-chat").status_code == 200
        rig.ctl("stop", "keeper")
        # See test_workstation.py.
        (rig.manager.runtime / "aither-engine" / "keeper" / "http.sock").unlink(missing_ok=True)
        again = chat(http, "tiny-chat").json()
    assert (again["timings"]["cache_n"] >= again["usage"]["prompt_tokens"] - 1) is keep
    assert [path.name for path in tmp_path.glob("*.bin")] == (["aither-keeper-0.bin"] if keep else [])
