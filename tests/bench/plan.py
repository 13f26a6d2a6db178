"""How long the arbiter takes to decide, in worlds where the model fits, others must give way, and nothing can be done.

A decision is pure, so each is timed several times and the shortest counts: the others were interrupted. Median and
99th percentile are over decisions, not over interruptions.
"""

from __future__ import annotations

import random
from collections import Counter
from statistics import median, quantiles
from time import perf_counter_ns

from aitherd.core.arbiter import decide
from aitherd.core.words import (
    DeviceView,
    ModelView,
    Plan,
    Residency,
    ResidencyClass,
    SleepLevel,
    World,
)
from tests.bench.rows import Row

GIB = 1 << 30
NOW = 100_000.0
CLASSES = [ResidencyClass.ON_DEMAND] * 7 + [ResidencyClass.RESIDENT]
REPEATS = 7
SIZES = ((12, 1, 32, 0.1), (200, 8, 80, 2.0))
"""(models, devices, GiB of each device, budget in milliseconds)."""
WORLDS = 40
"""Worlds of each size."""
ASKED = 5
"""Models asked for in each."""


def world(seed: int, models: int, devices: int, size: int) -> World:
    """A machine in the middle of its day. How many models are busy, and how full devices are, is the seed's to say."""
    chance = random.Random(seed)
    cards = [f"gpu{index}" for index in range(devices)]
    free = dict.fromkeys(cards, size * GIB)
    busy, full = chance.choice([0.0, 0.1, 0.5, 0.95]), chance.choice([0.5, 1.0, 1.0, 1.0])
    views: dict[str, ModelView] = {}
    for index in range(models):
        span = chance.choice([1] * 8 + [2, 4]) if devices > 1 else 1
        each = int(size * GIB * chance.choice([0.03, 0.06, 0.1, 0.15, 0.25, 0.5])) // span
        at = sorted(chance.sample(cards, span))
        up = all(free[card] - each >= size * GIB * (1 - full) for card in at) and chance.random() < 0.85
        asleep = up and chance.random() < 0.1
        held = dict.fromkeys(at, each // 20 if asleep else each) if up else {}
        for card, count in held.items():
            free[card] -= count
        rungs = (SleepLevel(1, each // 20, each, 1.0, 2.0), SleepLevel(2, each // 20, 0, 0.5, 6.0))
        views[f"model-{index}"] = ModelView(
            name=f"model-{index}",
            residency_class=chance.choice(CLASSES) if index else ResidencyClass.ESSENTIAL,
            residency=Residency.SLEEPING if asleep else Residency.READY if up else Residency.ABSENT,
            vram=each * span,
            devices=tuple(at) if chance.random() < 0.3 else (),
            span=span,
            level=1 if asleep else 0,
            held_bytes=held,
            freeable=chance.choice([0, 0, 0, each // 2]),
            ladder=rungs[: chance.choice([0, 0, 1, 2])],
            swap_slot=chance.choice([None] * 9 + ["slot"]),
            busy=not asleep and chance.random() < busy,
            held=chance.random() < 0.03,
            ready_since=NOW - chance.uniform(10, 5000),
            last_used=NOW - chance.uniform(0, 3000),
            frequency=chance.uniform(0, 30),
            start_seconds=chance.uniform(2, 90),
        )  # fmt: skip
    cards_seen = {
        card: DeviceView(id=card, name="card", total=size * GIB, free=left, reserve=GIB // 2)
        for card, left in free.items()
    }
    return World(cards_seen, views)


def kind(world: World, model: str) -> str:
    """What comes of asking for `model`."""
    outcome = decide(world, model, NOW)
    if not isinstance(outcome, Plan):
        return "refused"
    return "evicts" if len(outcome.steps) > 1 else "fits"


def shortest(world: World, model: str) -> float:
    """Microseconds of one decision."""
    times = []
    for _ in range(REPEATS):
        began = perf_counter_ns()
        decide(world, model, NOW)
        times.append(perf_counter_ns() - began)
    return min(times) / 1000


def main() -> list[Row]:
    """Decides, and says how long it took."""
    rows = []
    for models, devices, size, budget in SIZES:
        outcomes: Counter[str] = Counter()
        times = []
        for seed in range(WORLDS):
            here = world(seed, models, devices, size)
            absent = [view.name for view in here.models.values() if view.residency is not Residency.READY][:ASKED]
            for model in absent:
                outcomes[kind(here, model)] += 1
                times.append(shortest(here, model))
        if len(outcomes) < 3:
            raise RuntimeError(f"these worlds are not mixed: {dict(outcomes)}")
        where = f"{models} models, {devices} device{'s' if devices > 1 else ''}"
        rows += [
            Row(
                f"plan: {which}, {where}", value, "us", None, None, None, f"<= {budget:g} ms", value <= budget * 1000
            )
            for which, value in (("median", median(times)), ("p99", quantiles(times, n=100)[98]))
        ]  # fmt: skip
    return rows
