"""The shipped model files, with stand-ins of true size as their programs, under the real daemon."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.day.fleet import PROGRAMS, shipped
from tests.native.daemon.conftest import gpu, http, rig, start_rig
from tests.testbed import llama
from tests.testbed.rig import Rig

__all__ = ["gpu", "http", "rig", "shipped", "start_rig"]


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
