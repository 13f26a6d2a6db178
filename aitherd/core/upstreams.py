"""Tiers and upstreams as values: where a request may go, in which order, and what it costs there.

What is known about them at a moment is in `routing.py`; how they are written in files is the configuration's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

from aitherd.core.circuit import State
from aitherd.core.words import Seconds

Abilities = frozenset[str]
PLAIN: Abilities = frozenset({"chat", "completions"})
"""What a model that says nothing about its abilities is taken to be able to do."""


class Reach(IntEnum):
    """How far a request travels; a tier allows as far as one of these."""

    LOCAL = 0
    LAN = 1
    CLOUD = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of a tier: a model of this machine, or a model of an upstream."""

    model: str
    upstream: str = ""
    """Empty for a model of this machine."""

    def __str__(self) -> str:
        return f"{self.upstream}/{self.model}" if self.upstream else self.model


@dataclass(frozen=True, slots=True)
class Tier:
    """A named chain of routes, the preferred one first."""

    name: str
    routes: tuple[Route, ...]
    patience: Seconds
    """How long a request may wait for a model to load while another route could answer."""
    leave: Reach = Reach.LOCAL
    """How far its requests may travel."""
    serves: tuple[str, ...] = ()
    """Names that clients may ask for, besides `name`."""
    efforts: tuple[str, ...] = ()
    """Values of `X-Aither-Effort` and `reasoning_effort` that choose it."""


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model of an upstream."""

    name: str
    """As the upstream calls it."""
    can: Abilities = PLAIN
    prompt_price: float = 0.0
    """For a million tokens of the request, in the currency of the cap."""
    answer_price: float = 0.0
    """For a million tokens of the answer."""


@dataclass(frozen=True, slots=True)
class Node:
    """One address of an upstream."""

    tls: bool
    host: str
    port: int
    path: str
    """What its paths begin with instead of `/v1`: `/v1`, or `/api/v1`."""
    weight: int = 1

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class Upstream:
    """Something outside of this machine that answers requests."""

    name: str
    reach: Reach
    nodes: tuple[Node, ...]
    can: Abilities = PLAIN
    """Of models that are not among `models`."""
    models: Mapping[str, RemoteModel] = field(default_factory=lambda: MappingProxyType({}))
    key: str = ""
    """Name of the systemd credential that holds its API key; empty for none."""
    key_header: str = "authorization"
    """Which header shows it, in lower case: `authorization` (as a bearer), or `x-api-key`."""
    authority: str = ""
    """File with the certificates to trust instead of the system's; empty for those."""
    concurrency: int = 64
    """Requests that one node may have in flight."""
    daily_cap: float | None = None
    """What its answers may cost on one day; None without a bound."""
    probe_interval: Seconds = 15.0
    connect_timeout: Seconds = 5.0
    first_byte_timeout: Seconds = 120.0

    def model(self, name: str) -> RemoteModel:
        """A model that a route names."""
        return self.models.get(name) or RemoteModel(name, self.can)


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node of an upstream as people see it."""

    address: str
    circuit: State
    reason: str
    """Why its circuit is open, or what failed last; empty when nothing did."""
    in_flight: int
    concurrency: int
    """Requests that it may have in flight."""
    weight: int
    latency: Seconds
    """From a request to the first byte of its answer, smoothed; 0 before the first."""
    models: tuple[str, ...]
    """Names that it lists; empty when that is not known."""


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """An upstream as people see it."""

    name: str
    reach: Reach
    nodes: tuple[NodeStatus, ...]
    spent: float
    """Today (UTC), in the currency of its prices."""
    cap: float | None
    problem: str
    """Why it cannot be used at all; empty when it can."""

    @property
    def state(self) -> str:
        """`up`, `degraded` (some nodes are given a rest), `down` (all are), `capped` or `unusable`."""
        if self.problem:
            return "unusable"
        resting = sum(node.circuit is State.OPEN for node in self.nodes)
        if resting == len(self.nodes):
            return "down"
        if self.cap is not None and self.spent >= self.cap:
            return "capped"
        return "degraded" if resting else "up"
