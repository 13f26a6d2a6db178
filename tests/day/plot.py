"""Draws the day: who held how much of the card when, what was asked, and how long the orchestrator took."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.day.checks import ALWAYS_ON, moving

GIB = 1 << 30
COLOURS = {
    "orchestrator": "#3b4a6b", "embed": "#7a8fb8", "vision": "#2a9d8f", "imagine": "#e9a23b", "challenger-offload":
    "#b5485d", "listen": "#8f6bb3", "speak": "#c39bd3", "game": "#444444", "ollama": "#6b8e23",
}  # fmt: skip
DOTS = {"caption": "vision", "render": "imagine", "problem": "challenger-offload", "listen": "listen", "speak": "speak"}
"""What is asked often enough, or seldom enough, to be shown, and by whom it is answered."""


def draw(report: Mapping[str, Any], stem: Path) -> Path:
    """Writes `stem`.png and returns its path."""
    looks = report["looks"]
    start = report["chapters"][0]["begin"]
    at = [look["at"] - start for look in looks]
    series = {name: [look["models"].get(name, 0.0) / GIB for look in looks] for name in COLOURS}
    series["ollama"] = [look["owners"].get("foreign", 0.0) / GIB for look in looks]
    series["game"] = [look["owners"].get("leases", 0.0) / GIB for look in looks]
    figure = Figure(figsize=(14, 9), layout="constrained")
    FigureCanvasAgg(figure)
    card, asked, latency = figure.subplots(3, 1, sharex=True, height_ratios=(5, 2, 2))
    shown = [name for name in COLOURS if any(series[name])]
    card.stackplot(
        at, [series[name] for name in shown], labels=shown, colors=[COLOURS[name] for name in shown], step="post"
    )
    card.plot(
        at,
        [look["used"] / GIB for look in looks],
        color="black",
        linewidth=0.8,
        label="used, by NVML",
        drawstyle="steps-post",
    )
    card.axhline(report["total"] / GIB, color="tab:red", linewidth=1.0, label="the card")
    card.set(ylabel="GiB on the card", ylim=(0, report["total"] / GIB * 1.15))
    card.set_title("A day of the fleet on one card, in minutes: the daemon's books over what NVML says")
    card.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    card.set_xlim(0, at[-1])
    for number, chapter in enumerate(report["chapters"]):
        begin, end = chapter["begin"] - start, chapter["end"] - start
        for axis in (card, asked, latency):
            axis.axvline(begin, color="grey", linewidth=0.5, linestyle=":")
        card.text(
            (begin + end) / 2,
            report["total"] / GIB * (1.03 + 0.045 * (number % 2)),
            chapter["name"],
            ha="center",
            fontsize=9,
        )
    rows = list(DOTS)
    for request in report["requests"]:
        if request["who"] in DOTS:
            row, begin = rows.index(request["who"]), request["at"] - start
            colour = COLOURS[DOTS[request["who"]]]
            asked.barh(row, request["seconds"], left=begin, height=0.5, color=colour, alpha=0.5)
            waited = request["waited_ms"] / 1000
            if waited:
                asked.barh(row, waited, left=begin, height=0.5, color="none", edgecolor="black", hatch="////", lw=0.4)
    asked.set_yticks(range(len(rows)), rows)
    asked.set(ylabel="requests", title="Requests from first to last byte; hatched while they waited for their model")
    for begin, end in moving(report):
        latency.axvspan(begin - start, end - start, color="tab:orange", alpha=0.15, linewidth=0)
    for who, colour in (("its engine", "tab:grey"), (ALWAYS_ON, COLOURS[ALWAYS_ON])):
        points = [(one["at"] - start, one["seconds"] * 1000) for one in report["requests"] if one["who"] == who]
        label = "asked directly" if who != ALWAYS_ON else "by way of aitherd"
        latency.scatter([x for x, _ in points], [y for _, y in points], s=5, color=colour, label=label, alpha=0.7)
    latency.set(
        yscale="log", ylabel="ms", xlabel="seconds", title="The orchestrator's answers; shaded while others moved"
    )
    latency.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    path = stem.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
