"""Tells the story of a request for a cold model, step by step, from the daemon's own records.

An image is posted to the Unix socket. The vision model is not loaded and does not fit; ComfyUI idles on its weights.
What aitherd measured, planned, freed, verified and started is then read back from it, and every step that the story
promises is checked. Exit status 1 names what did not happen.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.demo import fleet
from tests.testbed import llama
from tests.testbed.models import png
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig

IDLE = "4s"
IDLE_WAIT_S = 40.0
GIB = 1 << 30
BOLD, DIM, GREEN, RED, PLAIN = ("\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m")
if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
    BOLD = DIM = GREEN = RED = PLAIN = ""


class Story:
    """What has been checked so far."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def tell(self, text: str) -> None:
        """A heading."""
        print(f"\n{BOLD}{text}{PLAIN}", flush=True)

    def show(self, text: str) -> None:
        """What something printed."""
        for line in text.rstrip().splitlines():
            print(f"  {DIM}{line}{PLAIN}", flush=True)

    def check(self, happened: object, what: str) -> None:
        """One promise of the story."""
        mark = f"{GREEN}yes{PLAIN}" if happened else f"{RED}NO{PLAIN}"
        print(f"  [{mark}] {what}", flush=True)
        if not happened:
            self.missing.append(what)


def main() -> int:
    """Runs the story; 0 if every step happened."""
    story = Story()
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="aither-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        gpu = Gpu.create(folder / "gpu")
        gpu.release_lag = fleet.RELEASE_LAG
        desktop = gpu.card.foreign(fleet.DESKTOP, graphics=True)
        stack.callback(desktop.communicate)
        stack.callback(desktop.kill)
        rig = stack.enter_context(Rig(gpu, path=[llama.programs()]))
        try:
            tell(story, rig, gpu)
        except BaseException:
            print(f"\naitherd said:\n{rig.said()}", file=sys.stderr)
            raise
    print(f"\n{time.monotonic() - began:.0f} s in all.")
    if story.missing:
        print(f"{RED}did not happen: {'; '.join(story.missing)}{PLAIN}")
        return 1
    print(f"{GREEN}Every step of the story happened.{PLAIN}")
    for_real()
    return 0


def tell(story: Story, rig: Rig, gpu: Gpu) -> None:
    """The story, on a machine that is set up."""
    story.tell("A workstation: an RTX 5090 without silicon, a real systemd and D-Bus, a real llama-server")
    rig.settings(fleet.SETTINGS)
    rig.model("orchestrator", fleet.orchestrator())
    rig.model("vision", fleet.vision(IDLE))
    rig.model("imagine", fleet.imagine())
    rig.reload()
    story.check(not rig.running, "nothing of aitherd runs yet")

    story.tell("The first question on D-Bus starts the daemon, which brings its essential model up")
    story.show(rig.ctl("list").stdout)
    rig.wait_for(lambda: rig.status("orchestrator")["residency"] == "ready", "the orchestrator")
    orchestrator = rig.manager.show("aither-orchestrator-engine.service", "InvocationID", "MainPID")

    story.tell("ComfyUI renders once, through the proxy, and then sits idle on its weights")
    rig.ctl("start", "imagine")
    with rig.http() as http:
        http.post("/upstream/imagine/prompt", json={"prompt": {}}).raise_for_status()
        rig.wait_for(lambda: not queue(http), "the render")
    rig.wait_for(lambda: rig.status("imagine")["measured_bytes"].get("gpu0", 0) > 8 * GIB, "the weights to be measured")
    time.sleep(1.2)  # min-residency of the demonstration
    story.show(rig.ctl("devices").stdout)
    story.check(gpu.card.free < 5.2 * GIB, f"vision does not fit: {gpu.card.free / GIB:.1f} GiB are free, it needs 5.2")
    story.show(rig.ctl("plan", "vision").stdout)

    story.tell("An image is posted to the Unix socket; the answer is streamed")
    begun = time.time()
    with rig.http() as http:
        text, headers, first_byte = caption(http)
    print(f"  first byte after {first_byte:.1f} s: {text[:100]!r}")
    for name in ("x-aither-upstream", "x-aither-reason", "x-aither-waited-ms"):
        story.show(f"{name}: {headers.get(name)}")
    story.check(text.strip(), "the caption was streamed to its end")

    story.tell("Meanwhile the orchestrator answers as always")
    with rig.http() as http:
        ask = {"model": "aither-orchestrator", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        answer = http.post("/v1/chat/completions", json=ask)
    story.check(answer.status_code == 200, "a request for the ready model is answered at once")
    story.show(rig.manager.systemctl("status", "aither-vision-engine.service").stdout)

    story.tell(f"Idle for {IDLE}, the vision model is drained, stopped, and its bytes are verified as returned")
    rig.wait_for(lambda: rig.status("vision")["residency"] == "absent", "the idle stop", IDLE_WAIT_S)
    rig.wait_for(lambda: not gpu.card.lingering, "the bytes")

    story.tell("The daemon's own records")
    records = [record for record in rig.records() if record["time"] >= begun]
    for record in records:
        print(f"  {record['time'] - begun:7.3f} s  {record['event']:9} {record['message']}")
    check(story, records)
    same = rig.manager.show("aither-orchestrator-engine.service", "InvocationID", "MainPID") == orchestrator
    story.check(same, "the orchestrator is the same process as before: never slept, shrunk or stopped")
    story.check(gpu.card.used < 21 * GIB, f"{gpu.card.used / GIB:.1f} GiB are used at the end: the bytes are back")


def queue(http: Any) -> list[Any]:
    """What ComfyUI has to do."""
    found = http.get("/upstream/imagine/queue").json()
    return [*found["queue_running"], *found["queue_pending"]]


def caption(http: Any) -> tuple[str, dict[str, str], float]:
    """Posts an image and reads the streamed answer: its text, its headers, seconds to the first byte."""
    image = "data:image/png;base64," + base64.b64encode(png()).decode()
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": image}}]
    ask = {
        "model": "qwen2.5-vl",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 24,
        "stream": True,
    }
    began, first, words = time.monotonic(), 0.0, []
    with http.stream("POST", "/v1/chat/completions", json=ask) as answer:
        if answer.status_code != 200:
            raise AssertionError(f"{answer.status_code}: {answer.read().decode()}")
        for event in events(answer.iter_lines()):
            first = first or time.monotonic() - began
            words.append(event["choices"][0]["delta"].get("content") or "" if event["choices"] else "")
    return "".join(words), dict(answer.headers), first


def events(lines: Iterator[str]) -> Iterator[Any]:
    """The JSON events of a stream, up to its end. Raises if it does not end as it must."""
    for line in lines:
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended without [DONE]")


def check(story: Story, records: Sequence[dict[str, Any]]) -> None:
    """Whether the records tell the story that was promised, in its order."""
    print()
    rest = iter(records)

    def then(what: str, event: str, model: str, **fields: Any) -> None:
        found = next(
            (
                record
                for record in rest
                if record["event"] == event
                and record["model"] == model
                and all(record["fields"].get(name) == value for name, value in fields.items())
            ),
            None,
        )
        story.check(found, what)

    then("the request became a demand", "demand", "vision")
    then("the plan was: free imagine, then start vision", "plan", "vision", steps=["free imagine", "start vision"])
    then("ComfyUI was asked to free", "step", "imagine", step="free")
    then("its bytes were measured as returned before anything else", "returned", "imagine")
    then("the engine unit was started", "step", "vision", step="start")
    then("the server really answered", "ready", "vision")
    then("it was idle for its time", "idle", "vision")
    then("it was stopped", "step", "vision", step="stop")
    then("its bytes were measured as returned", "returned", "vision")
    touched = [record for record in records if record["model"] == "orchestrator" and record["event"] == "step"]
    story.check(not touched, "no step touched the orchestrator")


def for_real() -> None:
    """How to have the same on a real machine."""
    if shutil.which("nvidia-smi") and Path("/run/systemd/system").is_dir():
        print(
            "\nThis machine has an NVIDIA GPU and systemd. The same for real:\n"
            "  make deb && sudo apt install ./build/aitherd_*.deb\n"
            "  sudo aitherctl enable vision\n"
            "  sudo systemctl start aither-vision.service\n"
            "  aitherctl status vision"
        )


if __name__ == "__main__":
    sys.exit(main())
