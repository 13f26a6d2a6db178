"""Everything there is to show at one instant besides what the proxy counts: as `/metrics` and `/events` show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aitherd.conductor.operations import Lease, ModelStatus
from aitherd.core.shares import Share, shares
from aitherd.core.words import Bytes, DeviceView
from aitherd.proxy.metrics import NodeSample


@dataclass(frozen=True, slots=True)
class Scene:
    """The fleet, its devices and its upstreams."""

    statuses: tuple[ModelStatus, ...] = ()
    devices: tuple[DeviceView, ...] = ()
    leases: tuple[Lease, ...] = ()
    nodes: tuple[NodeSample, ...] = ()
    problems: tuple[str, ...] = ()
    records: Mapping[str, int] = field(default_factory=dict)
    """How many there were of each kind."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """By model, those of its answers since the daemon began."""


def owned(device: DeviceView, statuses: Iterable[ModelStatus], leases: Iterable[Lease]) -> Mapping[Share, Bytes]:
    """The device's bytes by kind of owner."""
    models = [(status.residency, status.measured[device.id]) for status in statuses if device.id in status.measured]
    promised = sum(
        max(lease.bytes - lease.used, 0) for lease in leases if lease.device == device.id and not lease.waiting
    )
    return shares(device, models, promised)
