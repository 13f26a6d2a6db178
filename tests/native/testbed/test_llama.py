"""The llama-server of the test bed is a real one: it loads the test models and answers over a Unix socket."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.testbed import llama, models

WAIT_S = 60.0


@pytest.fixture(scope="module")
def program() -> str:
    try:
        return str(llama.programs() / "llama-server")
    except llama.LlamaUnavailable as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no llama-server: {problem}")


@pytest.fixture(scope="module")
def server(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    folder = tmp_path_factory.mktemp("llama")
    command = [program, *models.llama_flags(vision=True), "--host", str(folder / "http.sock"), "--port", "8080"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process:
        yield process
        process.terminate()


@pytest.fixture(scope="module")
def client(server: subprocess.Popen[bytes]) -> Iterator[httpx.Client]:
    folder = Path(f"/proc/{server.pid}/cwd").readlink()
    transport = httpx.HTTPTransport(uds=str(folder / "http.sock"))
    with httpx.Client(transport=transport, base_url="http://engine", timeout=WAIT_S) as client:
        deadline = time.monotonic() + WAIT_S
        while not _ready(folder / "http.sock", client):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.02)
        yield client


def _ready(path: Path, client: httpx.Client) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        listens = probe.connect_ex(str(path)) == 0
    return listens and client.get("/health").is_success


def chat(content: object, **options: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 6, **options}


def answer(client: httpx.Client, content: object) -> dict[str, Any]:
    response = client.post("/v1/chat/completions", json=chat(content))
    assert response.is_success, response.text
    body = response.json()
    assert isinstance(body, dict)
    return body


def test_the_process_is_the_server_itself(server: subprocess.Popen[bytes], client: httpx.Client) -> None:
    assert Path(f"/proc/{server.pid}/comm").read_text() == "llama-server\n"
    assert Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text() == ""


def test_it_chats_in_words(client: httpx.Client) -> None:
    said = answer(client, "hello")["choices"][0]
    assert said["finish_reason"] == "length"
    assert set(said["message"]["content"].split()) <= set(models.WORDS)


def test_it_streams_one_event_a_token(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/chat/completions", json=chat("hello", stream=True)) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events.pop() == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"].get("content") for event in events]
    assert len([delta for delta in deltas if delta]) == 6


def test_a_picture_takes_tokens_of_its_own(client: httpx.Client) -> None:
    url = f"data:image/png;base64,{base64.b64encode(models.png()).decode()}"
    text = {"type": "text", "text": "describe"}
    plain, pictured = (
        answer(client, content)["usage"]["prompt_tokens"]
        for content in ([text], [text, {"type": "image_url", "image_url": {"url": url}}])
    )
    assert pictured >= plain + (models.IMAGE_SIDE // models.PATCH_SIDE) ** 2


def test_it_says_that_it_can_see(client: httpx.Client) -> None:
    assert client.get("/props").json()["modalities"]["vision"] is True
    assert client.get("/v1/models").json()["data"][0]["id"] == "qwen2.5-vl"


def test_a_missing_model_ends_it_with_a_reason(program: str) -> None:
    done = subprocess.run(
        [program, "-m", "/nonexistent.gguf", "--port", "1"], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode != 0
    assert "nonexistent.gguf" in done.stderr + done.stdout
