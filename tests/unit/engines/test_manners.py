"""What engines say about themselves without being asked over HTTP: how they listen, what only looks, how they sleep."""

from __future__ import annotations

import pytest

from aitherd.core.words import Endpoint
from aitherd.engines import ENGINES, engine

SOCKET = Endpoint(socket="/run/x/http.sock")
PORT = Endpoint(port=9000)


@pytest.mark.parametrize("kind", [kind for kind in ENGINES if engine(kind).speaks_unix])
def test_an_engine_that_can_is_told_a_socket_and_no_address(kind: str) -> None:
    command = ("server", "{socket}") if kind == "exec" else ("server",)
    launch = engine(kind).launch(command, SOCKET)
    said = [*launch.argv, *launch.environment.values()]
    assert any(SOCKET.socket == word for word in said)
    assert not any("0.0.0.0" in word or "127.0.0.1" in word for word in said)


@pytest.mark.parametrize("kind", ENGINES)
def test_every_engine_can_be_told_a_loopback_port(kind: str) -> None:
    command = ("server", "127.0.0.1:{port}") if kind == "exec" else ("server",)
    launch = engine(kind).launch(command, PORT)
    said = " ".join([*launch.argv, *launch.environment.values()])
    assert "127.0.0.1" in said
    assert "9000" in said


@pytest.mark.parametrize("kind", [kind for kind in ENGINES if not engine(kind).speaks_unix])
def test_an_engine_that_cannot_is_never_given_a_socket(kind: str) -> None:
    with pytest.raises(ValueError, match="not a loopback port"):
        engine(kind).launch(("server",), SOCKET)


@pytest.mark.parametrize(
    ("kind", "method", "path", "looks"),
    [
        # What ComfyUI's page sends all the time, and what it sends when somebody wants a picture.
        ("comfyui", "GET", "/ws", True),
        ("comfyui", "GET", "/api/jobs", True),
        ("comfyui", "GET", "/api/queue", True),
        ("comfyui", "GET", "/history", True),
        ("comfyui", "POST", "/api/userdata/workflow.json", True),
        ("comfyui", "GET", "/", False),
        ("comfyui", "POST", "/prompt", False),
        ("comfyui", "POST", "/api/prompt", False),
        ("comfyui", "POST", "/upload/image", False),
        ("vllm", "GET", "/metrics", True),
        ("vllm", "POST", "/v1/chat/completions", False),
        ("vllm", "POST", "/metrics", False),
        ("llama-server", "GET", "/props", True),
        ("llama-server", "HEAD", "/health", True),
        ("llama-server", "POST", "/props", False),
        ("speaches", "GET", "/v1/models", True),
        # A WebSocket that carries speech.
        ("speaches", "GET", "/v1/realtime", False),
        ("whisper-server", "POST", "/inference", False),
        ("xtts", "GET", "/speakers_list", True),
        # Speaks, though it is a GET.
        ("xtts", "GET", "/tts_stream", False),
        ("ollama", "GET", "/api/ps", True),
        ("ollama", "POST", "/api/chat", False),
        ("exec", "GET", "/health", False),
    ],
)
def test_what_only_looks_is_told_from_work(kind: str, method: str, path: str, looks: bool) -> None:
    assert engine(kind).only_looks(method, path) is looks


@pytest.mark.parametrize("flag", ["--enable-sleep-mode", "--enable_sleep_mode"])
def test_a_vllm_that_was_told_to_can_sleep_and_has_the_routes_for_it(flag: str) -> None:
    vllm = engine("vllm")
    assert vllm.launch(("vllm", flag), SOCKET).environment == {"VLLM_SERVER_DEV_MODE": "1"}
    shallow, deep = vllm.ladder(("vllm", flag), {})
    assert (shallow.level, shallow.keeps_weights, deep.level, deep.keeps_weights) == (1, True, 2, False)
    assert shallow.wake < deep.wake


def test_any_other_vllm_has_neither() -> None:
    assert engine("vllm").launch(("vllm", "serve"), SOCKET).environment == {}
    assert engine("vllm").ladder(("vllm", "serve"), {}) == ()
