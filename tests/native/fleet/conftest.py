"""The shipped model files, with stand-ins of true size as their programs, under the real daemon."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.native.daemon.conftest import gpu, http, rig, start_rig
from tests.testbed import llama, models
from tests.testbed.rig import Rig

__all__ = ["gpu", "http", "rig", "start_rig"]

MODELS = Path(__file__).parents[3] / "etc" / "models.d"
PROGRAMS: dict[str, tuple[str, ...]] = {
    "orchestrator": ("vllm", "serve"),
    "embed": ("vllm", "serve"),
    "challenger": ("vllm", "serve"),
    "challenger-offload": ("vllm", "serve"),
    "imagine": ("comfyui",),
    "listen": ("speaches",),
    "speak": ("xtts",),
}
"""What runs in place of the programs; the options of the shipped command follow."""
SIZES: dict[str, tuple[str, ...]] = {
    "orchestrator": ("--x-weights", "5.5GiB", "--x-context", "1GiB"),
    "embed": ("--x-weights", "300MiB", "--x-context", "1GiB"),
    "challenger": ("--x-weights", "13GiB"),
    "challenger-offload": ("--x-weights", "6GiB"),
    "imagine": ("--weights", "7GiB", "--context", "500MiB"),
    "listen": ("--x-weights", "3GiB"),
    "speak": ("--x-vram", "2.6GiB"),
}
OF_THE_PROGRAM = {"-m", "vllm.entrypoints.openai.api_server", "--model", "/opt/comfyui/main.py", "xtts_api_server"}
"""Words of the shipped commands that say what runs, and are not options of the stand-in."""


def shipped(name: str, *words: str, more: str = "", **keys: str) -> str:
    """The shipped file of a model, with its stand-in and further words in the command; `keys` are written anew."""
    text = (MODELS / f"{name}.toml").read_text()
    # What surrounds it is about directories that are not here; a user's systemd could not set it up.
    text = text.partition("\n[service]\n")[0] + more
    command = tomllib.loads(text)["command"]
    first = 1 if name in PROGRAMS else 0
    options = [word for word in command[first:] if word not in OF_THE_PROGRAM]
    if name == "vision":
        options = ["with-vram", "5GiB", "llama-server", *models.llama_flags(vision=True)]
    new = [*PROGRAMS.get(name, ()), *options, *SIZES.get(name, ()), *words]
    for key, value in {**keys, "command": json.dumps(new)}.items():
        found = re.search(rf"^{key}\s*= (\[.*?^\]|.*?$)", text, re.MULTILINE | re.DOTALL)
        assert found, f"{name}.toml has no {key}"
        text = f"{text[: found.start()]}{key} = {value}{text[found.end() :]}"
    return text


def steps(rig: Rig) -> list[str]:
    """What was done, in order."""
    return [f"{r['fields']['step']} {r['model']}" for r in rig.records() if r["event"] == "step"]


def is_ready(rig: Rig, name: str) -> bool:
    """Whether a model is ready."""
    return bool(rig.status(name)["residency"] == "ready")


def said(rig: Rig, event: str) -> list[str]:
    """The texts of the records of one kind."""
    return [str(record["message"]) for record in rig.records() if record["event"] == event]


@pytest.fixture(scope="session")
def real_llama() -> Path:
    """The folder of a real llama-server."""
    try:
        return llama.programs()
    except llama.LlamaUnavailable as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no llama-server: {problem}")


@pytest.fixture
def workstation(start_rig: Callable[..., Rig], real_llama: Path) -> Iterator[Rig]:
    """A rig with every shipped model but the challenger's two, and the orchestrator and the embedder up."""
    rig = start_rig(path=[real_llama])
    for name in (*PROGRAMS, "vision"):
        rig.model(name, shipped(name))
    rig.ctl("list")
    for name in ("orchestrator", "embed"):
        rig.wait_for(partial(is_ready, rig, name), name)
    yield rig


@pytest.fixture
def client(workstation: Rig) -> Iterator[httpx.Client]:
    """A client of the workstation's proxy."""
    with workstation.http() as client:
        yield client
