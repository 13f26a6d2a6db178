"""Host memory for sleepers: what each keeps there, and who leaves it so that another may sleep there instead.

Sleepers compete for host memory by the same measure as models do for a device (`eviction.py`). A sleeper leaves by
being stopped: an engine that sleeps at several levels ignores a deeper one while it sleeps. Which rung a model that is
awake falls to is part of the search for victims in `arbiter.py`; a machine that runs short is relieved in `relief.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aitherd.core.eviction import INFINITE, Release, Search, stays, ways
from aitherd.core.policy import Policy
from aitherd.core.words import HOST, Bytes, ModelView, Residency, Seconds, Verb


def kept(model: ModelView) -> Bytes:
    """Host bytes that `model` keeps by sleeping; 0 when it is awake, or keeps nothing."""
    if model.residency is not Residency.SLEEPING:
        return 0
    return next((rung.host for rung in model.ladder if rung.level == model.level), 0)


def exits(models: Iterable[ModelView], now: Seconds, policy: Policy) -> tuple[Release, ...]:
    """How each of `models` that sleeps, and may go, leaves host memory. What it gives on its device is not counted."""
    found = []
    for model in models:
        count = kept(model)
        if count > 0 and not stays(model, now, policy):
            stop = next(way for way in ways(model, now, policy) if way.verb is Verb.STOP)
            found.append(stop._replace(gives={HOST: count}))
    return tuple(found)


def make_room(
    rivals: Sequence[Release], count: Bytes, policy: Policy, bound: float = INFINITE
) -> tuple[float, tuple[Release, ...]] | None:
    """The cheapest of `rivals` that together give `count` host bytes, and what it costs; None if not below `bound`."""
    return Search(policy, None).cheapest({HOST: count}, (), [(rival,) for rival in rivals], bound)
