"""Model files that `aitherctl new` writes: what a command says is in them, and none is saved that does not pass."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitherd import config
from aitherd.config import Fleet, Model
from aitherd.config.kinds import NAME
from aitherd.ctl.__main__ import main
from aitherd.ctl.drafts import TEMPLATES, draft, file_name, model_file, template
from aitherd.ctl.failure import Failure

SWAP = """
macros:
  base: /usr/bin/sleep --ctx-size 4096
models:
  "Qwen3:30B":
    cmd: |
      ${base} -m /srv/${MODEL_ID}.gguf \\
      --port ${PORT}
    aliases: [coder]
    ttl: 600
    env: [CUDA_VISIBLE_DEVICES=0]
    filters: {stripParams: temperature}
  small:
    cmd: /usr/bin/sleep --port ${PORT}
    checkEndpoint: /ready
groups:
  heavy: {swap: true, members: ["Qwen3:30B", small]}
"""
COMPOSE = """
services:
  database:
    image: postgres:17
  chat:
    image: ghcr.io/ggml-org/llama.cpp:server-cuda
    command: ["-m", "/models/a.gguf", "--port", "8080", "-ngl", "99"]
    volumes: ["/srv/models:/models:ro"]
    environment: {LLAMA_LOG_COLORS: "off"}
    mem_limit: 12g
    healthcheck: {test: curl}
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where model files count; nothing is there, and no daemon runs."""
    monkeypatch.setenv("AITHER_CONFIG_DIR", str(tmp_path / "etc"))
    for name in ("DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS"):
        monkeypatch.setenv(name, "unix:path=/nonexistent")
    return tmp_path / "etc" / "models.d"


def run(*words: str) -> int:
    return main(["new", *words, "--no-reload"])


def loaded() -> Fleet:
    fleet, problems = config.load(config.directories(False))
    assert fleet is not None, problems
    return fleet


def read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def only(models: Path) -> Model:
    (model,) = loaded().models.values()
    assert (models / f"{model.name}.toml").exists()
    return model


def test_a_command_becomes_a_file_that_passes_its_check(models: Path) -> None:
    assert run("tool", "--vram", "2GiB", "--command", "HF_HUB_OFFLINE=1 sleep --port 9000 --verbose") == 0
    model = only(models)
    assert (model.engine, model.vram, model.command) == ("exec", 2 * 2**30, ("sleep", "--port", "{port}", "--verbose"))
    assert read(models / "tool.toml")["service"]["Environment"] == ["HF_HUB_OFFLINE=1"]


def test_a_file_that_does_not_pass_is_not_saved(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lost", "--vram", "2GiB", "--command", "/opt/nowhere/server --port 1") == 1
    assert not (models / "lost.toml").exists()
    err = capsys.readouterr().err
    assert f"{models / 'lost.toml'}:" in err
    assert "/opt/nowhere/server does not exist" in err


def test_a_file_that_is_there_is_left_alone(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.mkdir(parents=True)
    (models / "own.toml").write_text("mine")
    assert run("own", "--vram", "1G", "--command", "sleep --port 1") == 1
    assert (models / "own.toml").read_text() == "mine"
    assert "give another name" in capsys.readouterr().err


def test_print_saves_nothing(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "new", "some", "--print", "--engine", "vllm"]) == 0
    assert tomllib.loads(json.loads(capsys.readouterr().out)["some"])["engine"] == "vllm"
    assert not models.exists()


def test_a_running_server_is_taken_over_without_its_environment(models: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(3600)", "--port", "9000"]
    server = subprocess.Popen(command, env={"API_SECRET": "hidden"})
    try:
        assert run("live", "--vram", "1G", "--pid", str(server.pid)) == 0
    finally:
        server.kill()
        server.wait()
    assert only(models).command == (*command[:-1], "{port}")
    text = (models / "live.toml").read_text()
    assert "hidden" not in text
    assert "#port = 9000" in text


def test_models_whose_names_become_the_same_are_kept_apart(models: Path, tmp_path: Path) -> None:
    (tmp_path / "swap.yaml").write_text('models: {"a:b": {cmd: sleep --port 1}, "A-b": {cmd: sleep --port 2}}')
    assert run("--from", str(tmp_path / "swap.yaml"), "--vram", "1G") == 0
    assert {model.name: model.serves for model in loaded().models.values()} == {"a-b": ("a:b",), "a-b-2": ("A-b",)}


def test_a_process_that_is_gone_is_said_to_be(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = subprocess.Popen(["/usr/bin/true"])
    gone.wait()
    assert run("live", "--pid", str(gone.pid)) == 4
    assert f"there is no process {gone.pid}" in capsys.readouterr().err


def test_llama_swap_is_taken_over(models: Path, tmp_path: Path) -> None:
    (tmp_path / "swap.yaml").write_text(SWAP)
    assert run("--from", str(tmp_path / "swap.yaml"), "--vram", "3G") == 0
    found = loaded().models
    assert set(found) == {"qwen3-30b", "small"}
    coder = found["qwen3-30b"]
    assert coder.serves == ("Qwen3:30B", "coder")
    assert coder.command[-4:] == ("-m", "/srv/Qwen3:30B.gguf", "--port", "{port}")
    assert (coder.idle, coder.swap_slot, found["small"].health) == (600, "heavy", "/ready")
    text = (models / "qwen3-30b.toml").read_text()
    assert "Not taken over: filters." in text
    assert read(models / "qwen3-30b.toml")["service"]["Environment"] == ["CUDA_VISIBLE_DEVICES=0"]


def test_what_it_needs_of_the_device_can_be_said_on_the_command_line(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tool", "--command", "sleep --port 9000") == 1
    assert f"{models / 'tool.toml'}: vram: its footprint is missing; say it with --vram" in capsys.readouterr().err
    assert not (models / "tool.toml").exists()


def test_only_the_named_are_taken_over(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "swap.yaml").write_text(SWAP)
    assert run("small", "--from", str(tmp_path / "swap.yaml"), "--vram", "3G") == 0
    assert set(loaded().models) == {"small"}
    assert run("huge", "--from", str(tmp_path / "swap.yaml")) == 4
    assert "it has qwen3-30b, small" in capsys.readouterr().err


def test_compose_services_that_serve_models_are_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "compose.yaml").write_text(COMPOSE)
    assert main(["--json", "new", "--print", "--from", str(tmp_path / "compose.yaml")]) == 0
    texts = json.loads(capsys.readouterr().out)
    assert set(texts) == {"chat"}
    chat = tomllib.loads(texts["chat"])
    assert chat["engine"] == "llama-server"
    assert chat["command"][-4:] == ["-m", "/srv/models/a.gguf", "-ngl", "99"]
    assert chat["resources"]["MemoryMax"] == "12G"
    assert "Not taken over: healthcheck." in texts["chat"]


def test_ollamas_models_are_served_from_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "ollama"
    manifest = store / "manifests" / "registry" / "library" / "llama3" / "8b"
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:abc"}
    manifest.write_text(json.dumps({"layers": [layer]}))
    (store / "blobs").mkdir()
    (store / "blobs" / "sha256-abc").write_bytes(bytes(10 * 2**20))
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    assert main(["--json", "new", "--print", "--from", "ollama"]) == 0
    made = tomllib.loads(json.loads(capsys.readouterr().out)["llama3-8b"])
    assert made["serves"] == ["llama3:8b"]
    assert str(store / "blobs" / "sha256-abc") in made["command"]
    assert made["vram"] == "11 MiB"


@pytest.mark.parametrize("text", ["[", "a: b", "models: 3", "\x00", "- 1", "a: &a [*a]"])
def test_what_is_no_configuration_of_theirs_is_said_to_be_none(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "x.yaml").write_text(text)
    assert run("--from", str(tmp_path / "x.yaml")) == 1
    assert str(tmp_path / "x.yaml") in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["new"], ["new", "a", "b", "--engine", "vllm"], ["new", "a"], ["new", "a", "--engine", "x"]]
)
def test_what_is_missing_is_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("aitherctl: ")


def test_a_container_is_no_server() -> None:
    with pytest.raises(Failure, match="container"):
        draft("x", ("docker", "run", "llama-server"))


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
def test_templates_are_model_files(kind: str) -> None:
    assert tomllib.loads(model_file(template("it", kind)))["engine"] == kind


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=8))
def test_whatever_a_command_holds_is_written_as_it_is(words: list[str]) -> None:
    command = ["/bin/server", *words]
    written = tomllib.loads(model_file(draft("x", command)))["command"]
    if not any("port" in word.partition("=")[0].replace("_", "-") for word in words) and written[0] == "/bin/server":
        assert written[0] == command[0]
        assert [word for word in written if word not in ("{port}",)] == command


@given(st.text(max_size=80))
def test_any_name_of_another_tool_becomes_one_of_ours(text: str) -> None:
    name = file_name(text)
    assert NAME.fullmatch(name)
    assert not name.endswith("-engine")
    assert ".." not in name
