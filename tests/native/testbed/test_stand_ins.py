"""The stand-ins behave as the engines that they stand in for, where it matters to who manages their memory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.testbed.nvml import Gpu

GIB = 1 << 30
MIB = 1 << 20
WAIT_S = 20.0
POLL_S = 0.005
PROGRAMS = Path(__file__).parents[2] / "testbed" / "bin"
CHAT = "/v1/chat/completions"


class Server:
    """A stand-in that runs, and a client of it."""

    def __init__(self, process: subprocess.Popen[str], client: httpx.Client, address: Path | int, log: Path) -> None:
        self.address = address
        self.process = process
        self.http = client
        self.log = log

    def healthy(self, path: str) -> bool:
        """Whether it answers with success."""
        assert self.process.poll() is None, self.log.read_text()
        return listens(self.address) and self.http.get(path).is_success

    def died(self) -> int:
        """Waits for its end and returns its status."""
        return self.process.wait(WAIT_S)


Start = Callable[..., Server]


@pytest.fixture
def gpu(tmp_path: Path) -> Gpu:
    return Gpu.create(tmp_path / "gpu")


@pytest.fixture
def start(gpu: Gpu, tmp_path: Path) -> Iterator[Start]:
    """Starts a stand-in at a Unix socket, or at a port; waits until `ready` answers unless that is empty."""
    with ExitStack() as stack:

        def start(name: str, *words: str, ready: str = "/health", port: int = 0, **environment: str) -> Server:
            path = tmp_path / f"{name}.sock"
            flag = {"vllm": "--uds", "engine": "--socket"}.get(name)
            where = [flag, str(path)] if flag and not port else ["--port", str(port)]
            python = Path(sys.executable).parent
            search = f"{python}{os.pathsep}{gpu.environment['PATH']}"
            log = tmp_path / f"{name}.log"
            with log.open("w") as output:
                process = stack.enter_context(
                    subprocess.Popen(
                        [PROGRAMS / name, *words, *where],
                        env={**os.environ, **gpu.environment, "PATH": search, **environment},
                        stdout=output,
                        stderr=output,
                        text=True,
                    )
                )
            stack.callback(process.kill)
            transport = httpx.HTTPTransport(uds=None if port else str(path))
            base = f"http://127.0.0.1:{port or 1}"
            client = stack.enter_context(httpx.Client(transport=transport, base_url=base, timeout=WAIT_S))
            server = Server(process, client, port or path, log)
            if ready:
                until(f"{name} is ready", lambda: server.healthy(ready))
            return server

        yield start


def until(what: str, true: Callable[[], object]) -> None:
    """Waits until `true()`; fails naming `what`."""
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(POLL_S)


def listens(address: Path | int) -> bool:
    """Whether anything accepts connections at a Unix socket or a port."""
    family, where = (
        (socket.AF_UNIX, str(address)) if isinstance(address, Path) else (socket.AF_INET, ("127.0.0.1", address))
    )
    with socket.socket(family) as probe:
        return probe.connect_ex(where) == 0


def ask(tokens: int, **options: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "x"}], "max_tokens": tokens, **options}


# ComfyUI


@pytest.fixture
def comfyui(start: Start, unused_port: int) -> Callable[..., Server]:
    def started(*words: str) -> Server:
        return start("comfyui", *words, ready="/system_stats", port=unused_port)

    return started


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


FREE = {"unload_models": True, "free_memory": True}


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


# vLLM

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


# Any engine


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


def test_an_engine_notices_that_its_client_has_gone(start: Start) -> None:
    server = start("vllm", *VLLM, "--x-token-seconds", "0.005", **DEV)
    with server.http.stream("POST", CHAT, json=ask(100_000, stream=True)) as response:
        lines = response.iter_lines()
        next(lines)
        assert server.http.get("/load").json()["server_load"] == 1
    until("it has stopped", lambda: server.http.get("/load").json()["server_load"] == 0)


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
