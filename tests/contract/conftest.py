"""Which servers the contract is held against: all that can be started here, or the one that the environment names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from aitherd.engines import ENGINES, engine
from aitherd.engines.base import Health
from tests.contract.servers import Running, Start, address, started
from tests.contract.shapes import DOCUMENTED
from tests.testbed.nvml import Gpu

ENGINE, URL = os.environ.get("CONTRACT_ENGINE", ""), os.environ.get("CONTRACT_URL", "")
KINDS = (ENGINE,) if ENGINE else tuple(ENGINES)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that takes `kind` for every engine, and one that takes `call` for every documented call."""
    if "call" in metafunc.fixturenames:
        pairs = [(kind, call) for kind in KINDS for call in DOCUMENTED.get(kind, ())]
        metafunc.parametrize(("kind", "call"), pairs, ids=[f"{kind} {call}" for kind, call in pairs], scope="module")
    elif "kind" in metafunc.fixturenames:
        kinds = getattr(metafunc.function, "kinds", KINDS)
        metafunc.parametrize("kind", [kind for kind in KINDS if kind in kinds], scope="module")


@pytest.fixture(scope="module")
def server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of that kind that nothing has been asked of but whether it is ready."""
    if URL:
        yield Running(engine(kind), address(URL), None)
        return
    folder = tmp_path_factory.mktemp("s")
    with started(kind, (), folder, Gpu.create(folder / "gpu")) as running:
        yield running


@pytest.fixture
async def ready(server: Running) -> Running:
    """The same, when it answers."""
    await server.until(Health.READY)
    return server


@pytest.fixture
def gpu(tmp_path: Path) -> Gpu:
    return Gpu.create(tmp_path / "gpu")


@pytest.fixture
def start(gpu: Gpu, tmp_path: Path) -> Iterator[Start]:
    """Starts a server of the test's own, with further words in its command and its environment."""
    with ExitStack() as stack:

        def start(kind: str, *words: str, **environment: str) -> Running:
            if URL or kind not in KINDS:
                pytest.skip("a server that runs already is not harmed" if URL else f"only {ENGINE}")
            return stack.enter_context(started(kind, words, tmp_path, gpu, environment))

        yield start
