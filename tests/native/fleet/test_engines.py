"""ComfyUI and speaches give way in their own manner, and are left alone while they work for themselves."""

from __future__ import annotations

from functools import partial

import httpx

from tests.native.daemon.conftest import GIB, chat, engine
from tests.native.fleet.conftest import shipped, steps
from tests.testbed import speech
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
    rig.model("imagine", shipped("imagine", idle='"1s"'))
    prompt = render(http, 3.0)
    rig.wait_for(lambda: rig.status("imagine")["residency"] == "absent", "the idle stop")
    (idled,) = [record for record in rig.records() if record["event"] == "idle"]
    (ready,) = [record for record in rig.records() if record["event"] == "ready"]
    assert idled["time"] - ready["time"] > 3.0, f"{prompt} was cut short"


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
