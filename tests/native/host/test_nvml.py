"""Measuring through the real NVML binding, in a child that hangs, crashes and talks nonsense."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from aitherd.core.ledger import Sample, believed
from aitherd.host import nvml
from aitherd.host.memory import host_memory
from aitherd.host.nvml import Nvml
from aitherd.host.processes import cgroup_of, name_of
from tests.testbed.nvml import Fault, Gpu, NvmlError
from tests.testbed.nvml.gpu import RESERVED_BYTES

GIB = 1 << 30
IN_TIME = 20.0
"""Seconds, for samples that are expected to come."""
TOO_LATE = 0.3
"""Seconds, for those that are not."""


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """A machine with two devices, which children of this process see."""
    machine = Gpu.create(tmp_path / "gpu", totals=(32 * GIB, 24 * GIB))
    for name, value in machine.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(nvml, "FIRST_DELAY", 0.0)
    return machine


@pytest.fixture
async def measured(gpu: Gpu) -> AsyncIterator[Nvml]:
    meter = Nvml()
    yield meter
    await meter.close()


def child_of(meter: Nvml) -> int:
    assert meter._child is not None
    return meter._child._process.pid


async def until(look: Callable[[Sample], bool], meter: Nvml) -> Sample:
    """The first sample for which `look` holds."""
    async with asyncio.timeout(IN_TIME):
        while not look(sample := await meter.sample(IN_TIME)):
            continue
    return sample


async def test_a_sample_tells_what_the_driver_tells(gpu: Gpu, measured: Nvml) -> None:
    gpu.card.claim(os.getpid(), 5 * GIB)
    other = gpu.cards[1].foreign(2 * GIB, graphics=True)
    before = time.monotonic()
    sample = await measured.sample(IN_TIME)
    other.kill()
    other.communicate()
    assert before <= sample.taken <= time.monotonic()
    assert (sample.driver, sample.problem, believed(sample)) == ("580.95.05", "", sample)
    first, second = sample.devices
    assert (first.id, first.uuid, first.total) == ("gpu0", gpu.card.uuid, 32 * GIB)
    assert (second.id, second.uuid, second.total) == ("gpu1", gpu.cards[1].uuid, 24 * GIB)
    assert (first.total - first.free, second.total - second.free) == (
        5 * GIB + RESERVED_BYTES,
        2 * GIB + RESERVED_BYTES,
    )
    (ours,), (theirs,) = first.processes, second.processes
    assert (ours.pid, ours.bytes, ours.name) == (os.getpid(), 5 * GIB, name_of(os.getpid()))
    assert ours.cgroup == cgroup_of(os.getpid()) != ""
    assert (theirs.pid, theirs.bytes) == (other.pid, 2 * GIB)
    assert theirs.name.startswith("python")


async def test_what_a_device_draws_and_how_busy_it_is_are_told(gpu: Gpu, measured: Nvml) -> None:
    gpu.card.set_load(milliwatts=312_500, percent=87)
    device = (await measured.sample(IN_TIME)).devices[0]
    assert (device.watts, device.busy) == (312.5, 0.87)


async def test_a_process_that_computes_and_draws_is_counted_once(gpu: Gpu, measured: Nvml) -> None:
    gpu.card.claim(os.getpid(), 5 * GIB)
    gpu.card.claim(os.getpid(), 5 * GIB, graphics=True)
    (process,) = (await measured.sample(IN_TIME)).devices[0].processes
    assert process.bytes == 5 * GIB


async def test_one_process_serves_all_samples(gpu: Gpu, measured: Nvml) -> None:
    await measured.sample(IN_TIME)
    child = child_of(measured)
    for _ in range(3):
        await measured.sample(IN_TIME)
    assert child_of(measured) == child


async def test_bytes_that_the_driver_does_not_tell_are_none(gpu: Gpu, measured: Nvml) -> None:
    gpu.card.claim(os.getpid(), GIB)
    gpu.card.faults = Fault.BYTES_UNKNOWN
    (process,) = (await measured.sample(IN_TIME)).devices[0].processes
    assert (process.pid, process.bytes) == (os.getpid(), None)


async def test_a_driver_that_lists_no_processes_still_measures(gpu: Gpu, measured: Nvml) -> None:
    gpu.card.claim(os.getpid(), GIB)
    gpu.card.faults = Fault.PROCESSES_UNKNOWN
    sample = await measured.sample(IN_TIME)
    assert (sample.problem, sample.devices[0].processes, sample.devices[0].free) == ("", (), gpu.card.free)


async def test_unified_memory_is_the_hosts_memory_under_the_devices_name(gpu: Gpu, measured: Nvml) -> None:
    gpu.card.claim(os.getpid(), GIB)
    gpu.card.faults = Fault.MEMORY_UNKNOWN
    sample = await measured.sample(IN_TIME)
    device = sample.devices[0]
    assert (sample.problem, device.name, device.total) == ("", "NVIDIA GeForce RTX 5090", host_memory().total)
    assert 0 < device.free <= device.total and device.unified
    assert [process.bytes for process in device.processes] == [GIB]


async def test_values_that_cannot_be_true_are_passed_on_for_the_ledger_to_drop(gpu: Gpu, measured: Nvml) -> None:
    gpu.card.claim(os.getpid(), GIB)
    gpu.card.faults = Fault.NONSENSE
    found = believed(await measured.sample(IN_TIME))
    assert found.problem or found.lost


@pytest.mark.parametrize(
    ("error", "cause", "remedy"),
    [
        (NvmlError.DRIVER_NOT_LOADED, "not loaded", "modprobe nvidia"),
        (NvmlError.LIB_RM_VERSION_MISMATCH, "differ in version", "reboot"),
        (NvmlError.NO_PERMISSION, "may not be opened", "DeviceAllow"),
        (NvmlError.UNKNOWN, "error 999", "journalctl"),
    ],
)
async def test_a_library_that_fails_blinds_until_it_works(
    gpu: Gpu, measured: Nvml, error: NvmlError, cause: str, remedy: str
) -> None:
    gpu.broken = error
    blind = await measured.sample(IN_TIME)
    assert (blind.devices, blind.driver) == ((), "")
    assert cause in blind.problem
    assert remedy in blind.problem
    gpu.broken = NvmlError.NONE
    assert len((await until(lambda sample: not sample.problem, measured)).devices) == 2


async def test_a_machine_without_nvml_says_what_to_install(
    gpu: Gpu, measured: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH")
    blind = await measured.sample(IN_TIME)
    if not blind.problem:
        pytest.skip("the real NVML is installed here")
    assert "libnvidia-ml.so.1" in blind.problem
    assert "install" in blind.problem


async def test_a_new_driver_is_picked_up_within_the_sample_that_notices_it(gpu: Gpu, measured: Nvml) -> None:
    await measured.sample(IN_TIME)
    child = child_of(measured)
    gpu.change_driver("590.10.01")
    sample = await measured.sample(IN_TIME)
    assert (sample.driver, sample.problem) == ("590.10.01", "")
    assert child_of(measured) != child


async def test_a_lost_device_is_named_and_the_other_still_measured(gpu: Gpu, measured: Nvml) -> None:
    await measured.sample(IN_TIME)
    gpu.card.error = NvmlError.GPU_IS_LOST
    sample = await measured.sample(IN_TIME)
    assert [device.id for device in sample.devices] == ["gpu1"]
    assert sample.problem == "" and sample.lost.keys() == {"gpu0"}
    assert "fell off the bus" in sample.lost["gpu0"] and "reboot" in sample.lost["gpu0"]
    gpu.card.error = NvmlError.NONE
    assert [device.id for device in (await measured.sample(IN_TIME)).devices] == ["gpu0", "gpu1"]


async def test_a_hanging_call_ends_the_sample_in_time_and_the_loop_turns_meanwhile(gpu: Gpu, measured: Nvml) -> None:
    await measured.sample(IN_TIME)
    child = child_of(measured)
    gpu.card.faults = Fault.HANG
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    turning = asyncio.create_task(turn())
    sample = await measured.sample(TOO_LATE)
    turning.cancel()
    assert "hangs in the driver" in sample.problem
    assert sample.devices == ()
    assert turns > 5
    gpu.card.faults = Fault.NONE
    sample = await until(lambda sample: not sample.problem, measured)
    assert child_of(measured) != child


async def test_a_child_that_does_not_die_is_not_joined_by_another(
    gpu: Gpu, measured: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that sleeps in the driver where no signal reaches it. Its death is withheld here."""
    monkeypatch.setattr(nvml, "DEATH_GRACE", 0.05)
    await measured.sample(IN_TIME)
    assert measured._child is not None
    process = measured._child._process
    monkeypatch.setattr(process, "kill", lambda: None)
    gpu.card.faults = Fault.HANG
    await measured.sample(TOO_LATE)
    gpu.card.faults = Fault.NONE
    os.kill(process.pid, signal.SIGSTOP)
    for _ in range(3):
        assert "hangs in the driver" in (await measured.sample(IN_TIME)).problem
        assert measured._child is None
    os.kill(process.pid, signal.SIGKILL)
    await until(lambda sample: not sample.problem, measured)


async def test_a_child_that_is_killed_is_replaced_within_the_sample(gpu: Gpu, measured: Nvml) -> None:
    await measured.sample(IN_TIME)
    os.kill(child_of(measured), signal.SIGKILL)
    assert (await measured.sample(IN_TIME)).problem == ""


LATE = """
import json, sys, time
for line in sys.stdin:
    asked = json.loads(line)["id"]
    print("asked", asked, file=sys.stderr, flush=True)
    time.sleep(0.5 if asked == 1 else 0)
    print(json.dumps({"id": asked, "driver": f"of answer {asked}", "devices": []}), flush=True)
"""


async def test_the_answer_to_a_cancelled_sample_is_not_taken_for_the_next_ones(
    gpu: Gpu, capfd: pytest.CaptureFixture[str]
) -> None:
    meter = Nvml([sys.executable, "-c", LATE])
    first = asyncio.create_task(meter.sample(IN_TIME))
    said = ""
    while "asked 1" not in said:
        await asyncio.wait({first}, timeout=0.01)
        said += capfd.readouterr().err
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await meter.sample(IN_TIME)).driver == "of answer 2"
    await meter.close()


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import sys; sys.exit(3)", "died"),
        ("import os; os.abort()", "died by signal 6"),
        ("input(); print('segmentation fault', flush=True); input()", "nonsense"),
        ("input(); print('[1, 2]', flush=True); input()", "nonsense"),
        ("input(); print('{}', flush=True); input()", "nonsense"),
        ("""input(); print('{"id": 1, "driver": "1", "devices": [{"index": 0}]}', flush=True); input()""", "nonsense"),
        ("input(); print('x' * (2 << 20), flush=True); input()", "nonsense"),
        ("input(); print('[' * 100000, flush=True); input()", "nonsense"),
        ("""input(); print('{"id": 1, "driver": "1", "devices": []}', flush=True); input()""", "sees no GPU"),
        ("input(); input()", "hangs in the driver"),
    ],
)
async def test_a_child_that_misbehaves_only_blinds(gpu: Gpu, program: str, problem: str) -> None:
    meter = Nvml([sys.executable, "-c", program])
    sample = await meter.sample(2 if "hangs" in problem else IN_TIME)
    assert problem in sample.problem
    assert ": " in sample.problem
    assert sample.devices == ()
    await meter.close()


async def test_a_worker_that_cannot_be_executed_only_blinds(gpu: Gpu) -> None:
    meter = Nvml(["/nonexistent/python"])
    assert "cannot be started" in (await meter.sample(IN_TIME)).problem
    await meter.close()


async def test_a_child_that_never_works_is_not_started_at_every_sample(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(nvml, "FIRST_DELAY", 600.0)
    starts = tmp_path / "starts"
    meter = Nvml(["/bin/sh", "-c", f"echo >> {starts}; exit 1"])
    samples = [await meter.sample(IN_TIME) for _ in range(5)]
    assert len({sample.problem for sample in samples}) == 1
    assert "died" in samples[-1].problem
    assert starts.read_text() == "\n"
    await meter.close()


async def test_closing_leaves_no_process(gpu: Gpu) -> None:
    meter = Nvml()
    await meter.sample(IN_TIME)
    child = child_of(meter)
    await meter.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


async def test_a_child_that_began_ahead_is_the_one_that_measures(gpu: Gpu, measured: Nvml) -> None:
    measured.begin()
    assert measured._ahead is not None
    ahead = measured._ahead[0].pid
    assert not (await measured.sample(IN_TIME)).problem
    assert child_of(measured) == ahead


async def test_closing_ends_a_child_that_was_never_asked(gpu: Gpu) -> None:
    meter = Nvml()
    meter.begin()
    assert meter._ahead is not None
    child = meter._ahead[0].pid
    await meter.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


async def test_the_child_ends_when_its_parent_is_gone(gpu: Gpu, measured: Nvml) -> None:
    await measured.sample(IN_TIME)
    assert measured._child is not None
    process = measured._child._process
    measured._child._writer.close()
    assert await asyncio.to_thread(process.wait, IN_TIME) == 0
