"""The alerts and the dashboard that are shipped, with Debian's own Prometheus: on made-up series, and on a daemon."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.native.daemon.conftest import chat, engine, gpu, start_rig
from tests.testbed.rig import REPOSITORY, Rig

__all__ = ["gpu", "start_rig"]

RULES = REPOSITORY / "packaging" / "prometheus" / "aitherd.rules.yml"
SCRAPE = REPOSITORY / "packaging" / "prometheus" / "scrape.yml"
DASHBOARD = REPOSITORY / "packaging" / "grafana" / "aitherd.json"
SERIES = Path(__file__).with_name("aitherd.test.yml")
BOUND_S = 60.0


@pytest.fixture
def promtool() -> str:
    """Debian's promtool."""
    found = shutil.which("promtool")
    if found is None or shutil.which("prometheus") is None:
        if os.environ.get("CI"):
            raise AssertionError("prometheus is not installed")
        pytest.skip("prometheus is not installed")
    return found


class Prometheus:
    """One that scrapes a daemon every second."""

    def __init__(self, directory: Path, target: str) -> None:
        with socket.socket() as plug:
            plug.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{plug.getsockname()[1]}"
        scrape = (
            SCRAPE.read_text().replace("127.0.0.1:8150", target).replace("scrape_interval: 15s", "scrape_interval: 1s")
        )
        assert target in scrape
        intervals = "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        self.configuration = directory / "prometheus.yml"
        self.configuration.write_text(f"{intervals}rule_files: [{json.dumps(str(RULES))}]\n{scrape}")
        command = ["prometheus", f"--config.file={self.configuration}", f"--web.listen-address={address}"]
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            [*command, f"--storage.tsdb.path={directory / 'data'}"], stdout=self._log, stderr=self._log
        )
        self._http = httpx.Client(base_url=f"http://{address}/api/v1", trust_env=False, timeout=30)

    def close(self) -> None:
        """Ends it."""
        self._http.close()
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer, or None while there is none."""
        try:
            answer = self._http.get(path, params=query)
        except httpx.TransportError:
            return None
        body = answer.json() if answer.headers.get("content-type", "").startswith("application/json") else {}
        assert body.get("status") != "error", (query, body)
        return body.get("data")

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Waits until `condition` holds."""
        deadline = time.monotonic() + BOUND_S
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come about"
            time.sleep(0.1)


def rule_expressions() -> Iterator[str]:
    """Those of all alerts, one by one."""
    for found in re.findall(r"^        expr: (?:>-\n((?: {10}.*\n)+)|(.*)\n)", RULES.read_text(), re.MULTILINE):
        yield " ".join("".join(found).split())


def panel_expressions() -> Iterator[str]:
    """Those of all panels, with what Grafana would put for its variables."""
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (entry["expr"] for entry in board["annotations"]["list"])


def put(expression: str) -> str:
    return expression.replace("$__rate_interval", "1m").replace("$instance", ".*")


def metrics_of(expression: str) -> set[str]:
    """The names of metrics in an expression."""
    return set(re.findall(r"\b(?:aither|process)_[a-z_]+\b", expression))


def test_the_alerts_fire_when_they_should_and_not_before(promtool: str, tmp_path: Path) -> None:
    subprocess.run([promtool, "check", "rules", "--lint-fatal", RULES], check=True, capture_output=True)
    series = tmp_path / "series.yml"
    series.write_text(SERIES.read_text().replace("RULES", str(RULES)))
    done = subprocess.run([promtool, "test", "rules", series], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    named = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert named == set(re.findall(r"\bAither\w+", SERIES.read_text()))


def test_a_prometheus_scrapes_the_daemon_and_every_expression_finds_its_metrics(
    promtool: str, start_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = start_rig()
    rig.settings(
        '[upstreams.cloud]\nkind = "cloud"\nurl = "https://127.0.0.1:9"\ndaily-cap = 5.0\nprobe-interval = "1s"\n'
        "[upstreams.cloud.models.gpt-x]\nprompt-price = 1.0\nanswer-price = 2.0\n"
    )
    rig.model("chief", engine("17 GiB", kind="essential"))
    rig.model("vision", engine())
    target = rig.tcp().removeprefix("http://")
    with rig.http() as http:
        assert chat(http, "vision").status_code == 200
    rig.wait_for(lambda: rig.status("chief")["residency"] == "ready", "the essential model")
    prometheus = Prometheus(tmp_path, target)
    try:
        subprocess.run([promtool, "check", "config", prometheus.configuration], check=True, capture_output=True)

        def value(query: str) -> list[str]:
            found = prometheus.get("/query", query=query)
            return [sample["value"][1] for sample in found["result"]] if found else []

        prometheus.until(lambda: value('up{job="aitherd"}') == ["1"], "the scrape")
        names = set(prometheus.get("/label/__name__/values"))
        for expression in (*rule_expressions(), *panel_expressions()):
            histograms = {name for name in metrics_of(expression) if name.endswith("_bucket")}
            assert metrics_of(expression) - names == set(), expression
            assert histograms <= names
            prometheus.get("/query", query=put(expression))

        prometheus.until(lambda: all_well(prometheus.get("/rules")), "the evaluation of every rule")
        rig.ctl("stop", "chief")
        prometheus.until(lambda: "AitherEssentialModelDown" in alerts(prometheus), "the alert that chief is down")
        prometheus.until(lambda: "AitherUpstreamDown" in alerts(prometheus), "the alert that the cloud is away")
        assert "AitherDeviceBlind" not in alerts(prometheus)
        assert value('aither_model_residency{model="vision",residency="ready"}') == ["1"]
    finally:
        prometheus.close()


def all_well(found: Any) -> bool:
    """Whether every rule has been evaluated without an error."""
    rules = [rule for group in found["groups"] for rule in group["rules"]] if found else []
    return bool(rules) and all(rule["health"] == "ok" for rule in rules)


def alerts(prometheus: Prometheus) -> set[str]:
    """Those that are pending or firing."""
    found = prometheus.get("/alerts")
    return {alert["labels"]["alertname"] for alert in found["alerts"]} if found else set()
