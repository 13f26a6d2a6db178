"""What is shipped for Prometheus and Grafana speaks of metrics that there are, and the manual knows them all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from aitherd.proxy.metrics import FAMILIES

REPOSITORY = Path(__file__).parents[3]
RULES = REPOSITORY / "packaging" / "prometheus" / "aitherd.rules.yml"
DASHBOARD = REPOSITORY / "packaging" / "grafana" / "aitherd.json"
NAMES = {
    name
    for family in FAMILIES
    for name in (
        [f"{family.name}{part}" for part in ("_bucket", "_sum", "_count")]
        if family.kind == "histogram"
        else [family.name]
    )
}
LABELS = {family.name: set(family.labels) for family in FAMILIES}


@pytest.mark.parametrize("path", [RULES, DASHBOARD], ids=lambda path: path.name)
def test_only_metrics_that_there_are_are_spoken_of(path: Path) -> None:
    text = path.read_text()
    found = set(re.findall(r"\baither_[a-z_]+\b", text))
    assert found and found <= NAMES


@pytest.mark.parametrize("path", [RULES, DASHBOARD], ids=lambda path: path.name)
def test_labels_are_those_of_their_metric(path: Path) -> None:
    given = {"job", "instance", "le"}
    for name, selector in re.findall(r"\b(aither_[a-z_]+)\{([^}]*)\}", path.read_text().replace('\\"', '"')):
        family = re.sub(r"_(bucket|sum|count)$", "", name) if name not in LABELS else name
        used = set(re.findall(r"\b([a-z]+)(?:=~|!~|!=|=)", selector))
        assert used <= LABELS[family] | given, f"{name}{{{selector}}}"


def test_the_dashboard_has_no_two_panels_in_one_place_and_shows_every_kind_of_thing() -> None:
    board = json.loads(DASHBOARD.read_text())
    places: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places and at["x"] + at["w"] <= 24, panel["title"]
        places |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    shown = set(re.findall(r"\baither_[a-z]+", DASHBOARD.read_text()))
    assert shown >= {"aither_device", "aither_model", "aither_request", "aither_upstream", "aither_answer"}


def test_every_alert_says_what_is_wrong() -> None:
    alerts = re.split(r"^      - alert: ", RULES.read_text(), flags=re.MULTILINE)[1:]
    assert len(alerts) >= 10
    for alert in alerts:
        assert "summary:" in alert and "severity:" in alert, alert.splitlines()[0]


def test_the_manual_lists_every_metric() -> None:
    page = (REPOSITORY / "packaging" / "man" / "aitherd.8").read_text().replace("\\-", "-")
    assert [family.name for family in FAMILIES if family.name not in page] == []
