"""The exact optimum of reload cost, against trying everything; and what it is a bound of."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulator.baselines import POLICIES, reloads
from tests.simulator.optimum import optimum
from tests.simulator.traces import CAPACITY, FLEET, Arrival, Kind, Trace, costed, sessions, zipf

NAMES = "abcd"
fleets = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=4, max_size=4).map(
    lambda drawn: tuple(Kind(name, size, float(cost)) for name, (size, cost) in zip(NAMES, drawn, strict=True))
)
asked = st.lists(st.sampled_from(NAMES), max_size=9)


def tried(requests: list[str], fleet: tuple[Kind, ...], capacity: int, resident: frozenset[str] = frozenset()) -> float:
    """Every way to evict, at every load."""
    if not requests:
        return 0.0
    kinds = {kind.name: kind for kind in fleet}
    first, *rest = requests
    if first in resident:
        return tried(rest, fleet, capacity, resident)
    kept = [frozenset(name for index, name in enumerate(sorted(resident)) if bits >> index & 1) for bits in range(16)]
    fits = {some | {first} for some in kept if sum(kinds[name].size for name in some) + kinds[first].size <= capacity}
    return kinds[first].load + min(tried(rest, fleet, capacity, some) for some in fits)


@settings(max_examples=60, deadline=None)
@given(asked, fleets, st.integers(6, 14))
def test_it_costs_what_the_best_of_all_ways_costs(requests: list[str], fleet: tuple[Kind, ...], capacity: int) -> None:
    assert optimum(requests, fleet, capacity) == tried(requests, fleet, capacity)


def test_no_policy_beats_it() -> None:
    fleet = costed(FLEET, lambda kind: kind.load)
    for made in (zipf(1, FLEET, 300), sessions(1, FLEET, 300, drift=True)):
        least = optimum([arrival.model for arrival in made], fleet, CAPACITY)
        assert all(reloads(made, fleet, CAPACITY, policy) >= least > 0 for policy in POLICIES)


def test_a_trace_comes_out_the_same_each_time_and_in_order() -> None:
    made: Trace = sessions(3, FLEET, 200)
    assert made == sessions(3, FLEET, 200) != sessions(4, FLEET, 200)
    assert all(isinstance(arrival, Arrival) for arrival in made)
    assert [arrival.at for arrival in made] == sorted(arrival.at for arrival in made)
