"""What must hold when the day is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.day.story import CAPTIONS, ESSENTIALS

ALWAYS_ON = "orchestrator"
SETTLED = ("ready", "returned", "stopped", "failed")
"""Records that say that a model has come to rest."""
QUANTILES = (0.5, 0.9, 0.99)


def check(report: Mapping[str, Any]) -> None:
    """Raises AssertionError for what does not hold."""
    assert report["failures"] == []
    requests = report["requests"]
    asked = {who: sum(request["who"] == who for request in requests) for who in {one["who"] for one in requests}}
    assert asked["caption"] == CAPTIONS + 1
    assert asked["vector"] == CAPTIONS
    assert asked["render"] == 3
    assert asked["listen"] == asked["speak"] == 1
    _orchestrator(report)
    _nothing_was_killed(report)
    _ollama_was_asked(report)
    _the_ledger_is_the_cards(report)
    _the_card_was_used(report)


def _orchestrator(report: Mapping[str, Any]) -> None:
    """It answered all along, and no request of it waited for anything that was done for others."""
    mine = [request for request in report["requests"] if request["upstream"] == ALWAYS_ON]
    assert len(mine) > 100
    assert {request["waited_ms"] for request in mine} == {0}
    assert {request["reason"] for request in mine} == {"ready"}
    steps = [record for record in report["records"] if record["event"] == "step"]
    touched = [record["message"] for record in steps if record["model"] in ESSENTIALS]
    assert len(touched) == len(ESSENTIALS), touched
    assert all(message.startswith("starting ") for message in touched)


def _nothing_was_killed(report: Mapping[str, Any]) -> None:
    """Each stop and sleep was of a model that did nothing, and gave its bytes back without being forced to."""
    wrong = [record["message"] for record in report["records"] if record["event"] in ("failed", "quarantined")]
    assert wrong == []
    assert not [record["message"] for record in report["records"] if "kill" in record["message"]]
    assert not [record for record in report["records"] if record["fields"].get("force") is True]
    for model, begin, end in _engines(report["records"]):
        for request in report["requests"]:
            if request["upstream"] == model and begin < request["at"] < end:
                over = request["at"] + request["seconds"]
                assert over <= end, f"{model} ended at {end}, in the middle of an answer that ended at {over}"


def _engines(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """Each life of an engine that has ended: model, when it was ready, when it was down."""
    up: dict[str, float] = {}
    found = []
    for record in records:
        model = record["model"]
        if record["event"] == "ready":
            up[model] = record["time"]
        elif record["event"] == "stopped" and model in up:
            found.append((model, up.pop(model), record["time"]))
    return found


def _ollama_was_asked(report: Mapping[str, Any]) -> None:
    """It gave its memory back by its own API, because a render needed it, and nothing else was done to it."""
    done = [record for record in report["records"] if record["event"] == "step" and record["model"] == "ollama"]
    assert [record["fields"]["step"] for record in done] == ["free"]
    assert "makes room for imagine" in done[0]["message"]


def _the_ledger_is_the_cards(report: Mapping[str, Any]) -> None:
    """What the daemon has in its books is what NVML says, and only what is always up is left."""
    assert report["ledger"]["sum"] == report["nvml"]["used"]
    assert sorted(report["ledger"]["models"].values()) == report["nvml"]["processes"]
    assert set(report["ledger"]["models"]) == set(ESSENTIALS)


def _the_card_was_used(report: Mapping[str, Any]) -> None:
    """Everybody had a turn, and the game had its memory."""
    most: dict[str, float] = {}
    for look in report["looks"]:
        for name, count in look["models"].items():
            most[name] = max(most.get(name, 0.0), count)
    assert {name for name, count in most.items() if count} == {
        *ESSENTIALS, "vision", "imagine", "challenger-offload", "listen", "speak",
    }  # fmt: skip
    assert max(look["owners"].get("leases", 0.0) for look in report["looks"]) == 10 << 30
    assert max(look["used"] for look in report["looks"]) <= report["total"]


def moving(report: Mapping[str, Any]) -> list[tuple[float, float]]:
    """When something was on its way: from a step's beginning to its end."""
    found = []
    since: dict[str, float] = {}
    for record in report["records"]:
        if record["event"] == "step":
            since.setdefault(record["model"], record["time"])
        elif record["event"] in SETTLED and record["model"] in since:
            found.append((since.pop(record["model"]), record["time"]))
    return found


def latencies(report: Mapping[str, Any]) -> str:
    """How long the orchestrator took, by way of the daemon and without it, while others moved and while none did."""
    spans = moving(report)
    lines = [f"{'':<14}{'':<9}{'requests':>9}" + "".join(f"{f'p{quantile * 100:.0f}':>9}" for quantile in QUANTILES)]
    for who in (ALWAYS_ON, "its engine"):
        for when in (False, True):
            seconds = sorted(
                request["seconds"]
                for request in report["requests"]
                if request["who"] == who and any(begin <= request["at"] <= end for begin, end in spans) is when
            )
            if seconds:
                marks = [seconds[min(int(quantile * len(seconds)), len(seconds) - 1)] for quantile in QUANTILES]
                cells = "".join(f"{mark * 1000:>7.1f}ms" for mark in marks)
                lines.append(f"{who:<14}{'moving' if when else 'quiet':<9}{len(seconds):>9}{cells}")
    return "\n".join(lines)
