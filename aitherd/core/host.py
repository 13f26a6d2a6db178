"""Host memory as a device: how much of it is left for the fleet. Who gives way when it is not enough is `relief.py`."""

from __future__ import annotations

from aitherd.core.words import HOST, Bytes, DeviceView

STEP: Bytes = 256 * 2**20
"""Host memory is told in steps of this size: it changes with every breath of the machine."""
STALLED = 0.10
"""Where somebody waits for memory for so large a part of the time there is none left, whatever is called available: the
kernel only gets it by taking away what is about to be used, and goes on to kill."""


def host_view(total: Bytes, available: Bytes, budget: Bytes | None, stalled: float, reserve: Bytes) -> DeviceView:
    """Host memory now. `available` is what the machine can still give, `budget` what the fleet's slice may still take,
    None without a limit; `stalled` is the part of the time, 0 to 1, in which somebody waited for memory lately."""
    left = available if budget is None else min(available, budget)
    if stalled >= STALLED:
        return DeviceView(HOST, "host memory", total, 0, reserve, stalled=round(stalled, 1))
    return DeviceView(HOST, "host memory", total, left // STEP * STEP, reserve)
