"""The NVML test library answers the real binding, lists processes by PID and lets bytes linger."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.testbed.nvml import Card, Fault, Gpu, NvmlError, OutOfMemory
from tests.testbed.nvml.gpu import RESERVED_BYTES, RTX_5090, RTX_5090_BYTES

GIB = 1 << 30

LOOK = """
import json, pynvml as n
def tell(call, *arguments):
    try:
        return call(*arguments)
    except n.NVMLError as error:
        return type(error).__name__
def look():
    state = tell(n.nvmlInit)
    if state is not None:
        return {"init": state}
    out = {"driver": tell(n.nvmlSystemGetDriverVersion), "cards": []}
    for index in range(n.nvmlDeviceGetCount()):
        card = tell(n.nvmlDeviceGetHandleByIndex, index)
        if isinstance(card, str):
            out["cards"].append(card)
            continue
        lists = [tell(call, card) for call in
                 (n.nvmlDeviceGetComputeRunningProcesses, n.nvmlDeviceGetGraphicsRunningProcesses)]
        memory, first = tell(n.nvmlDeviceGetMemoryInfo, card, n.nvmlMemory_v2), tell(n.nvmlDeviceGetMemoryInfo, card)
        out["cards"].append({
            "uuid": n.nvmlDeviceGetUUID(card), "name": n.nvmlDeviceGetName(card),
            "memory": memory if isinstance(memory, str) else [memory.total, memory.reserved, memory.free, memory.used],
            "first": first if isinstance(first, str) else [first.total, first.free, first.used],
            "processes": [p if isinstance(p, str) else {q.pid: q.usedGpuMemory for q in p} for p in lists],
            "power": n.nvmlDeviceGetPowerUsage(card), "load": n.nvmlDeviceGetUtilizationRates(card).gpu,
        })
    n.nvmlShutdown()
    return out
"""


def look(gpu: Gpu) -> dict:  # type: ignore[type-arg]
    """What the real binding sees, in a process of its own."""
    script = LOOK + "print(json.dumps(look()))"
    environment = {**os.environ, **gpu.environment}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@contextmanager
def holding(gpu: Gpu, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Runs `with-vram` with these words and a command that says `up`, then waits for its input's end."""
    command = ["with-vram", *words, "--", sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
    with subprocess.Popen(
        command,
        env={**os.environ, **gpu.environment, **environment},
        executable=shutil.which("with-vram", path=gpu.environment["PATH"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


def test_an_idle_card_says_what_it_is(gpu: Gpu) -> None:
    gpu.card.set_load(milliwatts=61500, percent=7)
    free = RTX_5090_BYTES - RESERVED_BYTES
    assert look(gpu) == {
        "driver": "580.95.05",
        "cards": [
            {
                "uuid": gpu.card.uuid,
                "name": RTX_5090,
                "memory": [RTX_5090_BYTES, RESERVED_BYTES, free, 0],
                "first": [RTX_5090_BYTES, free, RESERVED_BYTES],
                "processes": [{}, {}],
                "power": 61500,
                "load": 7,
            }
        ],
    }


def test_processes_are_listed_by_kind_with_their_bytes(gpu: Gpu) -> None:
    desktop = gpu.card.foreign(GIB, graphics=True)
    try:
        with holding(gpu, "2.5GiB") as engine:
            card = look(gpu)["cards"][0]
            assert card["processes"] == [{str(engine.pid): 5 * GIB // 2}, {str(desktop.pid): GIB}]
            assert card["memory"][3] == 7 * GIB // 2
    finally:
        desktop.communicate()


def test_many_processes_are_all_listed(gpu: Gpu) -> None:
    for pid in range(1, 41):
        gpu.card.claim(10_000_000 + pid, pid << 20, unchecked=True)
    assert len(look(gpu)["cards"][0]["processes"][0]) == 40


def test_the_bytes_of_a_dead_process_linger_unlisted(gpu: Gpu) -> None:
    gpu.release_lag = 3600
    with holding(gpu, "4GiB") as engine:
        engine.kill()
        # Not collected yet: a zombie holds no device memory.
        os.waitid(os.P_PID, engine.pid, os.WEXITED | os.WNOWAIT)
        card = look(gpu)["cards"][0]
        assert (card["processes"][0], card["memory"][3], gpu.card.lingering) == ({}, 4 * GIB, 4 * GIB)
    gpu.card.give_back()
    assert look(gpu)["cards"][0]["memory"][3] == 0


def test_bytes_are_back_when_the_lag_is_over(gpu: Gpu) -> None:
    gpu.release_lag = 0.2
    with holding(gpu, "4GiB"):
        assert gpu.card.used == 4 * GIB
    assert gpu.card.lingering == 4 * GIB
    gpu.card.wait(lambda card: card.used == 0)


def test_a_process_that_gives_part_back_keeps_the_rest(gpu: Gpu) -> None:
    gpu.release_lag = 3600
    mine = os.getpid()
    gpu.card.claim(mine, 6 * GIB)
    gpu.card.claim(mine, 2 * GIB)
    assert (gpu.card.processes, gpu.card.lingering, gpu.card.used) == ({mine: 2 * GIB}, 4 * GIB, 6 * GIB)
    gpu.card.claim(mine, 3 * GIB)
    assert (gpu.card.processes, gpu.card.used) == ({mine: 3 * GIB}, 7 * GIB)
    gpu.card.claim(mine, 0)
    assert (gpu.card.processes, gpu.card.lingering) == ({}, 7 * GIB)


def test_leaked_bytes_never_come_back(gpu: Gpu) -> None:
    gpu.card.faults = Fault.LEAK
    with holding(gpu, "4GiB"):
        pass
    assert gpu.card.lingering == 4 * GIB
    gpu.card.faults = Fault.NONE
    assert gpu.card.lingering == 4 * GIB


def test_no_more_than_there_is_can_be_claimed(gpu: Gpu) -> None:
    with pytest.raises(OutOfMemory):
        gpu.card.claim(os.getpid(), RTX_5090_BYTES)
    gpu.card.claim(os.getpid(), gpu.card.free)
    refused = subprocess.run(
        ["with-vram", "1MiB", "--", "true"],
        env={**os.environ, **gpu.environment},
        executable=shutil.which("with-vram", path=gpu.environment["PATH"]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "out of memory" in refused.stderr


def test_memory_is_taken_on_the_devices_that_the_engine_may_see(tmp_path: Path) -> None:
    gpu = Gpu.create(tmp_path / "gpu", [24 * GIB] * 3)
    second, third = gpu.cards[1:]
    with holding(gpu, "6GiB", "--after", "0.01s", CUDA_VISIBLE_DEVICES=f"{second.uuid},2"):
        assert [card.used for card in gpu.cards] == [0, 3 * GIB, 3 * GIB]
        assert [card["memory"][3] for card in look(gpu)["cards"]] == [0, 3 * GIB, 3 * GIB]
        assert second.processes == third.processes
    with holding(gpu, "6GiB", CUDA_VISIBLE_DEVICES=""):
        assert [card.used for card in gpu.cards] == [0, 0, 0]


CASES: list[tuple[str, Callable[[Gpu, Card], None], Callable[[dict], bool]]] = [  # type: ignore[type-arg]
    (
        "lost",
        lambda _, card: setattr(card, "error", NvmlError.GPU_IS_LOST),
        lambda s: s["cards"] == ["NVMLError_GpuIsLost"],
    ),
    (
        "mismatch",
        lambda gpu, _: setattr(gpu, "broken", NvmlError.LIB_RM_VERSION_MISMATCH),
        lambda s: s == {"init": "NVMLError_LibRmVersionMismatch"},
    ),
    ("no file", lambda gpu, _: gpu.path.unlink(), lambda s: s == {"init": "NVMLError_DriverNotLoaded"}),
    (
        "nonsense",
        lambda _, card: setattr(card, "faults", Fault.NONSENSE),
        lambda s: s["cards"][0]["memory"][3] > s["cards"][0]["memory"][0],
    ),
    (
        "no memory info",
        lambda _, card: setattr(card, "faults", Fault.MEMORY_UNKNOWN),
        lambda s: s["cards"][0]["memory"] == s["cards"][0]["first"] == "NVMLError_NotSupported",
    ),
    (
        "no processes",
        lambda _, card: setattr(card, "faults", Fault.PROCESSES_UNKNOWN),
        lambda s: s["cards"][0]["processes"] == ["NVMLError_NotSupported"] * 2,
    ),
    (
        "no bytes",
        lambda _, card: setattr(card, "faults", Fault.BYTES_UNKNOWN),
        lambda s: s["cards"][0]["processes"][0] == {str(os.getpid()): None},
    ),
]


@pytest.mark.parametrize(("name", "break_it", "seen"), CASES, ids=[case[0] for case in CASES])
def test_fault(name: str, break_it: Callable[[Gpu, Card], None], seen: Callable[[dict], bool], gpu: Gpu) -> None:  # type: ignore[type-arg]
    gpu.card.claim(os.getpid(), GIB)
    assert not seen(look(gpu)), f"{name} looks no different"
    break_it(gpu, gpu.card)
    found = look(gpu)
    assert seen(found), found


def test_a_hanging_call_ends_by_nothing_but_sigkill_or_repair(gpu: Gpu) -> None:
    gpu.card.faults = Fault.HANG
    script = LOOK + "print('asking', flush=True); look(); print('back', flush=True)"
    environment = {**os.environ, **gpu.environment}
    looks = gpu.looks
    with (
        subprocess.Popen(
            [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
        ) as repaired,
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.DEVNULL) as killed,
    ):
        gpu.card.wait(lambda _: gpu.looks == looks + 2)
        for process in (repaired, killed):
            process.terminate()
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
        assert repaired.poll() is None
        gpu.card.faults = Fault.NONE
        assert repaired.wait() == -signal.SIGTERM


def test_a_new_driver_fits_only_processes_that_start_after_it(gpu: Gpu) -> None:
    script = LOOK + (
        "n.nvmlInit(); print('up', flush=True); input(); "
        "print(tell(n.nvmlSystemGetDriverVersion), tell(n.nvmlDeviceGetHandleByIndex, 0), flush=True)"
    )
    environment = {**os.environ, **gpu.environment}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as old:
        assert old.stdout is not None
        assert old.stdout.readline() == "up\n"
        gpu.change_driver("590.10")
        said, _ = old.communicate("\n")
    assert said.split() == ["NVMLError_LibRmVersionMismatch"] * 2
    assert look(gpu)["driver"] == "590.10"
