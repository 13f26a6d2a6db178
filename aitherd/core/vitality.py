"""When an engine that calls itself ready is doubted, and what follows from the canary that it is then given.

A canary is the least work that an engine can do: one token, one embedding. How it looks is in `engines/`; sending it is
the conductor's. A busy engine that gets on is never doubted, and no engine is taken for dead for being busy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from aitherd.core.words import Seconds

STILL: Seconds = 60.0
"""Requests are in flight, and for so long neither an answer nor the engine's own counters have moved."""
FAILING = 3
"""So many requests in a row ended with an error of the engine."""
PAUSE: Seconds = 60.0
"""An engine that has just sung is not asked again for so long, unless the machine has slept."""


class Doubt(StrEnum):
    """Why an engine is given a canary; the words are for people."""

    NONE = ""
    RESUMED = "the machine was suspended"
    HALF_AWAKE = "it was found awake and had been asleep"
    STILL = "requests in flight do not get on"
    FAILING = "requests fail one after the other"

    @property
    def withholds(self) -> bool:
        """Whether it gets no request before the canary has sung."""
        return self in (Doubt.RESUMED, Doubt.HALF_AWAKE)


class Song(StrEnum):
    """What came of a canary."""

    SUNG = "sung"
    UNTOLD = "untold"
    """This engine has no canary, or answers that it takes none."""
    SILENT = "silent"
    """No answer in time."""
    FALSE = "false"
    """An error, or an answer without what was asked for."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What is seen of a ready engine without asking it for work."""

    in_flight: int
    still: Seconds
    """For how long nothing has moved; 0 where the engine does not tell whether it works."""
    failed: int
    """Requests in a row that ended with an error of the engine."""
    since_song: Seconds
    """Since the last canary; infinite when there was none."""


def doubt(signs: Signs) -> Doubt:
    """Why a canary is due now, if one is."""
    if signs.since_song < PAUSE:
        return Doubt.NONE
    if signs.in_flight and signs.still >= STILL:
        return Doubt.STILL
    if signs.failed >= FAILING:
        return Doubt.FAILING
    return Doubt.NONE


def lies(song: Song, *, occupied: bool, moved: bool | None) -> bool:
    """Whether an engine that calls itself ready is not.

    `occupied` says that it works for somebody, so that a canary may have waited for its turn; `moved` whether that work
    got on meanwhile, None where it does not tell, which counts as getting on.
    """
    if song is Song.SILENT:
        return not occupied or moved is False
    return song is Song.FALSE
