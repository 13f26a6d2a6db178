"""The engines of the simulated machine: what a model server does with device memory and time, and how it misbehaves.

They answer the requests that the daemon's own engine modules send (`aitherd/engines`), so those run unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import httpx

from aitherd.core.words import Bytes, DeviceId, Endpoint, Seconds
from aitherd.engines.base import Control

if TYPE_CHECKING:
    from tests.simulator.machine import Machine

MIB = 1 << 20


@dataclass(slots=True)
class Nature:
    """What a model is really like, which its model file may not know. The second half is how it misbehaves."""

    footprint: Bytes
    """Device bytes while ready, summed over its devices."""
    load: Seconds = 10.0
    reads: Seconds = 0.0
    """The part of a load in which its weights are read. There is one disk: who reads beside another takes turns."""
    stop: Seconds = 1.0
    sleep: Seconds = 1.0
    wake: Mapping[int, Seconds] = field(default_factory=lambda: {1: 2.0, 2: 8.0})
    residue: Bytes = 1024 * MIB
    """Device bytes that stay while asleep, or after its caches were dropped."""
    lag: Seconds = 0.3
    """How long after its end, or its sleep, the device still shows its bytes as used."""

    fails: bool = False
    """It ends in the middle of its start."""
    hangs: bool = False
    """It never answers again, and never ends by itself."""
    mute: bool = False
    """It calls itself ready and generates nothing: its GPU hangs."""
    refuses: bool = False
    """It answers control requests with an error."""
    leaks: float = 0.0
    """The part of its bytes that stays used after its end, until the machine is mended."""
    stubborn: bool = False
    """No signal ends it."""


class Phase(Enum):
    """Where a simulated engine is."""

    LOADING = "loading"
    READY = "ready"
    ASLEEP = "asleep"


class Engine:
    """One running engine process."""

    def __init__(
        self, machine: Machine, model: str, pid: int, endpoint: Endpoint, placement: tuple[DeviceId, ...]
    ) -> None:
        self.machine = machine
        self.model = model
        self.nature = machine.natures[model]
        self.pid = pid
        self.endpoint = endpoint
        self.placement = placement
        self.held: dict[DeviceId, Bytes] = {}
        self.phase = Phase.LOADING
        self.level = 0
        self.doomed = False
        """It was told to end, and has not yet."""
        self.jobs = 0
        """What it works on from a queue of its own."""
        self.ended = asyncio.Event()
        self.answers = asyncio.Event()
        """Set once it has loaded, or never will."""
        half = self.nature.load / 2
        delay = machine.read(self.nature.reads)
        self._timer = machine.loop.call_later(delay + half, self._allocate, half)

    def grow(self) -> bool:
        """Takes all its device bytes; ends instead where there are not enough."""
        each = -(-self.nature.footprint // max(len(self.placement), 1))
        for device in self.placement:
            more = each - self.held.get(device, 0)
            if more > self.machine.free(device):
                self.machine.out_of_memory(self)
                return False
            self.held[device] = each
        return True

    def shrink(self, part: float = 1.0) -> None:
        """Gives back all but its residue; the device shows it after the lag."""
        residue = -(-self.nature.residue // max(len(self.placement), 1))
        for device, count in self.held.items():
            given = int(max(count - residue, 0) * part)
            self.held[device] = count - given
            self.machine.linger(device, given, self.nature.lag)

    def end(self) -> None:
        """The process is gone. Its bytes follow, except for what it leaks."""
        if self.ended.is_set():
            return
        self._timer.cancel()
        for device, count in self.held.items():
            lost = int(count * self.nature.leaks)
            self.machine.linger(device, lost, None)
            self.machine.linger(device, count - lost, self.nature.lag)
        self.held = {}
        self.ended.set()
        self.answers.set()

    def _allocate(self, rest: Seconds) -> None:
        if self.nature.fails:
            self.machine.crash(self.model)
        elif self.grow():
            self._timer = self.machine.loop.call_later(rest, self._loaded)

    def _loaded(self) -> None:
        self.phase = Phase.READY
        self.answers.set()

    async def answer(
        self, method: str, path: str, params: Mapping[str, str], timeout: Seconds
    ) -> httpx.Response | None:
        """The answer to one request, or None when there is none in time."""
        if self.nature.hangs:
            await within(self.ended.wait(), timeout)
            return None
        if not await within(self.answers.wait(), timeout) or self.ended.is_set():
            return None
        if method == "POST":
            return await self._control(path, params, timeout)
        if path == "/metrics":
            steps = 0.0 if self.nature.mute else self.machine.loop.time()
            return httpx.Response(200, text=f"vllm:generation_tokens_total {steps}\n")
        if path == "/is_sleeping":
            return httpx.Response(200, json={"is_sleeping": self.phase is Phase.ASLEEP})
        if path == "/queue":
            return httpx.Response(200, json={"queue_running": [0] * min(self.jobs, 1), "queue_pending": []})
        return httpx.Response(200)

    async def _control(self, path: str, params: Mapping[str, str], timeout: Seconds) -> httpx.Response | None:
        if self.nature.refuses:
            return httpx.Response(500)
        match path:
            case "/v1/completions":
                if self.nature.mute:
                    await within(self.ended.wait(), timeout)
                    return None
                return httpx.Response(200, json={"choices": [{"text": "1"}]})
            case "/sleep":
                self.machine.audit.sleeps(self.model)
                if not await self._work(self.nature.sleep, timeout):
                    return None
                self.phase = Phase.ASLEEP
                self.level = int(params["level"])
                self.shrink()
                self.machine.audit.slept(self.model, self.machine.memory().available)
            case "/wake_up" if params.get("tags") != "kv_cache":
                self.machine.audit.wakes(self.model)
                if not await self._work(self.nature.wake[self.level], timeout) or not self.grow():
                    return None
                if "tags" not in params:
                    self.phase, self.level = Phase.READY, 0
            case "/wake_up":
                self.phase, self.level = Phase.READY, 0
            case "/free":
                self.machine.audit.frees(self.model)
                self.shrink()
        return httpx.Response(200)

    async def _work(self, seconds: Seconds, timeout: Seconds) -> bool:
        """Whether it got that done: False when it ended meanwhile, or took longer than was waited for."""
        if await within(self.ended.wait(), min(seconds, timeout)):
            return False
        return seconds <= timeout


class SimulatedControl(Control):
    """The daemon's HTTP client, with the simulated machine at the other end."""

    def __init__(self, machine: Machine, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._machine = machine

    async def __aexit__(self, *_: object) -> None:
        return

    async def _send(
        self, method: str, path: str, params: Mapping[str, str] | None, json: object, timeout: Seconds
    ) -> httpx.Response | None:
        engine = self._machine.listening(self.endpoint)
        return await engine.answer(method, path, params or {}, timeout) if engine is not None else None


async def within(awaited: Awaitable[object], seconds: Seconds) -> bool:
    """Whether `awaited` comes within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await awaited
    except TimeoutError:
        return False
    return True


def connecting(machine: Machine) -> Callable[[Endpoint], Control]:
    """What the conductor makes its clients with."""
    return lambda endpoint: SimulatedControl(machine, endpoint)
