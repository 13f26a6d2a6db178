"""What the daemon costs while nobody asks anything: memory, CPU and wake-ups, its measuring process included.

Memory is what both hold together, the Python library and the like counted once. Where the NVML is the test library,
more than half of the CPU with models up is that library's, which keeps its cards in a file.
Once with twelve models of which none is up, over a minute, so that the rare things happen; once with three up.
Beside it llama-server's router with as many models and none loaded.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.daemon import MODELS, cpu_seconds, family, installed, resident, together, wake_ups
from tests.bench.http import first_byte
from tests.bench.router import router
from tests.bench.rows import Row
from tests.testbed.rig import Rig

SETTLE_S = 6.0
NONE_UP_S, SOME_UP_S = 65.0, 40.0
UP = 3
PEER = "llama-server router"
BUDGET_MB, BUDGET_PERCENT, BUDGET_WAKE_UPS = 60.0, 0.1, 2.0


def spent(pids: Sequence[int], seconds: float, *others: Sequence[int]) -> list[tuple[float, float]]:
    """Percent of a core and wake-ups a second over the same `seconds`, of each group of processes."""
    groups = [pids, *others]
    before = [(cpu_seconds(group), wake_ups(group)) for group in groups]
    began = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - began
    return [
        ((cpu_seconds(group) - cpu) / elapsed * 100, (wake_ups(group) - woken) / elapsed)
        for group, (cpu, woken) in zip(groups, before, strict=True)
    ]


def budgeted(name: str, value: float, unit: str, budget: float, peer: float | None = None) -> Row:
    """A figure with an absolute budget, the router's beside it where it is given."""
    ratio = value / peer if peer else None
    return Row(name, value, unit, None if peer is None else PEER, peer, ratio, f"<= {budget:g} {unit}", value <= budget)


def daemon(rig: Rig) -> list[int]:
    """The daemon and its measuring process."""
    return family(rig.daemon_pid())


def main() -> list[Row]:
    """Waits, and says what was spent."""
    with tempfile.TemporaryDirectory() as directory, installed() as rig:
        names = [f"model-{index}" for index in range(MODELS)]
        with router(Path(directory), names) as (peer, _):
            rig.ctl("list")
            time.sleep(SETTLE_S)
            (cpu, woken), (peer_cpu, peer_woken) = spent(daemon(rig), NONE_UP_S, [peer])
            worker = sum(resident(pid) for pid in daemon(rig)[1:])
            rows = [
                budgeted("idle: memory, none up", together(daemon(rig)) / 1e6, "MB", BUDGET_MB, resident(peer) / 1e6),
                Row("idle: resident, the daemon by itself", resident(daemon(rig)[0]) / 1e6, "MB"),
                Row("idle: resident, its measuring process by itself", worker / 1e6, "MB"),
                budgeted("idle: CPU, none up", cpu, "%", BUDGET_PERCENT, peer_cpu),
                budgeted("idle: wake-ups, none up", woken, "1/s", BUDGET_WAKE_UPS, peer_woken),
            ]
        for name in names[:UP]:
            first_byte((socket.AF_UNIX, str(rig.socket)), name)
        time.sleep(SETTLE_S)
        [(cpu, woken)] = spent(daemon(rig), SOME_UP_S)
        return [
            *rows,
            budgeted(f"idle: memory, {UP} up", together(daemon(rig)) / 1e6, "MB", BUDGET_MB),
            budgeted(f"idle: CPU, {UP} up", cpu, "%", BUDGET_PERCENT),
            budgeted(f"idle: wake-ups, {UP} up", woken, "1/s", BUDGET_WAKE_UPS),
        ]
