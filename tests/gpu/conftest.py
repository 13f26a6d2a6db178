"""A real NVIDIA GPU, or a reason why there is none; and a process that holds memory on it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pynvml
import pytest

from aitherd.host.nvml import Nvml

HOLDER = Path(__file__).with_name("holder.py")
Hold = Callable[[int], subprocess.Popen[str]]


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """Skips where no GPU answers."""
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
        ctypes.CDLL("libcuda.so.1")
    except (pynvml.NVMLError, OSError) as error:
        pytest.skip(f"no NVIDIA GPU: {error}")
    if not count:
        pytest.skip("no NVIDIA GPU: NVML lists none")


@pytest.fixture
async def nvml() -> AsyncIterator[Nvml]:
    """NVML as the daemon has it: in a child, over the real binding and the real library."""
    made = Nvml()
    yield made
    await made.close()


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Starts processes that hold so many bytes of the first GPU, and ends them."""
    with ExitStack() as stack:

        def hold(count: int) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, str(HOLDER), str(count)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            said = process.stdout.readline().strip()
            if said != "held":
                pytest.skip(f"the GPU has no {count} bytes for a test: {said}")
            return process

        yield hold
