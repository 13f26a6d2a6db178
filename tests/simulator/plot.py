"""Draws what came of a trace: who was resident when, and how long requests waited; as PNG and as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.simulator.baselines import Outcome
from tests.simulator.replay import Replayed
from tests.simulator.traces import Kind, Trace

FORMATS = ("png", "svg")


def draw(trace: Trace, outcomes: Mapping[str, Outcome], fleet: Sequence[Kind], stem: Path) -> tuple[Path, ...]:
    """Writes `stem` with the ending of each format: above, who of `fleet` was resident in the outcomes that tell, with
    the requests as dots, red where they waited beyond their objective; below, the waits of all, and how they spread."""
    told = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Replayed)}
    figure = Figure(figsize=(12, 3.2 * len(told) + 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(told) + 2, 1)
    place = {kind.name: index for index, kind in enumerate(fleet)}
    objective = {kind.name: kind.objective for kind in fleet}
    for axis, (name, replayed) in zip(axes, told.items(), strict=False):
        for model, begin, end in replayed.spans:
            axis.barh(place[model], (end - begin) / 60, left=begin / 60, height=0.7, color="tab:blue", alpha=0.45)
        late = [wait > objective[arrival.model] for arrival, wait in replayed.waits]
        for colour, chosen in (("black", False), ("tab:red", True)):
            shown = [arrival for (arrival, _), is_late in zip(replayed.waits, late, strict=True) if is_late is chosen]
            axis.scatter(
                [arrival.at / 60 for arrival in shown], [place[arrival.model] for arrival in shown], s=6, c=colour
            )
        sizes = [f"{kind.name} ({kind.size >> 30} GiB)" for kind in fleet]
        axis.set_yticks(range(len(fleet)), sizes)
        axis.set(title=f"Resident with {name}; dots are requests, red ones waited too long", xlabel="minutes")
    for name, outcome in outcomes.items():
        arrivals = [arrival.at / 60 for arrival, _ in outcome.waits]
        axes[-2].scatter(arrivals, [max(wait, 0.1) for _, wait in outcome.waits], s=8, alpha=0.6, label=name)
        waits = sorted(max(wait, 0.1) for _, wait in outcome.waits)
        axes[-1].step(waits, [100 * (index + 1) / len(waits) for index in range(len(waits))], label=name)
    axes[-2].set(title="Waits", yscale="log", ylabel="seconds", xlabel="minutes")
    axes[-1].set(title=f"Waits of {len(trace)} requests", xscale="log", xlabel="seconds", ylabel="% served within")
    for axis in axes[-2:]:
        axis.grid(visible=True, alpha=0.3)
        axis.legend()
    paths = tuple(stem.with_suffix(f".{ending}") for ending in FORMATS)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths
