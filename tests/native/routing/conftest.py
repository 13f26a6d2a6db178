"""A proxy as in the tests of the proxy itself, on asyncio's own loop."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.native.proxy.conftest import House, house, server
from tests.native.proxy.tiers import Roads
from tests.testbed import llama, models
from tests.testbed.ray_serve import RayServe, RayUnavailable

__all__ = ["house", "server"]


@pytest.fixture
def roads(house: House) -> Roads:
    """The upstreams and the tier of one test."""
    return Roads(house)


@pytest.fixture
def deployment() -> Iterator[RayServe]:
    """A Ray Serve deployment of a real llama-server."""
    try:
        program = llama.programs() / "llama-server"
        one = RayServe([str(program), *models.llama_flags(vision=True)])
        one.start()
    except (RayUnavailable, llama.LlamaUnavailable) as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Ray Serve: {problem}")
    yield one
    one.end()
