"""What a model has been seen to need, in device bytes and seconds: what is measured takes over what was declared.

Only estimates live here. What to measure and when is the conductor's, where it is kept between runs is the state's.
One `Learned` belongs to one model, one fingerprint of its configuration and one driver version; another gets a new one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from aitherd.core.words import Bytes, Seconds

T = TypeVar("T")

LIVES = 8
"""So many past lives are remembered: a footprint that shrank is believed after as many."""
TIMES = 16
"""So many durations of a kind are remembered."""
QUANTILE = 0.9
"""A duration is expected to be as long as all but the slowest tenth: one cold page cache does not rule for ever."""

START_PRIOR: Seconds = 60.0
STOP_PRIOR: Seconds = 2.0
FREED_PRIOR: Bytes = 512 * 2**20
"""What is expected to stay after `free` before it was seen: a CUDA context and its libraries."""


class NotLearned(ValueError):
    """Kept values that cannot have been learned."""


@dataclass(slots=True)
class Learned:
    """Estimates of one model. Bytes are summed over its devices.

    A life ends with `observe_stop`; an engine that dies carries its peak into its next life. A life that has not ended
    may still grow, so it can raise the expected footprint but not lower it.
    """

    peaks: list[Bytes] = field(default_factory=list)
    """Highest bytes of the lives that ended, oldest first."""
    peak: Bytes = 0
    """Highest bytes of the present life; 0 before the first measurement."""
    residues: list[Bytes] = field(default_factory=list)
    starts: list[Seconds] = field(default_factory=list)
    stops: list[Seconds] = field(default_factory=list)
    sleeps: dict[int, list[Seconds]] = field(default_factory=dict)
    """Durations by sleep level."""
    asleep: dict[int, list[Bytes]] = field(default_factory=dict)
    """Bytes that stayed, by sleep level."""
    wakes: dict[int, list[Seconds]] = field(default_factory=dict)
    """Durations by sleep level."""

    def footprint(self, declared: Bytes) -> Bytes:
        """Bytes it is expected to need while ready: the highest of its lives, or `declared` while none has ended."""
        known = max(self.peaks) if self.peaks else declared
        return max(known, self.peak)

    def start_seconds(self) -> Seconds:
        """Expected cold start."""
        return _slow(self.starts, START_PRIOR)

    def quickest_start(self) -> Seconds:
        """The quickest cold start that was seen; 0 before the first."""
        return min(self.starts, default=0.0)

    def quickest_wake(self, level: int) -> Seconds:
        """The quickest wake from sleep `level` that was seen; 0 before the first."""
        return min(self.wakes.get(level, ()), default=0.0)

    def stop_seconds(self) -> Seconds:
        """Expected time from the stop, drained, until the bytes are back."""
        return _slow(self.stops, STOP_PRIOR)

    def sleep_seconds(self, level: int, prior: Seconds) -> Seconds:
        """Expected time to fall asleep to `level`, until the bytes are back; `prior` before it was seen."""
        return _slow(self.sleeps.get(level, ()), prior)

    def sleep_residue(self, level: int, prior: Bytes) -> Bytes:
        """Bytes that are expected to stay while asleep at `level`; `prior` before it was seen."""
        return max(self.asleep.get(level, ()), default=prior)

    def wake_seconds(self, level: int, prior: Seconds) -> Seconds:
        """Expected time to wake from sleep `level`; `prior` before it was seen."""
        return _slow(self.wakes.get(level, ()), prior)

    def freed_residue(self) -> Bytes:
        """Bytes that are expected to stay after `free`."""
        return max(self.residues, default=FREED_PRIOR)

    def observe_footprint(self, measured: Bytes) -> None:
        """Its bytes while ready, as often as they are measured. 0 says that nothing could be measured: no lesson.

        Whether the life did some work, and so shows all, is said when it ends.
        """
        self.peak = max(self.peak, measured)

    def observe_out_of_memory(self, needed: Bytes) -> None:
        """It ran out of device memory and would have needed `needed` bytes, as far as one can tell."""
        self.observe_footprint(needed)

    def observe_start(self, seconds: Seconds) -> None:
        """A cold start took so long, until it answered."""
        _remember(self.starts, seconds, TIMES)

    def observe_stop(self, seconds: Seconds, *, worked: bool = True) -> None:
        """A stop took so long, until the bytes were back. It ends a life, unless nothing was done in it.

        An engine that allocates when it works shows too little before: such a life raises what is expected, no more.
        """
        if worked and self.peak > 0:
            _remember(self.peaks, self.peak, LIVES)
            self.peak = 0
        _remember(self.stops, seconds, TIMES)

    def observe_sleep(self, level: int, residue: Bytes, seconds: Seconds) -> None:
        """Falling asleep to `level` took so long, until the bytes were back, and so many bytes stayed."""
        _remember(self.sleeps.setdefault(level, []), seconds, TIMES)
        _remember(self.asleep.setdefault(level, []), residue, LIVES)

    def observe_wake(self, level: int, seconds: Seconds) -> None:
        """Waking from sleep `level` took so long."""
        _remember(self.wakes.setdefault(level, []), seconds, TIMES)

    def observe_freed(self, residue: Bytes) -> None:
        """After `free`, so many bytes stayed."""
        _remember(self.residues, residue, LIVES)

    def to_json(self) -> dict[str, object]:
        """As kept between runs; `from_json` reads it back."""
        return {
            "peaks": list(self.peaks),
            "peak": self.peak,
            "residues": list(self.residues),
            "starts": list(self.starts),
            "stops": list(self.stops),
            "sleeps": _by_level(self.sleeps),
            "asleep": _by_level(self.asleep),
            "wakes": _by_level(self.wakes),
        }

    @classmethod
    def from_json(cls, kept: object) -> Learned:
        """The inverse of `to_json`; missing keys teach nothing. Raises NotLearned (a ValueError) for nonsense."""
        if not isinstance(kept, dict):
            raise NotLearned(f"learned values are an object, not {kept!r}")
        sleeps, asleep, wakes = (_levels(kept, key) for key in ("sleeps", "asleep", "wakes"))
        return cls(
            peaks=_sizes(kept, "peaks")[-LIVES:],
            peak=_size("peak", kept.get("peak", 0)),
            residues=_sizes(kept, "residues")[-LIVES:],
            starts=_durations(kept, "starts")[-TIMES:],
            stops=_durations(kept, "stops")[-TIMES:],
            sleeps={int(level): _durations(sleeps, level)[-TIMES:] for level in sleeps},
            asleep={int(level): _sizes(asleep, level)[-LIVES:] for level in asleep},
            wakes={int(level): _durations(wakes, level)[-TIMES:] for level in wakes},
        )


def _slow(times: Sequence[Seconds], prior: Seconds) -> Seconds:
    """The duration that QUANTILE of `times` do not exceed (nearest rank); `prior` where there are none."""
    return sorted(times)[math.ceil(QUANTILE * len(times)) - 1] if times else prior


def _remember(kept: list[T], value: T, count: int) -> None:
    kept.append(value)
    del kept[:-count]


def _list(kept: Mapping[str, object], key: str) -> list[object]:
    values = kept.get(key, [])
    if not isinstance(values, list):
        raise NotLearned(f"{key} is a list, not {values!r}")
    return values


def _size(key: str, value: object) -> Bytes:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise NotLearned(f"{key} is in bytes, 0 or more, not {value!r}")
    return value


def _sizes(kept: Mapping[str, object], key: str) -> list[Bytes]:
    return [_size(key, value) for value in _list(kept, key)]


def _durations(kept: Mapping[str, object], key: str) -> list[Seconds]:
    durations = []
    for value in _list(kept, key):
        # The comparison also refuses NaN.
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise NotLearned(f"{key} is in seconds, 0 or more, not {value!r}")
        durations.append(float(value))
    return durations


def _levels(kept: Mapping[str, object], key: str) -> Mapping[str, object]:
    levels = kept.get(key, {})
    if not isinstance(levels, dict):
        raise NotLearned(f"{key} is an object by sleep level, not {levels!r}")
    for level in levels:
        if not isinstance(level, str) or not level.isascii() or not level.isdigit() or int(level) < 1:
            raise NotLearned(f"a sleep level is a whole number, 1 or higher, not {level!r}")
    return levels


def _by_level(values: Mapping[int, Sequence[float]]) -> dict[str, object]:
    return {str(level): list(values[level]) for level in sorted(values)}
