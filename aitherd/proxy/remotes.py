"""The upstreams as they fare: circuits, requests in flight, model lists, keys. Written by journeys and by probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from random import random

from aitherd.conductor.records import Event, Records
from aitherd.core.circuit import Circuit, State, smoothed
from aitherd.core.retries import MATRIX, REST, Failure
from aitherd.core.routing import NodeView, UpstreamView
from aitherd.core.upstreams import Node, NodeStatus, Upstream, UpstreamStatus
from aitherd.core.words import Seconds
from aitherd.proxy.addresses import Address, address, credential
from aitherd.proxy.spend import Spend


class Peer:
    """One node of an upstream."""

    __slots__ = (
        "_changed",
        "_records",
        "_told",
        "address",
        "circuit",
        "in_flight",
        "latency",
        "models",
        "name",
        "node",
    )

    def __init__(
        self, name: str, node: Node, address: Address, records: Records | None, changed: Callable[[str], None]
    ) -> None:
        self.name = name
        """Of the upstream."""
        self.node = node
        self.address = address
        self.circuit = Circuit()
        self.in_flight = 0
        self.models: frozenset[str] = frozenset()
        """Names that it lists; empty while that is not known."""
        self.latency: Seconds = 0.0
        """From a request to the first byte of its answer, smoothed; 0 before the first."""
        self._records = records
        self._changed = changed
        self._told = False

    def begin(self) -> None:
        """A request goes there."""
        self.in_flight += 1
        self._changed(self.name)

    def end(self) -> None:
        """A request there is over."""
        self.in_flight -= 1
        self._changed(self.name)

    def answered(self, seconds: Seconds) -> None:
        """A request was answered; its first byte came after so long."""
        self.latency = smoothed(self.latency, seconds)
        self.succeeded()

    def succeeded(self, *, probe: bool = False) -> None:
        """It answered."""
        self.circuit.succeeded(probe=probe)
        self._changed(self.name)
        if self._told and not self.circuit.opened:
            self._told = False
            self._tell(f"{self} answers again")

    def failed(self, now: Seconds, failure: Failure, reason: str, rest: Seconds = REST) -> None:
        """A request or a probe failed; `rest` is how long it asked to be left alone, if it did."""
        verdict = MATRIX[failure]
        if verdict.rests:
            self.circuit.rest(now, rest)
        elif verdict.breaks:
            self.circuit.failed(now, reason, jitter=random())
            if self.circuit.opened and not self._told:
                self._told = True
                self._tell(f"{self} is given a rest after {self.circuit.failures} failures: {reason}")
        else:
            # It answered, if only to say that it does not have what was asked for.
            self.succeeded()
        self._changed(self.name)

    def __str__(self) -> str:
        return f"the upstream {self.name} at {self.address}"

    def _tell(self, message: str) -> None:
        if self._records is not None:
            self._records.add(Event.UPSTREAM, message, upstream=self.name, address=str(self.address))


class Remote:
    """One upstream."""

    __slots__ = ("peers", "problem", "upstream")

    def __init__(self, upstream: Upstream, peers: tuple[Peer, ...], problem: str) -> None:
        self.upstream = upstream
        self.peers = peers
        self.problem = problem
        """Why it cannot be used at all; empty when it can."""

    def status(self, now: Seconds, spend: Spend) -> UpstreamStatus:
        """As people see it."""
        upstream = self.upstream
        nodes = tuple(
            NodeStatus(
                str(peer.address),
                peer.circuit.state(now),
                peer.circuit.reason,
                peer.in_flight,
                upstream.concurrency,
                peer.node.weight,
                peer.latency,
                tuple(sorted(peer.models)),
            )
            for peer in self.peers
        )
        spent = spend.today(upstream.name)
        return UpstreamStatus(upstream.name, upstream.reach, nodes, spent, upstream.daily_cap, self.problem)

    def view(self, now: Seconds, spend: Spend) -> UpstreamView:
        """As routing sees it."""
        upstream = self.upstream
        nodes = tuple(
            NodeView(
                peer.circuit.state(now),
                peer.in_flight,
                peer.node.weight,
                upstream.concurrency,
                peer.models,
                peer.circuit.reason,
                peer.latency,
            )
            for peer in self.peers
        )
        if self.problem:
            nodes = (NodeView(State.OPEN, reason=self.problem),)
        left = None if upstream.daily_cap is None else upstream.daily_cap - spend.today(upstream.name)
        return UpstreamView(upstream.reach, nodes, left)


class Remotes:
    """All upstreams."""

    def __init__(self, records: Records | None = None, secret: Callable[[str], str] = credential) -> None:
        self._records = records
        self._secret = secret
        self.by_name: dict[str, Remote] = {}
        self._listeners: list[Callable[[str], None]] = []

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """Calls `changed(upstream)` after each change, `changed("")` when there are others; returns what ends that."""
        self._listeners.append(changed)
        return partial(self._listeners.remove, changed)

    def changed(self, upstream: str) -> None:
        """Something about an upstream is not as it was; an empty name: there are others."""
        for listener in self._listeners:
            listener(upstream)

    def apply(self, upstreams: Mapping[str, Upstream]) -> None:
        """Takes over a configuration. What is known about an upstream stays while its section does not change."""
        kept = {name: one for name, one in self.by_name.items() if upstreams.get(name) == one.upstream}
        self.by_name = {
            name: kept[name] if name in kept and not kept[name].problem else self._remote(upstream)
            for name, upstream in upstreams.items()
        }
        self.changed("")

    def _remote(self, upstream: Upstream) -> Remote:
        problem = key = ""
        try:
            key = self._secret(upstream.key) if upstream.key else ""
            peers = tuple(
                Peer(upstream.name, node, address(upstream, node, key), self._records, self.changed)
                for node in upstream.nodes
            )
        except (OSError, ValueError) as error:
            # ValueError's own text may quote what was read.
            said = error.strerror or str(error) if isinstance(error, OSError) else "it does not hold a key"
            what = f"the credential {upstream.key}" if upstream.key and not key else upstream.authority
            problem = f"{what} cannot be read: {said}"
            peers = ()
            if self._records is not None:
                message = f"the upstream {upstream.name} is not used: {problem}"
                self._records.add(Event.UPSTREAM, message, upstream=upstream.name)
        return Remote(upstream, peers, problem)
