"""Worlds for the arbiter: by hand, and drawn by hypothesis. Sizes are small whole numbers of bytes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from aitherd.core.words import (
    HOST,
    Claim,
    DeviceView,
    ModelView,
    Residency,
    ResidencyClass,
    SleepLevel,
    World,
)

NOW = 10_000.0
TARGET = "target"
SHORT_LIVED = NOW - 1.0
"""`ready_since` of a model inside its minimum residency."""


def model(
    name: str, residency: Residency = Residency.READY, held: int | Mapping[str, int] = 0, **more: Any
) -> ModelView:
    """A model that holds `held` bytes (on gpu0, or by device) and, unless it says otherwise, may give way."""
    held_bytes = {"gpu0": held} if isinstance(held, int) and held else held or {}
    assert isinstance(held_bytes, Mapping)
    defaults: dict[str, Any] = {
        "residency_class": ResidencyClass.ON_DEMAND,
        "vram": sum(held_bytes.values()),
        "devices": tuple(held_bytes),
        "span": max(len(held_bytes), 1),
        "last_used": NOW - 500,
        "start_seconds": 10.0,
    }
    return ModelView(name=name, residency=residency, held_bytes=held_bytes, **(defaults | more))


def target(vram: int, residency: Residency = Residency.ABSENT, **more: Any) -> ModelView:
    """The model that is asked for; any device, unless it says otherwise."""
    defaults: dict[str, Any] = {"vram": vram, "devices": (), "span": 1}
    return model(TARGET, residency, **(defaults | more))


def world(
    *models: ModelView,
    totals: Mapping[str, int] | None = None,
    reserve: int = 2,
    foreign: tuple[Claim, ...] = (),
    leases: tuple[Claim, ...] = (),
    unattributed: int = 0,
    **device: Any,
) -> World:
    """A world in which each device's free bytes are what its total leaves; `device` says more about all of them."""
    devices = {}
    for name, total in (totals or {"gpu0": 100}).items():
        here = tuple(claim for claim in foreign if claim.device == name)
        used = sum(view.held_bytes.get(name, 0) for view in models) + sum(claim.bytes for claim in here) + unattributed
        devices[name] = DeviceView(
            id=name, name="card", total=total, free=total - used, reserve=reserve, foreign=here, **device
        )
    return World(devices, {view.name: view for view in models}, leases)


@st.composite
def neighbours(draw: st.DrawFn, name: str, free: dict[str, int]) -> ModelView:
    """Some other model, in any state; takes what it holds out of `free`."""
    devices = tuple(device for device in free if device != HOST)
    residency = draw(st.sampled_from([*[Residency.READY] * 12, *Residency, Residency.SLEEPING]))
    at = draw(st.sets(st.sampled_from(devices), min_size=1, max_size=2))
    held = {}
    if residency not in (Residency.ABSENT, Residency.QUARANTINED, Residency.FAILED):
        for device in sorted(at):
            held[device] = draw(st.integers(0, min(free[device], 40)))
            free[device] -= held[device]
    total = sum(held.values())
    ladder = []
    for level in range(1, draw(st.integers(0, 2)) + 1):
        ladder.append(
            SleepLevel(
                level=level,
                residue=draw(st.integers(0, 8)),
                host=draw(st.integers(0, 20)),
                seconds=draw(st.floats(0, 5)),
                wake=draw(st.floats(0, 20)),
            )
        )
    flag = st.sampled_from([*[False] * 14, True])
    return ModelView(
        name=name,
        residency_class=draw(st.sampled_from([*[ResidencyClass.ON_DEMAND] * 8, *ResidencyClass])),
        residency=residency,
        vram=total + draw(st.sampled_from([0, 0, 5])),
        devices=tuple(sorted(at)) if draw(st.booleans()) else (),
        span=len(at),
        level=draw(st.integers(1, 2)) if residency is Residency.SLEEPING else 0,
        held_bytes=held,
        freeable=draw(st.integers(0, total)),
        ladder=tuple(ladder),
        swap_slot=draw(st.sampled_from([None, None, None, None, "slot"])),
        busy=draw(flag),
        held=draw(flag),
        waiting=int(draw(flag)),
        ready_since=SHORT_LIVED if draw(flag) else NOW - 1000,
        last_used=NOW - draw(st.floats(0, 5000)),
        frequency=draw(st.floats(0, 50)),
        start_seconds=draw(st.floats(0, 100)),
        stop_seconds=draw(st.floats(0, 5)),
    )


@st.composite
def worlds(draw: st.DrawFn, neighbours_max: int = 6) -> World:
    """Any small world with a model called TARGET that is absent, failed or asleep. On each device the bytes add up."""
    totals = {f"gpu{index}": draw(st.integers(20, 100)) for index in range(draw(st.integers(1, 3)))}
    devices = tuple(totals)
    if draw(st.booleans()):
        totals[HOST] = draw(st.integers(0, 60))
    free = dict(totals)
    unattributed = {device: draw(st.integers(0, 3)) for device in totals}
    foreign = []
    leases = []
    for device in devices:
        free[device] -= unattributed[device]
        if draw(st.sampled_from([False, False, True])):
            claim = Claim("game", 7, device, draw(st.integers(0, min(free[device], 30))))
            foreign.append(claim)
            free[device] -= claim.bytes
        if draw(st.sampled_from([False, False, True])):
            leases.append(Claim("training", draw(st.sampled_from([7, 8])), device, draw(st.integers(0, 20))))
    span = draw(st.integers(1, len(devices)))
    residency = draw(st.sampled_from([Residency.ABSENT, Residency.FAILED, Residency.SLEEPING]))
    asleep: dict[str, int] = {}
    if residency is Residency.SLEEPING:
        asleep = {device: draw(st.integers(1, min(free[device], 5))) for device in devices[:span] if free[device]}
        for device, count in asleep.items():
            free[device] -= count
    wanted = target(
        draw(st.integers(0, 70)) * span,
        residency,
        held=asleep,
        span=span,
        devices=devices[:span] if residency is Residency.SLEEPING or draw(st.booleans()) else (),
        swap_slot=draw(st.sampled_from([None, "slot"])),
        residency_class=draw(st.sampled_from([*[ResidencyClass.ON_DEMAND] * 3, *ResidencyClass])),
        ladder=(SleepLevel(1, 1, 0, 1.0, 2.0),),
        level=int(residency is Residency.SLEEPING),
    )
    models = [wanted] + [draw(neighbours(f"m{index}", free)) for index in range(draw(st.integers(0, neighbours_max)))]
    if free[devices[-1]] > 0 and draw(st.sampled_from([False, False, True])):
        count = draw(st.integers(1, free[devices[-1]]))
        free[devices[-1]] -= count
        foreign.append(Claim("ollama", 9, devices[-1], count, service="ollama"))
        held, works = {devices[-1]: count}, draw(st.booleans())
        models.append(model("ollama", held=held, freeable=count, busy=works, foreign=True))
    blind = draw(st.sampled_from([None, None, None, None, "gpu0"]))
    views = {
        device: DeviceView(
            id=device,
            name="card",
            total=total,
            free=free[device],
            reserve=draw(st.integers(0, 4)),
            foreign=tuple(claim for claim in foreign if claim.device == device),
            quarantined=unattributed[device] // 2,
            fresh=device != blind,
            problem="the driver does not answer" if device == blind else "",
        )
        for device, total in totals.items()
    }
    return World(views, {view.name: view for view in models}, tuple(leases))


def crowded(seed: int) -> World:
    """A world whose devices are full of models of which most may give way, so that a plan takes several."""
    chance = random.Random(seed)
    devices = [f"gpu{index}" for index in range(chance.choice([1, 1, 2, 3]))]
    totals = dict.fromkeys(devices, 100)
    models = []
    left = dict.fromkeys(devices, 92)
    for index in range(chance.randint(3, 6)):
        at = chance.sample(devices, chance.choice([1, 1, 1, len(devices)]))
        held = {device: min(chance.randint(5, 40), left[device]) for device in at}
        for device, count in held.items():
            left[device] -= count
        total = sum(held.values())
        rungs = [SleepLevel(1, 4, total, 1.0, 3.0), SleepLevel(2, 3, 0, 0.5, 8.0)]
        models.append(
            model(
                f"m{index}",
                chance.choice([*[Residency.READY] * 5, Residency.SLEEPING]),
                held,
                residency_class=chance.choice([*[ResidencyClass.ON_DEMAND] * 3, ResidencyClass.RESIDENT]),
                level=1,
                ladder=tuple(chance.sample(rungs, chance.randint(0, 2))),
                freeable=chance.choice([0, 0, total // 2]),
                frequency=chance.uniform(0, 20),
                last_used=NOW - chance.uniform(0, 2000),
                start_seconds=chance.uniform(1, 60),
                swap_slot=chance.choice([None] * 5 + ["slot"]),
                busy=chance.random() < 0.05,
            )
        )
    span = chance.choice([1, 1, len(devices)])
    wanted = target(chance.randint(10, 80) * span, span=span, swap_slot=chance.choice([None, None, "slot"]))
    host = {HOST: chance.randint(0, 100)} if chance.random() < 0.5 else {}
    return world(wanted, *models, totals=totals | host)


any_world = st.one_of(worlds(), st.builds(crowded, st.integers(0, 2**32)))
