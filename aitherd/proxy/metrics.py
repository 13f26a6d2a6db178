"""What the proxy counts, and the table of everything that `/metrics` shows. How that is written is `exposition.py`.

Counting is on the data path: plain numbers, no library. Names in the table are an interface: dashboards and alerts are
built on them.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Literal, NamedTuple

from aitherd.core.words import Bytes, Seconds
from aitherd.proxy.tokens import Count

BUCKETS: tuple[Seconds, ...] = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Family(NamedTuple):
    """One metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


_MODEL = ("model",)
_DEVICE = ("device",)
_ADDRESS = ("upstream", "address")

FAMILIES: tuple[Family, ...] = (
    Family("aither_build_info", "gauge", ("version",), "1, with the version of the daemon."),
    Family("aither_problems", "gauge", (), "What keeps the daemon from its work; 0 when healthy."),
    Family("aither_records_total", "counter", ("event",), "Decisions and transitions that were recorded, by kind."),
    Family("aither_requests_total", "counter", ("model", "route", "code"),
           "Requests that ended; 499 when the client left first, 502 when the engine broke off."),
    Family("aither_request_duration_seconds", "histogram", _MODEL, "From a request's head to the end of its answer."),
    Family("aither_request_first_byte_seconds", "histogram", _MODEL, "From a request's head to its answer's."),
    Family("aither_request_wait_seconds", "histogram", _MODEL,
           "How long requests that had to wait for their model waited."),
    Family("aither_request_bytes_total", "counter", _MODEL, "Bytes of request bodies that were received."),
    Family("aither_response_bytes_total", "counter", _MODEL, "Bytes of answers that were sent, heads included."),
    Family("aither_answer_tokens_total", "counter", _MODEL,
           "Tokens of answers, as their engines count them; where they do not, the events of streams."),
    Family("aither_requests_open", "gauge", (), "Requests that have begun and not ended."),
    Family("aither_client_connections", "gauge", (), "Open client connections."),
    Family("aither_client_connections_refused_total", "counter", (),
           "Clients that were turned away because too many were connected, or no descriptor was left."),
    Family("aither_model_info", "gauge", ("model", "class", "engine"), "1, with the model's class and engine."),
    Family("aither_model_residency", "gauge", ("model", "residency"),
           "1 for the state that the model is in, 0 for the others."),
    Family("aither_model_transitions_total", "counter", ("model", "from", "to"),
           "How often the model went from one state to another."),
    Family("aither_model_requests_in_flight", "gauge", _MODEL, "Requests that the model is answering."),
    Family("aither_model_requests_waiting", "gauge", _MODEL, "Requests that wait for the model."),
    Family("aither_model_held", "gauge", _MODEL, "1 while the model is held resident."),
    Family("aither_model_device_bytes", "gauge", ("model", "device"), "Device bytes of the model's unit, measured."),
    Family("aither_model_expected_bytes", "gauge", _MODEL,
           "Device bytes that the model is expected to need: learned, or declared."),
    Family("aither_device_info", "gauge", ("device", "name"), "1, with the device's name."),
    Family("aither_device_fresh", "gauge", _DEVICE, "1 while the device is being measured."),
    Family("aither_device_size_bytes", "gauge", _DEVICE, "Size of the device's memory."),
    Family("aither_device_bytes", "gauge", ("device", "owner"),
           "The device's memory by owner: models, sleepers, leases, foreign, quarantine, other, reserve and free. "
           "Together they are its size."),
    Family("aither_device_power_watts", "gauge", _DEVICE, "Power that the device draws."),
    Family("aither_device_busy_ratio", "gauge", _DEVICE, "Part of the time in which the device computed lately."),
    Family("aither_leases", "gauge", ("state",), "Leases of outside programs: granted, or waiting."),
    Family("aither_upstream_up", "gauge", _ADDRESS, "1 while requests may be sent to the address of an upstream."),
    Family("aither_upstream_requests_in_flight", "gauge", _ADDRESS,
           "Requests that the address of an upstream is answering."),
    Family("aither_upstream_spent_today", "gauge", ("upstream",),
           "What an upstream's answers have cost today (UTC), in the currency of its prices."),
    Family("aither_upstream_daily_cap", "gauge", ("upstream",),
           "What they may cost in a day, of an upstream that has a cap."),
)  # fmt: skip
"""In the order in which they are shown. Besides these there are the usual `process_` metrics."""


class NodeSample(NamedTuple):
    """One node of an upstream, as it is counted."""

    upstream: str
    address: str
    up: bool
    in_flight: int
    spent: float
    """Today, by the whole upstream."""
    cap: float | None = None
    """What that may be; None without a bound."""
    reason: str = ""
    """Why nothing is sent there; empty while something is."""


class Histogram:
    """Durations of one kind for one model."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        """By bucket, each without those before it; the last is of what is longer than every bound."""
        self.total: Seconds = 0.0

    def add(self, seconds: Seconds) -> None:
        """Counts one duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class Tally:
    """What is counted for one model; that of the empty name is of requests that came to none."""

    __slots__ = ("codes", "first_byte", "received", "seconds", "sent", "tokens", "waited")

    def __init__(self) -> None:
        self.codes: dict[tuple[str, int], int] = {}
        """By route and status."""
        self.seconds = Histogram()
        self.first_byte = Histogram()
        self.waited = Histogram()
        self.tokens = Count()
        self.received: Bytes = 0
        self.sent: Bytes = 0


class Metrics:
    """The proxy's counters. Labels come from configuration and from the table of routes, never from a client."""

    def __init__(self) -> None:
        self.models: dict[str, Tally] = {}
        self.connections = 0
        """Open client connections."""
        self.refused = 0
        """Clients that were turned away."""
        self.in_flight = 0
        """Requests that have begun and not ended."""

    def count(
        self,
        model: str,
        route: str,
        status: int,
        seconds: Seconds,
        first_byte: Seconds | None,
        waited: Seconds | None,
        received: Bytes = 0,
        sent: Bytes = 0,
    ) -> None:
        """One request that ended; `status` 499 when the client left first. None for what did not happen."""
        tally = self._tally(model)
        key = (route, status)
        tally.codes[key] = tally.codes.get(key, 0) + 1
        tally.seconds.add(seconds)
        if first_byte is not None:
            tally.first_byte.add(first_byte)
        if waited:
            tally.waited.add(waited)
        tally.received += received
        tally.sent += sent

    def tokens(self, model: str) -> Count:
        """Where the tokens of a model's answers are counted."""
        return self._tally(model).tokens

    def _tally(self, model: str) -> Tally:
        tally = self.models.get(model)
        if tally is None:
            tally = self.models[model] = Tally()
        return tally
