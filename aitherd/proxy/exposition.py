"""Writes `/metrics` with prometheus-client: the proxy's counters, and the state of models, devices and upstreams.

Imported by the first scrape, so that a daemon that nobody scrapes does without the library. Nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from aitherd import __version__
from aitherd.conductor.operations import ModelStatus
from aitherd.core.words import Residency
from aitherd.proxy.metrics import BUCKETS, FAMILIES, Histogram, Metrics
from aitherd.proxy.scene import Scene, owned

_OPEN = "application/openmetrics-text"
_EOF = b"# EOF\n"
_BOUNDS = (*(str(float(bound)) for bound in BUCKETS), "+Inf")

Sample = tuple[tuple[str, ...], float]
"""The labels of a sample, and its value."""


class _Only(Collector):
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def content_type(accept: str) -> bytes:
    """OpenMetrics for a client that accepts it, else Prometheus' own text."""
    return (openmetrics.CONTENT_TYPE_LATEST if _OPEN in accept else CONTENT_TYPE_PLAIN_0_0_4).encode()


def exposition(metrics: Metrics, scene: Scene, accept: str = "") -> Iterator[bytes]:
    """The text for one scrape, a family at a time: all at once it would keep the loop from its streams for too long."""
    for family in _families(metrics, scene):
        if _OPEN in accept:
            yield openmetrics.generate_latest(_Only(family)).removesuffix(_EOF)  # type: ignore[no-untyped-call]
        else:
            yield generate_latest(_Only(family))
    if _OPEN in accept:
        yield _EOF


def _families(metrics: Metrics, scene: Scene) -> Iterator[Metric]:
    found = dict(_counted(metrics)) | dict(_seen(scene))
    histograms = {
        "aither_request_duration_seconds": {model: tally.seconds for model, tally in metrics.models.items()},
        "aither_request_first_byte_seconds": {model: tally.first_byte for model, tally in metrics.models.items()},
        "aither_request_wait_seconds": {model: tally.waited for model, tally in metrics.models.items()},
    }
    for name, kind, labels, text in FAMILIES:
        if kind == "histogram":
            yield _histogram(HistogramMetricFamily(name, text, labels=labels), histograms[name])
            continue
        family = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(name, text, labels=labels)
        for values, value in found[name]:
            family.add_metric(values, value)
        yield family
    yield from ProcessCollector(registry=None).collect()


def _histogram(family: HistogramMetricFamily, histograms: Mapping[str, Histogram]) -> Metric:
    for model, histogram in histograms.items():
        counts = zip(_BOUNDS, map(float, accumulate(histogram.counts)), strict=True)
        family.add_metric((model,), buckets=list(counts), sum_value=histogram.total)
    return family


def _counted(metrics: Metrics) -> Iterator[tuple[str, Iterable[Sample]]]:
    models = metrics.models.items()
    yield (
        "aither_requests_total",
        [((model, route, str(code)), count) for model, tally in models for (route, code), count in tally.codes.items()],
    )
    yield "aither_request_bytes_total", [((model,), tally.received) for model, tally in models]
    yield "aither_response_bytes_total", [((model,), tally.sent) for model, tally in models]
    yield "aither_answer_tokens_total", [((model,), tally.tokens.total) for model, tally in models]
    yield "aither_requests_open", [((), metrics.in_flight)]
    yield "aither_client_connections", [((), metrics.connections)]
    yield "aither_client_connections_refused_total", [((), metrics.refused)]


def _seen(scene: Scene) -> Iterator[tuple[str, Iterable[Sample]]]:
    yield "aither_build_info", [((__version__,), 1)]
    yield "aither_problems", [((), len(scene.problems))]
    yield "aither_records_total", [((event,), count) for event, count in scene.records.items()]
    yield from _models(scene.statuses)
    yield from _devices(scene)
    waiting = sum(lease.waiting for lease in scene.leases)
    yield "aither_leases", [(("granted",), len(scene.leases) - waiting), (("waiting",), waiting)]
    addresses = [((node.upstream, node.address), node) for node in scene.nodes]
    yield "aither_upstream_up", [(labels, node.up) for labels, node in addresses]
    yield "aither_upstream_requests_in_flight", [(labels, node.in_flight) for labels, node in addresses]
    yield "aither_upstream_spent_today", list({(node.upstream,): node.spent for node in scene.nodes}.items())
    caps = {(node.upstream,): node.cap for node in scene.nodes if node.cap is not None}
    yield "aither_upstream_daily_cap", list(caps.items())


def _models(statuses: tuple[ModelStatus, ...]) -> Iterator[tuple[str, Iterable[Sample]]]:
    yield (
        "aither_model_info",
        [((status.name, str(status.residency_class), status.engine), 1) for status in statuses],
    )
    yield (
        "aither_model_residency",
        [
            ((status.name, str(residency)), status.residency is residency)
            for status in statuses
            for residency in Residency
        ],
    )
    yield (
        "aither_model_transitions_total",
        [
            ((status.name, str(before), str(after)), count)
            for status in statuses
            for (before, after), count in status.moves.items()
        ],
    )
    yield "aither_model_requests_in_flight", [((status.name,), status.in_flight) for status in statuses]
    yield "aither_model_requests_waiting", [((status.name,), status.waiting) for status in statuses]
    yield "aither_model_held", [((status.name,), status.held) for status in statuses]
    yield "aither_model_expected_bytes", [((status.name,), status.expected) for status in statuses]
    yield (
        "aither_model_device_bytes",
        [((status.name, device), count) for status in statuses for device, count in status.measured.items()],
    )


def _devices(scene: Scene) -> Iterator[tuple[str, Iterable[Sample]]]:
    devices = scene.devices
    yield "aither_device_info", [((device.id, device.name), 1) for device in devices]
    yield "aither_device_fresh", [((device.id,), device.fresh) for device in devices]
    yield "aither_device_size_bytes", [((device.id,), device.total) for device in devices]
    yield (
        "aither_device_bytes",
        [
            ((device.id, str(owner)), count)
            for device in devices
            for owner, count in owned(device, scene.statuses, scene.leases).items()
        ],
    )
    yield (
        "aither_device_power_watts",
        [((device.id,), device.watts) for device in devices if device.watts is not None],
    )
    yield "aither_device_busy_ratio", [((device.id,), device.busy) for device in devices if device.busy is not None]
