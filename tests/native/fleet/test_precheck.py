"""A start that cannot succeed says why in one line, before anything of the model is on the device."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.native.daemon.conftest import chat
from tests.native.fleet.conftest import steps
from tests.testbed.nvml import Gpu
from tests.testbed.rig import STAND_INS, Rig

MODEL = """
engine = "{kind}"
vram = "4 GiB"
command = {command}
{more}
"""


@pytest.fixture
def rig(start_rig: Callable[..., Rig], tmp_path: Path) -> Rig:
    """A rig whose llama-server is a stand-in that says which devices it sees, from a file."""
    program = tmp_path / "bin" / "llama-server"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\ncd {tmp_path}\n"
        'if [ "$1" = --list-devices ]; then echo asked >>asked; exec cat devices; fi\n'
        'while [ $# -gt 0 ]; do if [ "$1" = --host ]; then socket=$2; fi; shift; done\n'
        f'exec {STAND_INS}/engine --socket "$socket" --vram 4GiB\n'
    )
    program.chmod(0o755)
    return start_rig(path=[program.parent])


def model(kind: str, *command: str, more: str = "") -> str:
    return MODEL.format(kind=kind, command=json.dumps(command), more=more)


def refused(http: httpx.Client, name: str) -> str:
    answer = chat(http, name)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_start_failed")
    return str(answer.json()["error"]["message"])


def test_a_program_that_sees_no_gpu_is_found_out_before_its_first_start_and_not_asked_after_it(
    rig: Rig, gpu: Gpu, http: httpx.Client, tmp_path: Path
) -> None:
    devices = tmp_path / "devices"
    devices.write_text("ggml_cuda_init: no device\nAvailable devices:\n")
    rig.model("vision", model("llama-server", "llama-server"))
    said = refused(http, "vision")
    assert "llama-server: it sees no GPU; take a build with CUDA, and look at nvidia-smi" in said
    assert rig.manager.journal("-u", "aither-vision-engine.service", "-o", "cat") == ""
    assert gpu.card.used == 0
    # With another build it comes up, and is not asked again.
    devices.write_text("Available devices:\n  CUDA0: NVIDIA GeForce RTX 5090 (32606 MiB, 32094 MiB free)\n")
    for _ in range(2):
        rig.ctl("start", "vision")
        assert chat(http, "vision").status_code == 200
        rig.ctl("stop", "vision")
    assert (tmp_path / "asked").read_text().split() == ["asked"] * 2
    # The start that could not be was none.
    assert steps(rig).count("start vision") == 2


def test_weights_that_are_not_there_and_a_port_that_is_taken_are_told(
    rig: Rig, http: httpx.Client, tmp_path: Path
) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = somebody.getsockname()[1]
        weights = tmp_path / "none.gguf"
        rig.model("lost", model("llama-server", "llama-server", "-m", str(weights)))
        rig.model("shut", model("exec", "engine", "--port", "{port}", more=f"port = {port}"))
        assert f"-m {weights} is not there; put the weights there" in refused(http, "lost")
        said = refused(http, "shut")
        assert f"somebody else listens on port {port}; ss -tlnp 'sport = {port}' says who" in said
        assert "could not bind" not in said
