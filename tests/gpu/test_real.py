"""The daemon's own eyes and books on a real GPU, with a real CUDA process that takes memory and gives it back."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aitherd.core.ledger import Accounts, Sample, account, believed, outstanding
from aitherd.engines.checkpoint import PROGRAM, too_old
from aitherd.host.nvml import Nvml
from tests.gpu.conftest import Hold

GIB = 1 << 30
PATIENCE_S = 60.0
DEVICE = "gpu0"


async def until(what: str, true: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not await true():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.05)


async def look(nvml: Nvml) -> Sample:
    """A sample that is believed."""
    sample = believed(await nvml.sample(PATIENCE_S))
    assert not sample.problem, sample.problem
    return sample


async def books(nvml: Nvml, *groups: str) -> Accounts:
    """The accounts, with the processes in these control groups as a model's."""
    return account(await look(nvml), {f"holder{number}": group for number, group in enumerate(groups)}, reserve=0)


def control_group(pid: int) -> str:
    """Of the unified hierarchy. cgroups(7)"""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


def run(tool: str, what: str, pid: int) -> str:
    """Runs cuda-checkpoint; what it printed."""
    return subprocess.run([tool, what, "--pid", str(pid)], capture_output=True, text=True, check=True).stdout.strip()


async def test_what_is_measured_can_be_true_and_balances(nvml: Nvml) -> None:
    sample = await look(nvml)
    assert sample.driver
    accounts = account(sample, {}, reserve=0)
    for device, view in accounts.devices.items():
        claimed = sum(claim.bytes for claim in view.foreign)
        assert claimed + accounts.unattributed[device] + view.free == view.total


async def test_a_process_is_seen_with_its_bytes_and_its_bytes_come_back(nvml: Nvml, hold: Hold) -> None:
    before = await look(nvml)
    process = hold(GIB)
    seen = {one.pid: one for one in (await look(nvml)).devices[0].processes}
    if process.pid not in seen:
        pytest.skip("NVML lists processes of another PID namespace here")
    held = seen[process.pid].bytes
    assert held is not None
    # Its context comes on top.
    assert GIB <= held <= 3 * GIB
    assert before.devices[0].free - (await look(nvml)).devices[0].free >= GIB // 2
    group = control_group(process.pid)
    if not group.strip("/"):
        pytest.skip("the test runs in the root control group, which is nobody's")
    accounts = await books(nvml, group)
    assert accounts.measured["holder0"][DEVICE] >= GIB
    assert outstanding(accounts, accounts, "holder0", {DEVICE: GIB}) == {DEVICE: GIB}
    process.kill()
    process.wait()

    async def back() -> bool:
        return not outstanding(accounts, await books(nvml, group), "holder0", {DEVICE: GIB})

    await until("the bytes of a process that was killed are back", back)


async def test_cuda_checkpoint_gives_the_bytes_back_and_takes_them_again(nvml: Nvml, hold: Hold) -> None:
    tool = shutil.which(PROGRAM)
    if tool is None:
        pytest.skip(f"no {PROGRAM}")
    if problem := too_old((await look(nvml)).driver):
        pytest.skip(problem)
    process = hold(GIB)

    async def bytes_held() -> int:
        seen = {one.pid: one.bytes or 0 for one in (await look(nvml)).devices[0].processes}
        return seen.get(process.pid, 0)

    async def gone() -> bool:
        return await bytes_held() == 0

    async def there() -> bool:
        return await bytes_held() >= GIB

    if not await there():
        pytest.skip("NVML lists processes of another PID namespace here")
    assert run(tool, "--get-state", process.pid) == "running"
    run(tool, "--toggle", process.pid)
    assert run(tool, "--get-state", process.pid) == "checkpointed"
    await until("a suspended process holds nothing", gone)
    run(tool, "--toggle", process.pid)
    assert run(tool, "--get-state", process.pid) == "running"
    await until("it has its bytes again", there)
