"""The whole shipped fleet on one card of 32606 MiB, at true size: who fits beside whom, and who never does."""

from __future__ import annotations

import httpx

from tests.native.daemon.conftest import chat
from tests.native.fleet.conftest import steps
from tests.native.fleet.test_engines import WHISPER, outcome, render
from tests.testbed import speech
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig


def test_a_round_through_the_fleet_never_touches_the_orchestrator(
    workstation: Rig, client: httpx.Client, gpu: Gpu
) -> None:
    orchestrator = workstation.status("orchestrator")["since"]
    essentials = int(0.60 * gpu.card.total)
    room = gpu.card.total - (512 << 20) - essentials

    def held() -> dict[str, int]:
        return {model["name"]: sum(model["measured_bytes"].values()) for model in workstation.ctl_json("list")}

    def check() -> None:
        """The card holds what the ledger says and no more than there is; the orchestrator answers as before."""
        assert chat(client, "aither-orchestrator").headers["x-aither-waited-ms"] == "0"
        workstation.wait_for(lambda: gpu.card.used == sum(held().values()), "a measurement of what is")
        assert held()["orchestrator"] == essentials
        assert gpu.card.used - essentials <= room

    check()
    seen = chat(client, "qwen2.5-vl")
    assert seen.status_code == 200, seen.text
    check()
    prompt = render(client, 0.1)
    workstation.wait_for(lambda: outcome(client, prompt) == "success", "the render")
    check()
    files = {"file": ("a.wav", speech.sound(0.1), "audio/wav")}
    heard = client.post("/v1/audio/transcriptions", data={"model": WHISPER}, files=files)
    assert heard.json() == {"text": "words"}
    words = {"text": "hello", "speaker_wav": "female", "language": "en"}
    assert client.post("/upstream/speak/tts_to_audio/", json=words).content.startswith(b"RIFF")
    check()
    assert chat(client, "gemma-4-26b-a4b-offload").status_code == 200
    check()
    # systemd removes what a unit leaves in its runtime directory, but only from a file system in memory, which this
    # one need not be; and llama-server does not listen where another has left its socket.
    (workstation.manager.runtime / "aither-engine" / "vision" / "http.sock").unlink(missing_ok=True)
    seen = chat(client, "qwen2.5-vl")
    assert seen.status_code == 200, seen.text
    check()
    refused = chat(client, "gemma-4-26b-a4b")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_room")
    assert "orchestrator" in refused.json()["error"]["message"]
    assert workstation.status("orchestrator")["since"] == orchestrator
    assert not [
        step for step in steps(workstation) if step.endswith((" orchestrator", " embed")) and "start" not in step
    ]
    assert steps(workstation).count("start orchestrator") == 1


def test_the_budget_says_before_anything_runs_who_never_fits(workstation: Rig) -> None:
    report = workstation.ctl("check-config", "--device", "gpu0=32606MiB").stdout
    assert "The configuration is valid" in report
    never = [line.split()[0] for line in report.splitlines() if "never fits" in line]
    assert never == ["challenger"]
    plan = workstation.ctl("plan", "challenger", check=False)
    assert plan.returncode == 1
    assert "orchestrator" in plan.stdout + plan.stderr
