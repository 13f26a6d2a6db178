"""Which moves of residency there are: everything that changes where a model stands goes through this file.

Theory of operation. Each model has one residency and one owner, the conductor, which tells this file what happened and
stores the answer. The table below is complete: a pair that is not in it is a mistake of the caller and is refused.
Whether a move is wise (busy, held, room) is the arbiter's to say; how it is carried out is the conductor's.

An event is something that is about to be done (START, WAKE, SLEEP, STOP), that has been verified (UP, ASLEEP, DOWN,
RETURNED), that befell the model (DIED, LOST), or that was found when the daemon came back (ADOPT_…).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from aitherd.core.words import Residency


class Event(StrEnum):
    """What moves a model from one residency to another."""

    START = "start"
    """A cold start begins."""
    WAKE = "wake"
    """A sleeper is asked to wake."""
    UP = "up"
    """It answers requests."""
    SLEEP = "sleep"
    """It is drained in order to be put to sleep."""
    ASLEEP = "asleep"
    """It sleeps and its bytes have been seen to return."""
    STOP = "stop"
    """It is drained, or what is left of it cleared away, in order to be stopped."""
    KEPT = "kept"
    """A sleep or stop was called off before anything was asked of the engine."""
    DOWN = "down"
    """It is gone and its bytes have been seen to return."""
    DIED = "died"
    """It could not be brought up, or ended by itself."""
    LOST = "lost"
    """It is gone, but its bytes did not return in time."""
    RETURNED = "returned"
    """Bytes that had been lost have been seen to return."""
    CALM = "calm"
    """Its time to back off is over, or a person forgave it."""
    ADOPT_READY = "adopt-ready"
    """A daemon that comes back finds it answering requests."""
    ADOPT_STARTING = "adopt-starting"
    """A daemon that comes back finds it on its way up."""
    ADOPT_ASLEEP = "adopt-asleep"
    """A daemon that comes back finds it asleep."""
    ADOPT_LOST = "adopt-lost"
    """A daemon that comes back knows of bytes that it left behind, and finds them still used."""


TABLE: Mapping[tuple[Residency, Event], Residency] = MappingProxyType(
    {
        (Residency.ABSENT, Event.START): Residency.STARTING,
        (Residency.ABSENT, Event.ADOPT_READY): Residency.READY,
        (Residency.ABSENT, Event.ADOPT_STARTING): Residency.STARTING,
        (Residency.ABSENT, Event.ADOPT_ASLEEP): Residency.SLEEPING,
        (Residency.ABSENT, Event.ADOPT_LOST): Residency.QUARANTINED,
        (Residency.STARTING, Event.UP): Residency.READY,
        (Residency.STARTING, Event.STOP): Residency.STOPPING,
        (Residency.STARTING, Event.DIED): Residency.FAILED,
        (Residency.READY, Event.SLEEP): Residency.STOPPING,
        (Residency.READY, Event.STOP): Residency.STOPPING,
        (Residency.READY, Event.DIED): Residency.FAILED,
        (Residency.SLEEPING, Event.WAKE): Residency.STARTING,
        (Residency.SLEEPING, Event.STOP): Residency.STOPPING,
        (Residency.SLEEPING, Event.DIED): Residency.FAILED,
        (Residency.STOPPING, Event.KEPT): Residency.READY,
        (Residency.STOPPING, Event.ASLEEP): Residency.SLEEPING,
        (Residency.STOPPING, Event.DOWN): Residency.ABSENT,
        (Residency.STOPPING, Event.DIED): Residency.FAILED,
        (Residency.STOPPING, Event.LOST): Residency.QUARANTINED,
        (Residency.FAILED, Event.START): Residency.STARTING,
        (Residency.FAILED, Event.STOP): Residency.STOPPING,
        (Residency.FAILED, Event.CALM): Residency.ABSENT,
        (Residency.FAILED, Event.LOST): Residency.QUARANTINED,
        (Residency.QUARANTINED, Event.RETURNED): Residency.ABSENT,
    }
)
"""Every move there is. A pair that is missing is forbidden."""


class ForbiddenMove(Exception):
    """An event that cannot happen to a model in that residency: a mistake in the caller, never a fault of the host."""

    def __init__(self, residency: Residency, event: Event) -> None:
        super().__init__(f"a model that is {residency} cannot {event}")
        self.residency = residency
        self.event = event


def move(residency: Residency, event: Event) -> Residency:
    """The residency after `event`. Raises ForbiddenMove for a pair that is not in the table."""
    try:
        return TABLE[residency, event]
    except KeyError:
        raise ForbiddenMove(residency, event) from None


def diagram() -> str:
    """The table as a Mermaid state diagram, one arrow a move, in the order of the table."""
    arrows = (f"    {source} --> {target}: {event}" for (source, event), target in TABLE.items())
    return "\n".join(("stateDiagram-v2", f"    [*] --> {Residency.ABSENT}", *arrows)) + "\n"
