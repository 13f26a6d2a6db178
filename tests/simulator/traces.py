"""Who asks for which model when: traces made here, from a seed. Public formats are read in `public.py`.

Shapes: popularity by Zipf's law (exponent 0.9), sessions that use one to three models and come in bursts (gaps of a
Gamma distribution with a coefficient of variation of 3), popularity that drifts, image jobs of up to 20 minutes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aitherd.core.words import Bytes, Seconds

GIB = 1 << 30
ZIPF = 0.9
USUAL: Seconds = 360.0
"""Mean gap between sessions. With it the references come out about as known: one model at a time serves a tenth
within the objective, several models with one line a third, a line per model with LRU 62 % over seeds 0 to 23, where
63 % are known. Seeds 0 to 11 are the harder half: 59 and 66 %, and longer traces do not change that."""
LONG: Seconds = 1200.0
BURSTY = 3.0
"""Coefficient of variation of the gaps between sessions."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One model of a fleet, with what bringing it in costs."""

    name: str
    size: Bytes
    load: Seconds
    wake: Seconds | None = None
    """From sleep in host memory; None for an engine that cannot sleep."""
    objective: Seconds = 10.0
    """Within this long its requests want their first token."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request."""

    at: Seconds
    model: str
    work: Seconds
    """From its model being ready until it is answered."""


Trace = tuple[Arrival, ...]

FLEET = (
    Kind("embed", 1 * GIB, 3.0),
    Kind("voice", 2 * GIB, 4.0),
    Kind("small", 4 * GIB, 6.0),
    Kind("vision", 6 * GIB, 8.0),
    Kind("chat", 8 * GIB, 25.0, wake=2.0),
    Kind("images", 10 * GIB, 18.0, objective=60.0),
    Kind("tools", 12 * GIB, 30.0, wake=2.5),
    Kind("coder", 15 * GIB, 40.0, wake=3.0),
    Kind("writer", 18 * GIB, 35.0, wake=3.5),
    Kind("reason", 22 * GIB, 45.0, wake=4.0),
)
"""Ten models of 98 GiB for a device that has 31."""
CAPACITY: Bytes = 31 * GIB


def costed(fleet: Sequence[Kind], seconds: Callable[[Kind], Seconds]) -> tuple[Kind, ...]:
    """The fleet with other load times, and without sleep."""
    return tuple(Kind(kind.name, kind.size, seconds(kind), None, kind.objective) for kind in fleet)


def zipf(seed: int, fleet: Sequence[Kind], count: int, gap: Seconds = 60.0) -> Trace:
    """Requests that do not know of each other."""
    chance = random.Random(f"zipf {seed}")
    names, weights = _popularity(chance, fleet)
    now = 0.0
    made: list[Arrival] = []
    for _ in range(count):
        now += chance.expovariate(1 / gap)
        made.append(Arrival(now, chance.choices(names, weights)[0], 0.5))
    return tuple(made)


def sessions(
    seed: int, fleet: Sequence[Kind], count: int, gap: Seconds = 240.0, *, drift: bool = False, think: Seconds = 25.0
) -> Trace:
    """Sessions in bursts; with `drift`, what is popular changes from hour to hour."""
    chance = random.Random(f"sessions {seed} {drift}")
    names, weights = _popularity(chance, fleet)
    shape = 1 / BURSTY**2
    now, next_drift = 0.0, 3600.0
    made: list[Arrival] = []
    while len(made) < count:
        now += chance.gammavariate(shape, gap / shape)
        if drift and now > next_drift:
            next_drift = now + 3600.0
            one, other = chance.sample(range(len(names)), 2)
            names[one], names[other] = names[other], names[one]
        used = chance.choices(names, weights, k=chance.choice([1, 1, 2, 3]))
        at = now
        for _ in range(1 + int(chance.expovariate(1 / 6))):
            made.append(Arrival(at, chance.choice(used), chance.uniform(2, 12)))
            at += chance.expovariate(1 / think)
    return tuple(sorted(made, key=lambda arrival: (arrival.at, arrival.model)))[:count]


def mixed(seed: int, fleet: Sequence[Kind], count: int, gap: Seconds = USUAL, *, long: float = 0.0) -> Trace:
    """Sessions, pictures among them; `long` is the part of the pictures that are jobs of 20 minutes."""
    chance = random.Random(f"mixed {seed}")
    made = list(sessions(seed, fleet, count, gap))
    for place, arrival in enumerate(made):
        if arrival.model == "images":
            work = LONG if chance.random() < long else chance.uniform(8, 40)
            made[place] = Arrival(arrival.at, "images", work)
    return tuple(made)


def jobs(seed: int, fleet: Sequence[Kind], count: int) -> Trace:
    """The mixed trace with image jobs of 20 minutes, one picture in fifty."""
    return mixed(seed, fleet, count, long=0.02)


def overload(seed: int, fleet: Sequence[Kind], count: int) -> Trace:
    """The mixed trace, three times as dense as a machine can serve it well."""
    return mixed(seed, fleet, count, gap=USUAL / 3)


def by_name(fleet: Sequence[Kind]) -> Mapping[str, Kind]:
    """The fleet as a mapping."""
    return {kind.name: kind for kind in fleet}


def _popularity(chance: random.Random, fleet: Sequence[Kind]) -> tuple[list[str], list[float]]:
    names = [kind.name for kind in fleet]
    chance.shuffle(names)
    return names, [1 / rank**ZIPF for rank in range(1, len(names) + 1)]
