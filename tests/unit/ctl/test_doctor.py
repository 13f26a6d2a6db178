"""What would keep a model from coming up is found, and said with its remedy, without starting anything."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aitherd.ctl.__main__ import main
from aitherd.engines.gpu_check import ctranslate2_verdict, llama_verdict, torch_verdict

SEES = "Available devices:\n  CUDA0: NVIDIA GeForce RTX 5090 (32606 MiB, 32094 MiB free)\n"
SEES_NOTHING = "Available devices:\n"

Examine = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A llama-server that sees a GPU."""
    return write_program(tmp_path, SEES)


def write_program(directory: Path, devices: str) -> Path:
    path = directory / "llama-server"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{devices}END\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def examine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Examine:
    """What is found about one model with this file."""
    models = tmp_path / "etc" / "models.d"
    models.mkdir(parents=True)
    monkeypatch.setenv("AITHER_CONFIG_DIR", str(tmp_path / "etc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def found(text: str) -> list[dict[str, Any]]:
        (models / "vision.toml").write_text(text)
        main(["doctor", "vision", "--user", "--json"])
        findings: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return [finding for finding in findings if finding["about"] in ("vision", "configuration")]

    return found


def model(program: Path, *words: str, engine: str = "llama-server", vram: str = "5 GiB", more: str = "") -> str:
    command = json.dumps([str(program), *words])
    return f'engine = "{engine}"\nvram = "{vram}"\ncommand = {command}\n{more}'


def test_a_model_that_can_come_up(examine: Examine, program: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    (finding,) = examine(model(program, "-m", str(tmp_path / "model.gguf")))
    assert (finding["severity"], finding["message"]) == ("ok", "nothing stands in its way")


def test_an_engine_that_sees_no_gpu(examine: Examine, tmp_path: Path) -> None:
    blind = write_program(tmp_path, SEES_NOTHING)
    (finding,) = examine(model(blind))
    assert (finding["severity"], "sees no GPU" in finding["message"]) == ("error", True)
    assert "a build with CUDA" in finding["remedy"]
    # One that needs no GPU is not asked.
    (finding,) = examine(model(blind, vram="0 B"))
    assert finding["severity"] == "ok"


def test_weights_that_are_not_there(examine: Examine, program: Path, tmp_path: Path) -> None:
    (finding,) = examine(model(program, "-m", "/nowhere/model.gguf"))
    assert (finding["severity"], finding["message"]) == ("error", "-m /nowhere/model.gguf cannot be read")
    repository = ("-hf", "some/model-GGUF:Q4_K_M")
    (finding,) = examine(model(program, *repository))
    assert (finding["severity"], "load-timeout" in finding["remedy"]) == ("warning", True)
    (finding,) = examine(model(program, *repository, more='[service]\nEnvironment = ["HF_HUB_OFFLINE=1"]\n'))
    assert finding["severity"] == "error"
    assert finding["remedy"].startswith("take HF_HUB_OFFLINE away")
    (tmp_path / "cache" / "huggingface" / "hub" / "models--some--model-GGUF").mkdir(parents=True)
    (finding,) = examine(model(program, *repository))
    assert finding["severity"] == "ok"


def test_a_port_that_somebody_else_has(examine: Examine, program: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (finding,) = examine(model(program, more=f"port = {port}\n"))
    assert finding["message"] == f"somebody else listens on port {port}"


def test_directories_that_are_missing(examine: Examine, program: Path) -> None:
    (finding,) = examine(model(program, "--slot-save-path", "/nowhere/slots", more="keep-slots = true\n"))
    assert finding["message"] == "--slot-save-path /nowhere/slots is not a directory"
    assert finding["remedy"] == "install -d -o aither-engine /nowhere/slots"


def test_a_sleeper_that_its_own_limit_would_kill(examine: Examine, tmp_path: Path) -> None:
    python = tmp_path / "vllm"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    words = ("serve", "--enable-sleep-mode", "--gpu-memory-utilization", "0.5")
    limits = '[resources]\nMemoryMax = "2G"\n'
    found = examine(model(python, *words, engine="vllm", vram="16 GiB", more=limits))
    assert any("above its MemoryMax of 2 GiB" in finding["message"] for finding in found)


def test_a_broken_configuration_is_among_the_findings(examine: Examine) -> None:
    (finding,) = examine("engine = 'abacus'\ncommand = ['x']\n")
    assert (finding["severity"], finding["about"]) == ("error", "configuration")


@pytest.mark.parametrize(
    ("printed", "wrong"),
    [
        ('{"built": "12.8", "made_for": ["sm_90", "sm_120"], "is": [12, 0]}', ""),
        ('warning: x\n{"built": "12.4", "made_for": ["sm_86", "compute_86"], "is": [12, 0]}', ""),
        ('{"built": "12.4", "made_for": ["sm_86"], "is": [8, 9]}', ""),
        ('{"built": "12.4", "made_for": ["sm_80", "sm_90"], "is": [12, 0]}', "no code for this GPU (sm_120)"),
        ('{"built": "12.4", "made_for": ["sm_90"], "is": null}', "sees no GPU"),
        ('{"built": null, "made_for": [], "is": null}', "without CUDA"),
        ("ModuleNotFoundError: No module named 'torch'", "cannot be asked"),
    ],
)
def test_what_pytorch_says_about_the_gpu(printed: str, wrong: str) -> None:
    assert (wrong in torch_verdict(printed)) if wrong else torch_verdict(printed) == ""


def test_what_the_others_say_about_the_gpu() -> None:
    assert llama_verdict(SEES) == ctranslate2_verdict('{"devices": 1}') == ""
    assert "sees no GPU" in llama_verdict(SEES_NOTHING)
    assert "does not list" in llama_verdict("error: invalid argument: --list-devices")
    assert "sees no GPU" in ctranslate2_verdict('{"devices": 0}')
    assert "cannot be asked" in ctranslate2_verdict("Traceback")


def test_a_service_that_is_not_ours_and_not_there_is_told(
    examine: Examine, program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examine(model(program))
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = somebody.getsockname()[1]
        section = f'[foreign.ollama]\nengine = "ollama"\nunit = "ollama.service"\nport = {port}\n'
        (tmp_path / "etc" / "aitherd.toml").write_text(section)
        main(["doctor", "--user"])
        assert f"ollama: something listens on port {port}" in capsys.readouterr().out
    main(["doctor", "--user"])
    assert f"ollama: nothing listens on port {port}; is ollama.service running?" in capsys.readouterr().out
