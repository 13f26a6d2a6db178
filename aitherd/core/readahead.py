"""Whose weights are worth reading into the page cache before anybody asks for them, if the machine can spare that now.

Only the choice is made here. Reading is done in pieces, and the choice anew before each: see `conductor/readahead.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from aitherd.core.policy import DEFAULTS, Policy
from aitherd.core.words import Bytes, Seconds

MEMORY_MAX, IO_MAX = 1.0, 5.0
"""Per cent of the last ten seconds in which something waited for memory, or for a disk: beyond it nothing is read."""
SEEN_LATELY = 4.0
"""A model that was not used for so many half-lives is not expected any more."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """What of the last ten seconds, in per cent, some task waited. (Pressure Stall Information: `some avg10`)"""

    memory: float
    io: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that is not loaded."""

    model: str
    weights: Bytes
    """What there is to read."""
    frequency: float
    """Uses, decayed to `last_used`."""
    last_used: Seconds
    """Monotonic."""
    start: Seconds
    """Expected cold start: what there is to save."""


def spare(pressure: Pressure | None, available: Bytes, weights: Bytes, reserve: Bytes) -> bool:
    """Whether the machine can take `weights` bytes into its page cache without anybody noticing.

    `pressure` is None where the kernel does not tell, and then nothing is read. `available` host memory has to leave
    the `reserve` twice: what is cached can be dropped, but only in favour of somebody who first had to wait for it.
    """
    if pressure is None or pressure.memory > MEMORY_MAX or pressure.io > IO_MAX:
        return False
    return available - weights >= 2 * reserve


def likely(candidates: Iterable[Candidate], now: Seconds, policy: Policy = DEFAULTS) -> str | None:
    """The model whose weights are worth most: likely to be used soon, by how often and how lately it was, and slow to
    start. None where nobody was used lately."""
    best: tuple[float, str] | None = None
    for one in candidates:
        idle = max(now - one.last_used, 0.0)
        if one.frequency <= 0 or one.weights <= 0 or idle > SEEN_LATELY * policy.half_life:
            continue
        often = one.frequency * 0.5 ** (idle / policy.half_life)
        worth = sqrt(often * policy.lately / (idle + policy.lately)) * one.start
        if best is None or (worth, one.model) > best:
            best = (worth, one.model)
    return None if best is None else best[1]
