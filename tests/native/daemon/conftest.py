"""aitherd on the native test bed, and model files in a line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.native.conftest import ARTEFACTS, FAILED
from tests.testbed.manager import ManagerUnavailable
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig

GIB = 1 << 30
SETTINGS = """
[arbiter]
min-residency = "0s"
return-timeout = "2s"
wait = "20s"
"""
"""Impatient, so that a test that waits for a bound does not wait long."""


@pytest.fixture
def gpu(tmp_path: Path) -> Gpu:
    """One card of 32606 MiB, of which 31.3 GiB can be had."""
    return Gpu.create(tmp_path / "gpu")


@pytest.fixture
def start_rig(request: pytest.FixtureRequest, gpu: Gpu) -> Iterator[Callable[..., Rig]]:
    """Makes rigs on the card of the test; they end with it, and leave their journal behind if it failed."""
    with ExitStack() as stack:

        def start(*, path: Sequence[Path] = (), environment: Mapping[str, str] | None = None) -> Rig:
            try:
                rig = stack.enter_context(Rig(gpu, path=path, environment=environment))
            except ManagerUnavailable as problem:
                if os.environ.get("CI"):
                    raise
                pytest.skip(f"no private service manager: {problem}")
            stack.callback(keep, rig)
            rig.settings(SETTINGS)
            return rig

        def keep(rig: Rig) -> None:
            if request.node.stash.get(FAILED, False):
                rig.manager.save(ARTEFACTS / re.sub(r"[^\w.-]+", "-", request.node.nodeid))

        yield start


@pytest.fixture
def rig(start_rig: Callable[..., Rig]) -> Rig:
    """A rig without models."""
    return start_rig()


@pytest.fixture
def http(rig: Rig) -> Iterator[httpx.Client]:
    """A client of the proxy."""
    with rig.http() as client:
        yield client


def engine(
    vram: str = "4 GiB",
    *options: str,
    kind: str = "on-demand",
    idle: str = "never",
    holds: str = "",
    more: str = "",
) -> str:
    """A model file for the stand-in engine: it declares `vram` and holds `holds`, or the same."""
    took = (holds or vram).replace(" B", "").replace(" ", "")
    command = ["engine", "--socket", "{socket}", "--vram", took, *options]
    idle_line = f'idle = "{idle}"\n' if kind == "on-demand" else ""
    return f'engine = "exec"\nclass = "{kind}"\nvram = "{vram}"\n{idle_line}command = {json.dumps(command)}\n{more}\n'


def ask(model: str, *, stream: bool = False, tokens: int = 2) -> dict[str, object]:
    """The body of a chat request."""
    messages = [{"role": "user", "content": "hi"}]
    return {"model": model, "messages": messages, "max_tokens": tokens, "stream": stream}


def chat(http: httpx.Client, model: str, **options: int | bool) -> httpx.Response:
    """A chat request, answered or refused."""
    return http.post("/v1/chat/completions", json=ask(model, **options))  # type: ignore[arg-type]
