"""The least that reloading can cost, known only to somebody who knows all requests: exact, by dynamic programming.

States are the sets of models that may be resident after a request. A set that is part of another, equally cheap one is
never better, so only sets to which nothing of what was resident can be added are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from aitherd.core.words import Bytes, Seconds
from tests.simulator.traces import Kind


def optimum(requests: Sequence[str], fleet: Sequence[Kind], capacity: Bytes) -> Seconds:
    """The least load seconds with which every request, in this order, finds its model resident.

    Raises ValueError for a model that does not fit at all.
    """
    place = {kind.name: index for index, kind in enumerate(fleet)}
    sizes, costs = [kind.size for kind in fleet], [kind.load for kind in fleet]
    after: dict[tuple[int, int], tuple[int, ...]] = {}
    best: dict[int, Seconds] = {0: 0.0}
    for name in requests:
        wanted = place[name]
        if sizes[wanted] > capacity:
            raise ValueError(f"{name} is larger than the device")
        following: dict[int, Seconds] = {}
        for state, cost in best.items():
            if state >> wanted & 1:
                ways, paid = (state,), cost
            else:
                if (state, wanted) not in after:
                    after[state, wanted] = _fitting(state, wanted, sizes, capacity)
                ways, paid = after[state, wanted], cost + costs[wanted]
            for way in ways:
                if paid < following.get(way, float("inf")):
                    following[way] = paid
        best = following
    return min(best.values(), default=0.0)


def _fitting(state: int, wanted: int, sizes: Sequence[Bytes], capacity: Bytes) -> tuple[int, ...]:
    """The largest parts of `state` that fit beside `wanted`, with it."""
    room = capacity - sizes[wanted]
    members = [index for index in range(len(sizes)) if state >> index & 1]
    found: list[tuple[int, Bytes]] = []

    def visit(at: int, kept: int, used: Bytes) -> None:
        if at == len(members):
            found.append((kept, used))
            return
        if used + sizes[members[at]] <= room:
            visit(at + 1, kept | 1 << members[at], used + sizes[members[at]])
        visit(at + 1, kept, used)

    visit(0, 0, 0)
    return tuple(
        kept | 1 << wanted
        for kept, used in found
        if all(kept >> index & 1 or used + sizes[index] > room for index in members)
    )
