"""The checked fleet, as the rest of the program gets it: frozen values, nothing of how they are written in files.

Sizes are bytes, durations are seconds. How files are read and checked is in `loader.py`; defaults are given here, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from aitherd.core.callers import Rule
from aitherd.core.policy import DEFAULTS as POLICY
from aitherd.core.upstreams import Tier, Upstream
from aitherd.core.words import HOST, Bytes, DeviceId, ResidencyClass, Seconds

Variant: TypeAlias = tuple[str, object]
"""A D-Bus signature and a value of that type."""

NO_PROPERTIES: Mapping[str, Variant] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Model:
    """One model file, checked."""

    name: str
    path: Path
    description: str
    engine: str
    """Kind of engine, a key of `aitherd.engines.ENGINES`."""
    residency_class: ResidencyClass
    vram: Bytes
    """Declared footprint, summed over its devices. 0 with `utilization` set means: ask `vram_on`."""
    command: tuple[str, ...]
    executable: str
    """Absolute path of the first word of `command`."""
    load_timeout: Seconds
    stop_timeout: Seconds
    max_waiting: int
    """Requests that may wait for it; one more is refused."""
    concurrency: int | None = None
    """Requests that its engine is given at once; None without a bound."""
    idle: Seconds | None = None
    """Without a request for this long it is stopped; None for never."""
    swap_slot: str | None = None
    serves: tuple[str, ...] = ()
    """Names that clients may ask for, besides `name`."""
    can: tuple[str, ...] = ()
    devices: tuple[DeviceId, ...] = ()
    """Devices that it may use; empty means any."""
    span: int = 1
    """How many devices it spreads over, in equal parts."""
    utilization: float | None = None
    """vLLM's `--gpu-memory-utilization`: the part of each device that it takes."""
    port: int | None = None
    """Fixed loopback port."""
    unix: bool | None = None
    """Whether it must listen on a Unix socket, or must not; None leaves it to the engine."""
    download: bool = False
    """Whether it may reach beyond this machine."""
    keep_slots: bool = False
    """Whether its caches are written down before it stops, and taken up again when it is back."""
    checkpoint: str = ""
    """Absolute path of cuda-checkpoint, which suspends the model instead of a sleep; empty where it is not to."""
    health: str | None = None
    """Path that answers 2xx when it is ready; `exec` only."""
    resources: Mapping[str, Variant] = field(default_factory=lambda: NO_PROPERTIES)
    """Properties of its unit from `[resources]`, named as on D-Bus."""
    service: Mapping[str, Variant] = field(default_factory=lambda: NO_PROPERTIES)
    """Properties of its unit from `[service]`, named as on D-Bus."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with anything that the start of its engine depends on."""
        parts = (
            self.engine,
            str(self.residency_class),
            self.command,
            self.executable,
            self.devices,
            self.span,
            self.port,
            self.unix,
            self.health,
            self.download,
            sorted(self.resources.items()),
            sorted(self.service.items()),
        )
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def share_on(self, total: Bytes) -> Bytes:
        """Bytes it needs on each of its devices, on a device of `total` bytes."""
        if self.vram or self.utilization is None:
            return -(-self.vram // self.span)
        return int(self.utilization * total)

    def vram_on(self, total: Bytes) -> Bytes:
        """Declared footprint on devices of `total` bytes, summed over them: `vram`, or its part of each device."""
        return self.vram or self.share_on(total) * self.span


@dataclass(frozen=True, slots=True)
class Service:
    """A service that is not aitherd's and may be asked to give device memory back."""

    name: str
    engine: str
    """Kind of engine, a key of `aitherd.engines.ENGINES`."""
    unit: str
    """The unit that it runs in: its processes are told by that."""
    port: int
    """Where it listens on the loopback address."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`aitherd.toml`, checked. Defaults are those of a missing file; what each key means is said in `written.py`."""

    # Deciding: section `arbiter`.
    reserve: Bytes = 512 * 2**20
    host_reserve: Bytes = 4 * 2**30
    wait: Seconds = 600.0
    age_bound: Seconds = POLICY.age_bound
    min_residency: Seconds = POLICY.min_residency
    return_timeout: Seconds = 15.0
    read_ahead: bool = True

    # What model files may leave out: section `models`.
    idle: Seconds | None = 300.0
    load_timeout: Seconds = 600.0
    stop_timeout: Seconds = 30.0
    max_waiting: int = 64

    # Clients: section `proxy`.
    max_head: Bytes = 64 * 2**10
    max_body: Bytes = 100 * 2**20
    head_timeout: Seconds = 10.0
    keep_alive: Seconds = 75.0
    write_timeout: Seconds = 60.0
    first_byte_timeout: Seconds = 900.0
    stall_timeout: Seconds = 300.0
    drain_timeout: Seconds = 60.0
    hosts: tuple[str, ...] = ()

    # Section `log`.
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything configured."""

    settings: Settings = field(default_factory=Settings)
    models: Mapping[str, Model] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    """A model's name, or one that it serves -> the model."""
    tiers: Mapping[str, Tier] = field(default_factory=dict)
    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    callers: Mapping[str, Rule] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    """Those that are not aitherd's."""

    def sized(self, totals: Mapping[DeviceId, Bytes]) -> Fleet:
        """The fleet with every `vram` in bytes, now that the sizes of the devices are known.

        A model that takes a part of its device is counted for the largest device that it may use.
        """
        models = {}
        for name, model in self.models.items():
            devices = [device for device in totals if device != HOST and device in (model.devices or totals)]
            sizes = [totals[device] for device in devices]
            models[name] = replace(model, vram=model.vram_on(max(sizes))) if sizes else model
        return replace(self, models=models)
