"""The vocabulary: every noun that the rest of the program shares, as frozen types.

Nothing here decides or acts. Sizes are bytes, durations are seconds, instants are seconds of the monotonic clock
that the caller passes in as `now`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias

Bytes: TypeAlias = int
Seconds: TypeAlias = float
DeviceId: TypeAlias = str
"""`gpu0`, `gpu1`… in the order of NVML's indices, or `host` for host memory."""

HOST: DeviceId = "host"
NO_BYTES: Mapping[DeviceId, Bytes] = MappingProxyType({})


class ResidencyClass(StrEnum):
    """How firmly a model stays on its device."""

    ESSENTIAL = "essential"
    """Never slept, shrunk, stopped or evicted by the arbiter."""
    RESIDENT = "resident"
    """Kept without a request; evicted last."""
    ON_DEMAND = "on-demand"
    """Loaded by demand, stopped when idle."""


class Residency(StrEnum):
    """Where a model stands. Which moves are allowed is the table in `core/residency.py`."""

    ABSENT = "absent"
    STARTING = "starting"
    """On its way up: a cold start or a wake."""
    READY = "ready"
    SLEEPING = "sleeping"
    STOPPING = "stopping"
    """On its way down: draining, then going to sleep or stopping."""
    FAILED = "failed"
    """Could not be brought up or died; backing off."""
    QUARANTINED = "quarantined"
    """Gone, but its device bytes have not come back."""


class Priority(StrEnum):
    """How pressing a request is, while it waits for its model."""

    INTERACTIVE = "interactive"
    """A person waits for the answer."""
    BATCH = "batch"
    """Nobody does: it comes later where it would be in the way, but no later than the age bound."""


class Verb(StrEnum):
    """What a step of a plan does to one model."""

    FREE = "free"
    """Drop caches; the model stays ready."""
    SLEEP = "sleep"
    STOP = "stop"
    WAKE = "wake"
    START = "start"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine listens: a Unix socket, or a port on the loopback address. Exactly one is set."""

    socket: str | None = None
    port: int | None = None

    def __post_init__(self) -> None:
        if (self.socket is None) == (self.port is None):
            raise ValueError("an endpoint is either a socket path or a loopback port")

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket is not None else f"tcp:127.0.0.1:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """The inverse of `str()`. Raises ValueError for anything else."""
        if text.startswith("unix:/"):
            return cls(socket=text.removeprefix("unix:"))
        if text.startswith("tcp:127.0.0.1:"):
            return cls(port=int(text.removeprefix("tcp:127.0.0.1:")))
        raise ValueError(f"not an endpoint: {text!r}")


@dataclass(frozen=True, slots=True)
class Claim:
    """Device bytes held by somebody who is not one of our units."""

    owner: str
    """Process name, or the purpose an external lease was taken for."""
    pid: int
    device: DeviceId
    bytes: Bytes
    holder: int = 0
    """PID of the holder of the lease that the process uses, which is itself or an ancestor; 0 without a lease."""
    service: str = ""
    """Name of the configured service, not ours, that the process belongs to; empty for any other process."""


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device as measured."""

    id: DeviceId
    name: str
    total: Bytes
    free: Bytes
    """Measured free bytes; quarantined and foreign bytes are already missing from it."""
    reserve: Bytes
    """Bytes that no plan may use."""
    foreign: tuple[Claim, ...] = ()
    quarantined: Bytes = 0
    """Bytes a stopped model left behind that have not come back."""
    fresh: bool = True
    """False while the measurement is stale or the device is lost: nothing may be loaded on it."""
    problem: str = ""
    """Why the device is not fresh, with the remedy; empty when it is."""
    unified: bool = False
    """Whether its memory is the host's: what a sleeper moves to host memory is not given back."""
    stalled: float = 0.0
    """Of host memory under pressure: the part of the time, 0 to 1, in which somebody waited for it; 0 without."""
    watts: float | None = field(default=None, compare=False)
    """Power drawn, for show: no decision looks at it, and a change of it is no news. None when unknown."""
    busy: float | None = field(default=None, compare=False)
    """Part of the time in which it computed lately, 0 to 1; likewise for show."""


@dataclass(frozen=True, slots=True)
class SleepLevel:
    """One rung of a model's sleep ladder, shallowest first."""

    level: int
    """As the engine numbers it, 1 or higher."""
    residue: Bytes
    """Device bytes that stay claimed while asleep."""
    host: Bytes
    """Host bytes that the sleeper holds."""
    seconds: Seconds
    """Expected time to fall asleep."""
    wake: Seconds
    """Expected time to be ready again."""


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model as the arbiter sees it at an instant."""

    name: str
    residency_class: ResidencyClass
    residency: Residency
    vram: Bytes
    """Device bytes it needs to be ready: learned, or declared while nothing is learned. Summed over its devices."""
    devices: tuple[DeviceId, ...] = ()
    """Devices it may use; empty means any."""
    span: int = 1
    """How many devices it spreads over, in equal parts."""
    level: int = 0
    """Sleep level it is at; 0 when not asleep."""
    held_bytes: Mapping[DeviceId, Bytes] = field(default_factory=lambda: NO_BYTES)
    """Measured device bytes of its unit, now."""
    freeable: Bytes = 0
    """Bytes that `free` is expected to give back while the model stays ready; 0 where the engine keeps no caches."""
    ladder: tuple[SleepLevel, ...] = ()
    """Levels it can sleep at; empty when it cannot sleep."""
    swap_slot: str | None = None
    """Name of a slot that at most one awake member may occupy."""
    busy: bool = False
    """Requests in flight, or the engine says it works."""
    held: bool = False
    """Somebody holds it resident."""
    waiting: int = 0
    """Requests waiting for it to become ready."""
    ready_since: Seconds = 0.0
    last_used: Seconds = 0.0
    frequency: float = 0.0
    """Uses, decayed to `last_used`. The arbiter decays it on to `now`."""
    host: Bytes = 0
    """Host bytes its unit may grow to while ready (its memory limit), 0 when unknown."""
    start_seconds: Seconds = 60.0
    """Expected cold start."""
    stop_seconds: Seconds = 2.0
    free_seconds: Seconds = 1.0
    foreign: bool = False
    """A service that is not ours: it gives its bytes back when asked to free them, and is neither slept nor stopped."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything a decision may depend on."""

    devices: Mapping[DeviceId, DeviceView]
    models: Mapping[str, ModelView]
    leases: tuple[Claim, ...] = ()
    """External leases: bytes promised to outside programs, whether they use them yet or not."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan."""

    verb: Verb
    model: str
    takes: Mapping[DeviceId, Bytes]
    """Bytes each device must give to this step; negative where the step must give bytes back."""
    seconds: Seconds
    """Expected duration."""
    why: str
    """One clause for a person."""
    level: int = 0
    """Sleep level, for `sleep`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The ordered steps that make one model ready. The last step brings the model up; no steps means it is ready."""

    model: str
    steps: tuple[Step, ...]
    placement: tuple[DeviceId, ...]
    """Devices the model will stand on; empty for a model without device memory."""
    spare: Mapping[DeviceId, Bytes]
    """Bytes expected to be left above the reserve afterwards."""
    why: str

    @property
    def seconds(self) -> Seconds:
        """Expected duration of the whole plan; steps run one after another."""
        return sum(step.seconds for step in self.steps)


class RefusalKind(StrEnum):
    """Why there is no plan."""

    NEVER = "never"
    """No allowed eviction would ever make room: take the next route at once."""
    NOT_NOW = "not-now"
    """Room can be made once something stops being busy, held or young."""
    BLIND = "blind"
    """The device cannot be measured: nothing is loaded on it."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who holds bytes that a refused plan would have needed, and why they stay."""

    name: str
    device: DeviceId
    bytes: Bytes
    why: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a model cannot be made ready, with the sum."""

    model: str
    kind: RefusalKind
    missing: Bytes
    """Bytes short on the device that came closest; 0 when the reason is not bytes."""
    holders: tuple[Holder, ...]
    why: str


def format_bytes(count: Bytes) -> str:
    """Binary units with one decimal, as people write them in model files: `5.2 GiB`, `512 MiB`, `0 B`."""
    size = abs(count)
    power = min((size.bit_length() - 1) // 10, 4) if size else 0
    value = size / (1 << 10 * power)
    number = f"{value:.1f}" if power and value < 100 and not value.is_integer() else f"{value:.0f}"
    return f"{'-' if count < 0 else ''}{number} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def format_seconds(seconds: Seconds) -> str:
    """As people write durations: `250 ms`, `3.1 s`, `5 min`, `1 h 30 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 or seconds == int(seconds) else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
