"""What a scraper reads is what was counted, in the form that it asked for."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from aitherd.conductor.operations import Lease, ModelStatus
from aitherd.core.words import Claim, DeviceView, Residency, ResidencyClass
from aitherd.proxy.exposition import content_type, exposition
from aitherd.proxy.metrics import BUCKETS, FAMILIES, Metrics, NodeSample
from aitherd.proxy.scene import Scene

GIB = 1 << 30
ODD = 'a"b\\c\nd'

SCENE = Scene(
    statuses=(
        ModelStatus(
            name=ODD, description="", engine="exec", residency_class=ResidencyClass.ON_DEMAND,
            residency=Residency.READY, level=0, serves=(), can=(), unit="u", model_unit="m", declared=GIB,
            expected=2 * GIB, measured={"gpu0": GIB}, in_flight=3, waiting=4, held=True, busy=True, since=0.0,
            last_used=0.0, stops_at=0.0, endpoint=None, command=(), error="", stage="",
            moves={(Residency.STARTING, Residency.READY): 5},
        ),
    ),
    devices=(
        DeviceView("gpu0", "GPU", 8 * GIB, 4 * GIB, GIB, (Claim("game", 1, "gpu0", GIB),), watts=212.5, busy=0.35),
    ),
    leases=(
        Lease("1", "training", 2 * GIB, "gpu0", 0, 1, 0.0, 0.0),
        Lease("2", "game", 2 * GIB, "", 0, 1, 0.0, 0.0, waiting=True),
    ),
    nodes=(NodeSample("spark", "spark.local:8120", True, 2, 0.25, 5.0),),
    problems=("it is cold",),
    records={"plan": 7},
)  # fmt: skip


def scrape(metrics: Metrics, scene: Scene, accept: str = "") -> dict[str, list[tuple[dict[str, str], float]]]:
    """Samples by name, as a parser of Prometheus' own library reads them."""
    text = b"".join(exposition(metrics, scene, accept))
    opened = b"openmetrics" in content_type(accept)
    parse = openmetrics.text_string_to_metric_families if opened else text_string_to_metric_families
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in parse(text.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"])
def test_everything_in_the_table_is_shown_and_nothing_else(accept: str) -> None:
    metrics = Metrics()
    metrics.count(ODD, "/v1/completions", 200, 0.3, 0.2, 1.5, 10, 20)
    found = scrape(metrics, SCENE, accept)
    expected = {
        name
        for family in FAMILIES
        for name in (
            [f"{family.name}_{part}" for part in ("bucket", "sum", "count")]
            if family.kind == "histogram"
            else [family.name]
        )
    }
    assert {name for name in found if not name.startswith("process_")} == expected
    assert found["process_open_fds"]
    labels = {family.name: set(family.labels) for family in FAMILIES if family.kind != "histogram"}
    assert {name: set(samples[0][0]) for name, samples in found.items() if name in labels} == labels


def test_values_are_those_of_the_scene() -> None:
    metrics = Metrics()
    metrics.count(ODD, "/v1/completions", 200, 0.3, 0.2, 1.5, 10, 20)
    metrics.tokens(ODD).total = 7
    metrics.in_flight, metrics.connections, metrics.refused = 1, 2, 3
    found = scrape(metrics, SCENE)
    assert found["aither_requests_total"] == [({"model": ODD, "route": "/v1/completions", "code": "200"}, 1)]
    assert found["aither_request_bytes_total"] == [({"model": ODD}, 10)]
    assert found["aither_response_bytes_total"] == [({"model": ODD}, 20)]
    assert found["aither_client_connections_refused_total"] == [({}, 3)]
    assert ({"model": ODD, "residency": "ready"}, 1) in found["aither_model_residency"]
    assert ({"model": ODD, "residency": "absent"}, 0) in found["aither_model_residency"]
    assert found["aither_model_transitions_total"] == [({"model": ODD, "from": "starting", "to": "ready"}, 5)]
    assert found["aither_model_requests_waiting"] == [({"model": ODD}, 4)]
    owners = {labels["owner"]: value / GIB for labels, value in found["aither_device_bytes"]}
    assert owners == {
        "models": 1, "sleepers": 0, "leases": 2, "foreign": 1, "quarantine": 0, "other": 2, "reserve": 1, "free": 1,
    }  # fmt: skip
    assert found["aither_device_power_watts"] == [({"device": "gpu0"}, 212.5)]
    assert found["aither_leases"] == [({"state": "granted"}, 1), ({"state": "waiting"}, 1)]
    assert found["aither_upstream_spent_today"] == [({"upstream": "spark"}, 0.25)]
    assert found["aither_upstream_daily_cap"] == [({"upstream": "spark"}, 5.0)]
    assert found["aither_model_info"] == [({"model": ODD, "class": "on-demand", "engine": "exec"}, 1)]
    assert found["aither_answer_tokens_total"] == [({"model": ODD}, 7)]
    assert found["aither_records_total"] == [({"event": "plan"}, 7)]


def test_what_the_driver_does_not_tell_is_left_out() -> None:
    found = scrape(Metrics(), Scene(devices=(DeviceView("host", "host memory", GIB, GIB, 0),)))
    assert "aither_device_power_watts" not in found
    assert "aither_device_busy_ratio" not in found
    assert found["aither_device_size_bytes"] == [({"device": "host"}, GIB)]


def test_buckets_are_cumulative_and_hold_their_bound() -> None:
    metrics = Metrics()
    for seconds in (BUCKETS[0], BUCKETS[0], BUCKETS[3], 1e6):
        metrics.count("m", "/r", 200, seconds, None, None)
    found = scrape(metrics, Scene())
    buckets = found["aither_request_duration_seconds_bucket"]
    assert [labels["le"] for labels, _ in buckets] == [*(str(float(bound)) for bound in BUCKETS), "+Inf"]
    assert [value for _, value in buckets] == [2, 2, 2, *[3] * (len(BUCKETS) - 3), 4]
    assert found["aither_request_first_byte_seconds_count"] == [({"model": "m"}, 0)]
