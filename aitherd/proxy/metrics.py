"""Counts what the proxy does and writes it, with the models' and devices' state, as Prometheus text (version 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from aitherd.conductor.operations import ModelStatus
from aitherd.core.words import DeviceView, Residency, Seconds

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
BUCKETS: tuple[Seconds, ...] = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class NodeSample(NamedTuple):
    """One node of an upstream, as it is counted."""

    upstream: str
    address: str
    up: bool
    in_flight: int
    spent: float
    """Today, by the whole upstream."""


class Histogram:
    """Durations of one kind for one model."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total: Seconds = 0.0

    def add(self, seconds: Seconds) -> None:
        """Counts one duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class _Model:
    """What is counted for one model; the empty name stands for requests that came to none."""

    __slots__ = ("codes", "first_byte", "seconds", "waited")

    def __init__(self) -> None:
        self.codes: dict[tuple[str, int], int] = {}
        self.seconds = Histogram()
        self.first_byte = Histogram()
        self.waited = Histogram()


class Metrics:
    """The proxy's own registry. Labels come from configuration and from the table of routes, never from a client."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}
        self.connections = 0
        """Open client connections."""
        self.in_flight = 0
        """Requests that have begun and not ended."""

    def count(
        self, model: str, route: str, status: int, seconds: Seconds, first_byte: Seconds | None, waited: Seconds | None
    ) -> None:
        """One request that ended; `status` 499 when the client left first. None for what did not happen."""
        entry = self._models.get(model)
        if entry is None:
            entry = self._models[model] = _Model()
        key = (route, status)
        entry.codes[key] = entry.codes.get(key, 0) + 1
        entry.seconds.add(seconds)
        if first_byte is not None:
            entry.first_byte.add(first_byte)
        if waited:
            entry.waited.add(waited)

    def text(
        self,
        statuses: Iterable[ModelStatus],
        devices: Iterable[DeviceView],
        problems: int,
        nodes: Iterable[NodeSample] = (),
    ) -> bytes:
        """Everything, for one scrape."""
        lines: list[str] = []
        families = (*self._families(tuple(statuses), tuple(devices), problems), *_upstreams(tuple(nodes)))
        for name, kind, help_text, samples in families:
            lines += (f"# HELP {name} {help_text}", f"# TYPE {name} {kind}")
            lines += (f"{name}{suffix} {value}" for suffix, value in samples)
        return ("\n".join(lines) + "\n").encode()

    def _families(
        self, statuses: tuple[ModelStatus, ...], devices: tuple[DeviceView, ...], problems: int
    ) -> Iterator[tuple[str, str, str, Iterable[tuple[str, float]]]]:
        models = self._models.items()
        yield (
            "aither_requests_total", "counter", "Requests that ended, 499 when the client left first.",
            [
                (_labels(model=model, route=route, code=str(code)), count)
                for model, entry in models
                for (route, code), count in entry.codes.items()
            ],
        )  # fmt: skip
        for name, help_text, attribute in (
            ("aither_request_duration_seconds", "From the request's head to the end of its answer.", "seconds"),
            ("aither_request_first_byte_seconds", "From the request's head to its answer's.", "first_byte"),
            ("aither_request_wait_seconds", "How long requests that had to wait for their model waited.", "waited"),
        ):
            yield name, "histogram", help_text, _buckets({model: getattr(entry, attribute) for model, entry in models})
        yield "aither_client_connections", "gauge", "Open client connections.", [("", self.connections)]
        yield "aither_requests_open", "gauge", "Requests that have begun and not ended.", [("", self.in_flight)]
        yield "aither_problems", "gauge", "What keeps the daemon from its work; 0 when healthy.", [("", problems)]
        yield (
            "aither_model_requests_in_flight", "gauge", "Requests that the model is answering.",
            [(_labels(model=status.name), status.in_flight) for status in statuses],
        )  # fmt: skip
        yield (
            "aither_model_requests_waiting", "gauge", "Requests that wait for the model.",
            [(_labels(model=status.name), status.waiting) for status in statuses],
        )  # fmt: skip
        yield (
            "aither_model_residency", "gauge", "1 for the state that the model is in, 0 for the others.",
            [
                (_labels(model=status.name, residency=str(residency)), int(status.residency is residency))
                for status in statuses
                for residency in Residency
            ],
        )  # fmt: skip
        yield (
            "aither_model_device_bytes", "gauge", "Device bytes that the model's unit holds, measured.",
            [
                (_labels(model=status.name, device=device), count)
                for status in statuses
                for device, count in status.measured.items()
            ],
        )  # fmt: skip
        for name, help_text, attribute in (
            ("aither_device_total_bytes", "Size of the device.", "total"),
            ("aither_device_free_bytes", "Measured free bytes of the device.", "free"),
            ("aither_device_reserve_bytes", "Bytes of the device that no plan uses.", "reserve"),
            ("aither_device_quarantined_bytes", "Bytes that a stopped model left behind.", "quarantined"),
            ("aither_device_fresh", "Whether the device is being measured.", "fresh"),
        ):
            samples = [(_labels(device=device.id), int(getattr(device, attribute))) for device in devices]
            yield name, "gauge", help_text, samples


def _upstreams(nodes: tuple[NodeSample, ...]) -> Iterator[tuple[str, str, str, Iterable[tuple[str, float]]]]:
    yield (
        "aither_upstream_up", "gauge", "1 while requests may be sent to the address of an upstream.",
        [(_labels(upstream=node.upstream, address=node.address), int(node.up)) for node in nodes],
    )  # fmt: skip
    yield (
        "aither_upstream_requests_in_flight", "gauge", "Requests that the address of an upstream is answering.",
        [(_labels(upstream=node.upstream, address=node.address), node.in_flight) for node in nodes],
    )  # fmt: skip
    yield (
        "aither_upstream_spent_today", "gauge", "What an upstream's answers have cost today (UTC), by its prices.",
        list({_labels(upstream=node.upstream): node.spent for node in nodes}.items()),
    )  # fmt: skip


def _buckets(histograms: Mapping[str, Histogram]) -> Iterator[tuple[str, float]]:
    """The samples of one histogram family."""
    for model, histogram in histograms.items():
        total = 0
        for bound, count in zip((*BUCKETS, "+Inf"), histogram.counts, strict=True):
            total += count
            yield "_bucket" + _labels(model=model, le=str(bound)), total
        yield "_sum" + _labels(model=model), histogram.total
        yield "_count" + _labels(model=model), total


def _labels(**labels: str) -> str:
    """`{name="value",…}`, escaped as the format asks."""
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels.items()
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"
