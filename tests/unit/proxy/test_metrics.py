"""Prometheus text that a scraper accepts."""

from __future__ import annotations

import re

from aitherd.proxy.metrics import BUCKETS, Metrics

SAMPLE = re.compile(r'[a-z_]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)+\})? -?[0-9.e+-]+')


def test_every_line_is_well_formed_and_every_family_declared_once() -> None:
    metrics = Metrics()
    metrics.count('a"b\\c\nd', "/v1/completions", 200, 0.3, 0.2, 1.5)
    lines = metrics.text((), (), 0).decode().splitlines()
    declared = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared))
    for line in lines:
        assert line.startswith("# ") or SAMPLE.fullmatch(line), line
    assert r'aither_requests_total{model="a\"b\\c\nd",route="/v1/completions",code="200"} 1' in lines


def test_buckets_are_cumulative_and_hold_their_bound() -> None:
    metrics = Metrics()
    for seconds in (BUCKETS[0], BUCKETS[0], BUCKETS[3], 1e6):
        metrics.count("m", "/r", 200, seconds, None, None)
    text = metrics.text((), (), 0).decode()
    counts = [int(number) for number in re.findall(r"aither_request_duration_seconds_bucket.* (\d+)", text)]
    assert counts == [2, 2, 2, *[3] * (len(BUCKETS) - 3), 4]
    assert "aither_request_first_byte_seconds_bucket" not in text or 'first_byte_seconds_count{model="m"} 0' in text
