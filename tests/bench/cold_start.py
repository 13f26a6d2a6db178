"""What aitherd itself adds to a cold start: a request's time to its first byte, less what the engine needs by itself.

What the engine needs is measured by starting the same llama-server by hand, asking until it is healthy, and asking the
same question. llama-server's own router is the peer, with the same model file. All three take turns.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.bench.daemon import installed
from tests.bench.http import first_byte, get, post
from tests.bench.router import address, router
from tests.bench.rows import Row
from tests.testbed.llama import PROGRAM, programs
from tests.testbed.models import llama_flags
from tests.testbed.rig import Rig

ROUNDS = 15
BUDGET_MS = 50.0
NAME = "tiny-chat"
POLL_S = 0.0005


def by_hand(directory: Path) -> float:
    """Seconds that the engine needs by itself, from its start to the first byte of its answer."""
    place = directory / "hand.sock"
    command: list[str | Path] = [programs() / PROGRAM, *llama_flags(), "--host", str(place)]
    began = time.perf_counter()
    engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while get((socket.AF_UNIX, str(place)), "/health") != 200:
            if engine.poll() is not None:
                raise RuntimeError(f"{PROGRAM} does not start")
            time.sleep(POLL_S)
        ready = time.perf_counter() - began
        return ready + first_byte((socket.AF_UNIX, str(place)), NAME)
    finally:
        engine.terminate()
        engine.wait()
        place.unlink(missing_ok=True)


def by_aitherd(rig: Rig) -> float:
    """The same through aitherd, whose model is absent before and after."""
    seconds = first_byte((socket.AF_UNIX, str(rig.socket)), NAME)
    rig.ctl("stop", NAME)
    # systemd clears the directory of a unit that ended, but not on a disk, where the test bed's may lie.
    (rig.manager.runtime / "aither-engine" / NAME / "http.sock").unlink(missing_ok=True)
    return seconds


def by_router(port: int) -> float:
    """The same through the router."""
    seconds = first_byte(address(port), NAME)
    post(address(port), "/models/unload", {"model": NAME})
    deadline = time.monotonic() + 10
    while b'"value":"unloaded"' not in post(address(port), "/models", {}) and time.monotonic() < deadline:
        time.sleep(0.01)
    return seconds


def main() -> list[Row]:
    """Takes turns. The first round, which finds nothing in any cache, does not count."""
    # Behind what makes it hold device memory: on its own it would be refused for seeing no GPU.
    command = json.dumps(["with-vram", "1GiB", "--", PROGRAM, *llama_flags()])
    model = f'engine = "llama-server"\nvram = "1 GiB"\nidle = "never"\ncommand = {command}\n'
    with tempfile.TemporaryDirectory() as name, installed(path=[programs()]) as rig:
        rig.model(NAME, model)
        rig.reload()
        rig.ctl("list")
        with router(Path(name), [NAME]) as (_, port):
            rounds = [(by_hand(Path(name)), by_aitherd(rig), by_router(port)) for _ in range(ROUNDS + 1)][1:]
    ours = median(aitherd - hand for hand, aitherd, _ in rounds) * 1000
    theirs = median(router - hand for hand, _, router in rounds) * 1000
    engine = median(hand for hand, _, _ in rounds) * 1000
    whole = median(aitherd for _, aitherd, _ in rounds) * 1000
    return [
        Row(
            "cold start: aitherd's own share", ours, "ms", "llama-server router", theirs,
            ours / theirs if theirs > 0 else None, f"<= {BUDGET_MS:g} ms", ours <= BUDGET_MS,
        ),
        Row(
            "cold start: request to first byte", whole, "ms", "the engine by itself", engine, whole / engine,
        ),
    ]  # fmt: skip
