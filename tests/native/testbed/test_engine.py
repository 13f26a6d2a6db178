"""The stand-in for any engine answers, and fails in every way that it is told to."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.native.testbed.server import CHAT, GIB, MIB, Start, ask
from tests.testbed.nvml import Gpu


def test_an_engine_answers_and_counts_what_it_was_sent(start: Start, gpu: Gpu) -> None:
    server = start("engine", "--vram", "2GiB")
    assert gpu.card.processes == {server.process.pid: 2 * GIB}
    body = server.http.post(CHAT, json=ask(3)).json()
    assert body["choices"][0]["message"]["content"].split() == ["word"] * 3
    with server.http.stream("POST", CHAT, json=ask(3, stream=True)) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert [json.loads(event)["choices"][0]["delta"]["content"] for event in events[:-1]] == ["word "] * 3
    assert events[-1] == "[DONE]"
    assert server.http.post("/echo?a=1", content=b"body").json()["body"] == "body"
    assert server.http.get("/served").json() == {"served": 3}


def test_an_engine_reads_a_chunked_body(start: Start) -> None:
    server = start("engine")
    assert server.http.post("/echo", content=iter([b"one ", b"two"])).json()["body"] == "one two"


def test_an_engine_may_end_while_it_loads(start: Start) -> None:
    server = start("engine", "--fault", "exit", "--says", "no such file: weights", ready="")
    assert server.died() == 3
    assert server.log.read_text() == "no such file: weights\n"


def test_an_engine_may_never_be_healthy(start: Start) -> None:
    server = start("engine", "--fault", "never-healthy", ready="/served")
    assert server.http.get("/health").status_code == 503


def test_an_engine_may_hang_once_it_is_used(start: Start) -> None:
    server = start("engine", "--fault", "hangs")
    for path in (CHAT, "/health"):
        with pytest.raises(httpx.ReadTimeout):
            server.http.request("POST" if path == CHAT else "GET", path, timeout=0.2)


def test_an_engine_may_die_in_the_middle(start: Start) -> None:
    server = start("engine", "--fault", "dies", "--dies-after", "2")
    lines: list[str] = []
    with (
        pytest.raises(httpx.RemoteProtocolError),
        server.http.stream("POST", CHAT, json=ask(9, stream=True)) as response,
    ):
        lines.extend(line for line in response.iter_lines() if line)
    assert server.died() == -signal.SIGKILL


def test_an_engine_may_ignore_being_told_to_end(start: Start) -> None:
    server = start("engine", "--fault", "ignores-term")
    server.process.terminate()
    for _ in range(3):
        assert server.healthy("/health")
    server.process.kill()
    assert server.died() == -signal.SIGKILL


def test_an_engine_may_leave_a_child_with_its_memory(start: Start, gpu: Gpu) -> None:
    server = start("engine", "--vram", "2GiB", "--fault", "child")
    (child,) = gpu.card.processes
    assert child != server.process.pid
    server.process.kill()
    server.died()
    os.kill(child, signal.SIGTERM)
    try:
        assert gpu.card.processes == {child: 2 * GIB}
    finally:
        os.kill(child, signal.SIGKILL)
    gpu.card.wait(lambda card: card.used == 0)


def test_an_engine_may_take_ever_more_host_memory(start: Start) -> None:
    def resident() -> int:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) << 10

    server = start("engine", "--fault", "grows", "--host-memory", "32MiB")
    before = resident()
    server.http.get("/v1/models")
    assert resident() >= before + 32 * MIB


def test_an_engine_without_room_says_so(start: Start, gpu: Gpu) -> None:
    gpu.card.claim(os.getpid(), gpu.card.free)
    server = start("engine", "--vram", "1GiB", ready="")
    assert server.died() == 1
    assert "out of memory" in server.log.read_text()
