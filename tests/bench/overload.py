"""Five hundred clients ask for a model that is not loaded: how many starts that makes, and what others notice of it.

The warm model is asked on one kept connection, before and while the crowd waits; both ask the daemon as it is
installed, with stand-ins as engines.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from statistics import median, quantiles

from tests.bench.daemon import STAND_IN, installed
from tests.bench.http import first_byte
from tests.bench.rows import Row, at_most, beside

CROWD = 500
LOAD_S = 6.0
BEFORE = 400
COLD = (
    STAND_IN.replace('"--vram"', f'"--load-seconds", "{LOAD_S:g}", "--vram"')
    .replace("command =", f"max-waiting = {CROWD}\ncommand =")
)  # fmt: skip
WARM = "model-0"
TRANSITIONS = re.compile(r'aither_model_transitions_total\{from="absent",model="cold",to="starting"\} ([0-9.]+)')


def request(model: str) -> bytes:
    """A short question."""
    body = json.dumps({"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n".encode() + body


def answer(plug: socket.socket) -> bytes:
    """One answer with a known length. Raises RuntimeError for one that is not 200."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += plug.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(data.decode(errors="replace"))
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += plug.recv(65536)
    return body


def asked(path: str, enough: Callable[[int], bool]) -> list[float]:
    """Milliseconds of one request after another to the warm model, until there are enough."""
    times: list[float] = []
    with socket.socket(socket.AF_UNIX) as plug:
        plug.connect(path)
        while not enough(len(times)):
            began = time.perf_counter()
            plug.sendall(request(WARM))
            answer(plug)
            times.append((time.perf_counter() - began) * 1e3)
    return times


def main() -> list[Row]:
    """Asks before, and while the crowd waits."""
    with installed() as rig:
        rig.model("cold", COLD)
        rig.reload()
        path = str(rig.socket)
        first_byte((socket.AF_UNIX, path), WARM)
        asked(path, lambda count: count >= BEFORE // 4)
        before = asked(path, lambda count: count >= BEFORE)
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(CROWD)]
        for plug in crowd:
            plug.settimeout(60)
            plug.connect(path)
            plug.sendall(request("cold"))
        until = time.monotonic() + LOAD_S / 2
        meanwhile = asked(path, lambda count: count >= BEFORE or time.monotonic() > until)
        for plug in crowd:
            answer(plug)
            plug.close()
        with rig.http() as client:
            found = TRANSITIONS.search(client.get("/metrics").text)
        starts = float(found[1]) if found else 0.0
    quiet, busy = quantiles(before, n=100)[98], quantiles(meanwhile, n=100)[98]
    alone = "without them"
    return [
        beside(f"overload: starts for {CROWD} clients of a cold model", starts, "", alone, 0.0, up_to=1),
        at_most(f"overload: warm model p50, {CROWD} waiting", median(meanwhile), "ms", alone, median(before), 2.0),
        at_most(f"overload: warm model p99, {CROWD} waiting", busy, "ms", alone, quiet, 2.0),
    ]
