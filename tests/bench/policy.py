"""How well the daemon decides: its own conductor, in the simulator, beside what others do and the exact optimum.

Two questions. Who is evicted: requests come one after another, and only load seconds count, as a multiple of the least
that is possible. Who comes next: requests come when they come, and count when their model is ready within their
objective. The daemon is told to let nobody wait beyond `bound`: who would is sent away, and counts as not served.
Twelve seeds, the same for all, so that differences are paired; ± is the standard error of the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

from aitherd.core.policy import DEFAULTS
from tests.bench.rows import Row
from tests.simulator.baselines import POLICIES, STOPPING, Outcome, queue, reloads
from tests.simulator.optimum import optimum
from tests.simulator.plot import draw
from tests.simulator.replay import as_they_come, one_after_another
from tests.simulator.traces import CAPACITY, FLEET, Kind, Trace, by_name, costed, jobs, mixed, overload, sessions, zipf

BUILD = Path(__file__).parents[2] / "build"
SEEDS = range(12)
WORKERS = 2
UNSEEN = range(12, 24)
"""Seeds that no parameter was chosen by."""
SEQUENCE, ARRIVALS = 300, 1000
"""Requests of a trace of each kind."""
AWAKE = costed(FLEET, lambda kind: kind.load)
"""The fleet with engines that cannot sleep, as the others know them."""
EVEN = costed(FLEET, lambda kind: 10.0)
"""The fleet where every load takes as long."""

EVICTIONS: Mapping[str, tuple[Callable[[int], Trace], Sequence[Kind], float]] = {
    "zipf": (lambda seed: zipf(seed, FLEET, SEQUENCE), AWAKE, 1.10),
    "sessions": (lambda seed: sessions(seed, FLEET, SEQUENCE), AWAKE, 1.10),
    "drift": (lambda seed: sessions(seed, FLEET, SEQUENCE, drift=True), AWAKE, 1.10),
    "sessions, even cost": (lambda seed: sessions(seed, FLEET, SEQUENCE), EVEN, 1.15),
}
"""Trace, costs, and how many times the optimum it may cost."""
QUEUES: Mapping[str, Callable[[int], Trace]] = {
    "mixed": lambda seed: mixed(seed, FLEET, ARRIVALS),
    "20 min jobs": lambda seed: jobs(seed, FLEET, ARRIVALS),
    "overload": lambda seed: overload(seed, FLEET, ARRIVALS),
}
WAYS: Mapping[str, Callable[[Trace], Outcome]] = {
    "one at a time, one line": lambda made: queue(made, AWAKE, CAPACITY, "LRU", lines=False, alone=True),
    "several, one line, LRU": lambda made: queue(made, AWAKE, CAPACITY, "LRU", lines=False, alone=False),
    "a line per model, LRU": lambda made: queue(made, AWAKE, CAPACITY, "LRU", lines=True, alone=False),
    "a line per model, LFU": lambda made: queue(made, AWAKE, CAPACITY, "LFU", lines=True, alone=False),
    "a line per model, GDS": lambda made: queue(made, AWAKE, CAPACITY, "GDS", lines=True, alone=False),
    "aitherd, no engine sleeps": lambda made: as_they_come(made, AWAKE, CAPACITY, bound(made)),
    "aitherd": lambda made: as_they_come(made, FLEET, CAPACITY, bound(made)),
}
LRU, OURS = "a line per model, LRU", ("aitherd, no engine sleeps", "aitherd")


@dataclass(frozen=True, slots=True)
class Score:
    """What came of one trace. Waits are seconds until the model was ready."""

    within: float
    """Part of the requests that were served within their objective."""
    p50: float
    p95: float
    p99: float
    longest: float
    loads: float
    cost: float
    """Load seconds over the optimum of the trace in its order, which batching may go below."""
    beyond: float
    """Requests that waited longer than the bound."""
    refused: float
    """Requests that were told that it would take too long, or had to go when the bound was reached. They count as not
    served within their objective, and not among the waits."""


def bound(made: Trace) -> float:
    """The age bound of the slowest model, one load of it and one drain: the longest that anybody works."""
    slowest = max(kind.load for kind in FLEET)
    overdue = max(DEFAULTS.age_bound, DEFAULTS.age_loads * slowest)
    return overdue + slowest + max(arrival.work for arrival in made) + STOPPING


def score(made: Trace, outcome: Outcome) -> Score:
    """The figures of one outcome."""
    kinds, limit = by_name(FLEET), bound(made)
    waits = sorted(wait for _, wait in outcome.waits)
    met = sum(wait <= kinds[arrival.model].objective for arrival, wait in outcome.waits)
    least = optimum([arrival.model for arrival in made], AWAKE, CAPACITY)
    return Score(
        met / len(made),
        waits[int(len(waits) * 0.5)],
        waits[int(len(waits) * 0.95)],
        waits[int(len(waits) * 0.99)],
        waits[-1],
        outcome.loads,
        outcome.cost / least,
        sum(wait > limit for wait in waits),
        len(made) - len(waits),
    )


def evicted(trace: str, seed: int) -> dict[str, float]:
    """Load seconds by policy, as multiples of the optimum."""
    make, fleet, _ = EVICTIONS[trace]
    made = make(seed)
    least = optimum([arrival.model for arrival in made], fleet, CAPACITY)
    costs = {policy: reloads(made, fleet, CAPACITY, policy) / least for policy in POLICIES}
    return costs | {"aitherd": one_after_another(made, fleet, CAPACITY).cost / least}


def queued(trace: str, seed: int) -> dict[str, Score]:
    """Scores by way of queueing."""
    made = QUEUES[trace](seed)
    return {way: score(made, run(made)) for way, run in WAYS.items()}


def unseen(seed: int) -> tuple[float, float]:
    """The part within their objective on the mixed trace, by the policy and by LRU."""
    made = QUEUES["mixed"](seed)
    return score(made, WAYS["aitherd"](made)).within, score(made, WAYS[LRU](made)).within


def unburdened(seed: int) -> float:
    """The same by the policy, if who sleeps left the device altogether: what the residue of sleepers costs."""
    made = QUEUES["mixed"](seed)
    return score(made, as_they_come(made, FLEET, CAPACITY, bound(made), residue=0)).within


def spread(values: Sequence[float]) -> str:
    """The mean with its standard error."""
    return f"{mean(values):.3g} ± {stdev(values) / sqrt(len(values)):.2g}"


def main() -> list[Row]:
    """Runs all, writes `build/policy.md` and the plots, and gives the rows."""
    rows: list[Row] = []
    text: list[str] = []
    with ProcessPoolExecutor(WORKERS) as pool:
        for trace, (_, _, limit) in EVICTIONS.items():
            costs = list(pool.map(evicted, repeat(trace), SEEDS))
            by_policy = {policy: [found[policy] for found in costs] for policy in costs[0]}
            text += [f"\nReload cost over the optimum, {trace}", ""]
            text += [f"    {policy:28} {spread(values)}" for policy, values in by_policy.items()]
            ours = mean(by_policy["aitherd"])
            best = min(mean(values) for policy, values in by_policy.items() if policy != "aitherd")
            rows.append(
                Row(f"policy: reload cost, {trace}", ours, "x", "optimum", 1.0, ours, f"<= {limit:g} x", ours <= limit)
            )
            rows.append(Row(f"policy: reload cost, {trace}, best other", best, "x", "optimum", 1.0, best))
        for trace in QUEUES:
            rows += _rows(trace, list(pool.map(queued, repeat(trace), SEEDS)), text)
        pairs = list(pool.map(unseen, UNSEEN))
        parts, others = [one for one, _ in pairs], [other for _, other in pairs]
        text += ["\nWithin the objective on the mixed trace, seeds that no parameter was chosen by", ""]
        text += [f"    {'aitherd':28} {spread(parts)}", f"    {LRU:28} {spread(others)}"]
        rows.append(_within("mixed, unseen seeds, aitherd", mean(parts), mean(others), 0.85))
        lighter = list(pool.map(unburdened, SEEDS))
        text += ["\nWithin the objective on the mixed trace, if sleepers kept nothing on the device", ""]
        text += [f"    {'aitherd':28} {spread(lighter)}"]
        rows.append(Row("policy: within objective, mixed, aitherd, sleepers without residue", 100 * mean(lighter), "%"))
    BUILD.mkdir(exist_ok=True)
    (BUILD / "policy.md").write_text("\n".join(text).lstrip() + "\n")
    made = jobs(0, FLEET, 150)
    draw(made, {"aitherd": as_they_come(made, FLEET, CAPACITY), LRU: WAYS[LRU](made)}, FLEET, BUILD / "policy")
    return rows


def _within(what: str, ours: float, lru: float, target: float) -> Row:
    name, budget = f"policy: within objective, {what}", f">= {100 * target:.0f} %"
    return Row(name, 100 * ours, "%", LRU, 100 * lru, ours / lru, budget, ours >= target)


def _rows(trace: str, found: Sequence[Mapping[str, Score]], text: list[str]) -> list[Row]:
    columns = ("within", "p50", "p95", "p99", "longest", "loads", "cost", "beyond", "refused")
    text += [f"\nRequests as they come, {trace}", "", "    " + " " * 28 + "".join(f"{name:>22}" for name in columns)]
    for way in WAYS:
        cells = [spread([getattr(scores[way], name) for scores in found]) for name in columns]
        text.append(f"    {way:28}" + "".join(f"{cell:>22}" for cell in cells))
    rows = []
    lru = [scores[LRU].within for scores in found]
    for way in OURS:
        ours = [scores[way].within for scores in found]
        gain = [one - other for one, other in zip(ours, lru, strict=True)]
        text.append(f"    {way} - {LRU}: {spread([100 * value for value in gain])} points")
        target = 0.85 if (trace, way) == ("mixed", "aitherd") else mean(lru)
        rows.append(_within(f"{trace}, {way}", mean(ours), mean(lru), target))
    beyond = mean(scores["aitherd"].beyond for scores in found)
    rows.append(Row(f"policy: waits beyond the bound, {trace}", beyond, "", None, None, None, "0", beyond == 0))
    refused = 100 * mean(scores["aitherd"].refused for scores in found) / ARRIVALS
    rows.append(Row(f"policy: sent away at the bound, {trace}", refused, "%"))
    return rows
