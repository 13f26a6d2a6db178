"""The simulated machine: devices, engine processes, foreign programs, and how all of it is measured, rightly or not.

It stands behind two of the conductor's seams: what NVML would say (`sample`), and what the engines hold and answer. The
third, the service manager, is in `manager.py`.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from aitherd.conductor.launch import engine_unit
from aitherd.core.ledger import DeviceSample, ProcessSample, Sample
from aitherd.core.words import Bytes, DeviceId, Endpoint, Seconds
from aitherd.host.memory import HostMemory
from tests.simulator.audit import Audit
from tests.simulator.engines import Engine, Nature, Phase

DRIVER = "999.1"


class Sight(Enum):
    """How the driver answers."""

    TRUE = "true"
    BLIND = "blind"
    """It says that the device is lost."""
    PARTLY = "partly"
    """It says that the second device is lost, and of the first the truth."""
    NONSENSE = "nonsense"
    """More is free than there is."""
    TWICE = "twice"
    """It lists a device two times."""
    DEAF = "deaf"
    """It does not answer in time."""


@dataclass(slots=True)
class Foreign:
    """A program that is none of ours."""

    pid: int
    name: str
    held: dict[DeviceId, Bytes] = field(default_factory=dict)


class Machine:
    """Devices and what is on them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        totals: Mapping[DeviceId, Bytes],
        natures: Mapping[str, Nature],
        audit: Audit,
    ) -> None:
        self.loop = loop
        self.totals = dict(totals)
        self.natures = dict(natures)
        self.audit = audit
        self.engines: dict[str, Engine] = {}
        """Running ones, by model."""
        self.foreign: dict[str, Foreign] = {}
        self.sight = Sight.TRUE
        self.measuring: Seconds = 0.0
        """How long the driver takes to answer."""
        self.died: Callable[[str], None] = lambda _: None
        """Told the model whose engine ended by itself."""
        self.crashed: dict[str, Seconds] = {}
        """When an engine of a model ended by itself, the last time."""
        self.memory_total: Bytes = 64 << 30
        self.slept: Seconds = 0.0
        """For how long it has been suspended."""
        self.driver = DRIVER
        self.unified = False
        """Whether the devices say that their memory is the host's."""
        self.meminfo = True
        """Whether there is a descriptor for the file that host memory is read from."""
        self.stalled = 0.0
        """Part of the time in which programs wait for host memory."""
        self.samples = 0
        """How often it was measured."""
        self._last_words: dict[str, str] = {}
        self._lingering: dict[DeviceId, Bytes] = dict.fromkeys(totals, 0)
        self._leaked: dict[DeviceId, Bytes] = dict.fromkeys(totals, 0)
        self._pids = 1000
        self._reads_until: Seconds = 0.0

    # --- what is there -------------------------------------------------------------------------------------------

    def free(self, device: DeviceId) -> Bytes:
        """Bytes that an allocation on `device` would get."""
        used = self._lingering[device] + self._leaked[device]
        used += sum(engine.held.get(device, 0) for engine in self.engines.values())
        used += sum(program.held.get(device, 0) for program in self.foreign.values())
        return self.totals[device] - used

    def linger(self, device: DeviceId, count: Bytes, lag: Seconds | None) -> None:
        """Bytes that nobody holds any more stay used for `lag`, or until the machine is mended."""
        if count <= 0:
            return
        if lag is None:
            self._leaked[device] += count
            return
        self._lingering[device] += count
        self.loop.call_later(lag, self._forget, device, count)

    def _forget(self, device: DeviceId, count: Bytes) -> None:
        self._lingering[device] -= count

    def read(self, seconds: Seconds) -> Seconds:
        """The disk is read for so long, once those before have read. Returns how long that is to wait for."""
        begins = max(self._now(), self._reads_until)
        self._reads_until = begins + seconds
        return begins - self._now()

    def pid(self) -> int:
        """One that nobody has had."""
        self._pids += 1
        return self._pids

    def listening(self, endpoint: Endpoint) -> Engine | None:
        """Whoever listens at `endpoint`."""
        for engine in self.engines.values():
            if engine.endpoint == endpoint:
                return engine
        return None

    def work(self, model: str) -> None:
        """An engine begins to work on something: caches that it dropped come back, as far as there is room."""
        engine = self.engines.get(model)
        if engine is None or engine.phase is not Phase.READY:
            if self.crashed.get(model, -1.0) < self._now():
                self.audit.unserved(model)
            return
        for device, count in engine.held.items():
            wanted = -(-engine.nature.footprint // len(engine.placement))
            if wanted > count:
                self.audit.disturbed()
            engine.held[device] = count + min(max(wanted - count, 0), max(self.free(device), 0))

    # --- what befalls it -----------------------------------------------------------------------------------------

    def crash(self, model: str) -> None:
        """The engine of `model` ends by itself."""
        engine = self.engines.pop(model, None)
        if engine is not None:
            self.crashed[model] = self._now()
            engine.end()
            self.died(model)

    def out_of_memory(self, engine: Engine) -> None:
        """An engine could not get the bytes that it needs."""
        self.audit.starved(engine.model)
        self._last_words[engine_unit(engine.model)] = "torch.OutOfMemoryError: CUDA out of memory"
        self.crash(engine.model)

    def take(self, program: str, device: DeviceId, count: Bytes) -> None:
        """A foreign program comes to hold `count` bytes on `device`, or as many as there are."""
        entry = self.foreign.setdefault(program, Foreign(self.pid(), program))
        mine = entry.held.pop(device, 0)
        if count > mine:
            self.audit.disturbed()
        entry.held[device] = max(min(count, self.free(device)), 0)

    def mend(self) -> None:
        """All is well again: nothing leaks, nobody misbehaves, the driver tells the truth."""
        self.sight = Sight.TRUE
        self.measuring = 0.0
        self._leaked = dict.fromkeys(self.totals, 0)
        for model in self.natures:
            self.mend_model(model)

    def mend_model(self, model: str) -> None:
        """`model` behaves again. One that was told to end long ago ends now."""
        nature = self.natures[model]
        nature.fails = nature.hangs = nature.refuses = nature.stubborn = False
        nature.leaks, nature.lag = 0.0, min(nature.lag, 0.3)
        engine = self.engines.get(model)
        if engine is not None:
            engine.jobs = 0
            if engine.doomed:
                self.crash(model)

    async def last_line(self, unit: str, invocation: str, count: int) -> str:
        """What the engine of `unit` wrote before it ended."""
        return self._last_words.pop(unit, "")

    # --- how it is measured: conductor.meter.Sampler -------------------------------------------------------------

    async def sample(self, timeout: Seconds) -> Sample:
        """All devices as the driver tells it."""
        sight = self.sight
        self.samples += 1
        if sight is Sight.DEAF:
            await asyncio.sleep(timeout)
            return Sample(self._now(), "", (), f"the driver does not answer within {timeout:g} s")
        if self.measuring:
            await asyncio.sleep(self.measuring)
        if sight is Sight.BLIND:
            return Sample(self._now(), self.driver, (), "GPU is lost; reset or reboot")
        devices = tuple(self._device(device, sight) for device in self.totals)
        lost = {}
        if sight is Sight.PARTLY:
            devices, gone = devices[:1], devices[1:]
            lost = {device.id: "GPU is lost; reset or reboot" for device in gone}
        if sight is Sight.TWICE:
            devices *= 2
        if sight in (Sight.TRUE, Sight.PARTLY):
            self.audit.measured({device.id: device.free for device in devices})
        return Sample(self._now(), self.driver, devices, lost=lost)

    async def renew(self) -> None:
        """Nothing is open."""

    async def close(self) -> None:
        """Nothing to close."""

    def memory(self, group: str = "") -> HostMemory:
        """Host memory. Sleepers that keep their weights hold about as much there as they held on the device."""
        if not self.meminfo:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        asleep = sum(
            max(engine.nature.footprint - engine.nature.residue, 0)
            for engine in self.engines.values()
            if engine.level == 1
        )
        return HostMemory(self.memory_total, max(self.memory_total - asleep, 0), stalled=self.stalled)

    def _now(self) -> Seconds:
        return self.loop.time()

    def _device(self, device: DeviceId, sight: Sight) -> DeviceSample:
        processes = [
            ProcessSample(engine.pid, model, engine.held[device], f"/aither.slice/aither-{model}-engine.service")
            for model, engine in self.engines.items()
            if device in engine.held
        ]
        processes += [
            ProcessSample(program.pid, name, program.held[device], "/user.slice/session.scope")
            for name, program in self.foreign.items()
            if program.held.get(device)
        ]
        total, free = self.totals[device], self.free(device)
        if sight is Sight.NONSENSE:
            free = total + 1
        return DeviceSample(device, f"GPU-{device}", "simulated", total, free, tuple(processes), unified=self.unified)
