"""The decisions and transitions of the daemon as structured records: to the journal, and kept for those who ask why.

A record is one line for a person (`message`) and the fields behind it. Which records exist is listed here, so that
they stay few and named alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any

import structlog

from aitherd.core.words import Plan, Refusal, Seconds, Step, format_bytes

KEPT = 1000
"""How many records are kept in memory."""


class Event(StrEnum):
    """The kinds of record, as the journal field AITHER_EVENT names them."""

    DEMAND = "demand"
    """Somebody wants a model that is not ready."""
    PLAN = "plan"
    REFUSED = "refused"
    STEP = "step"
    """A step of a plan begins."""
    READ_AHEAD = "read-ahead"
    """Weights of a model that is likely next were read into the page cache."""
    RETURNED = "returned"
    """Device bytes that a step had to give are measured as returned."""
    LAGGING = "lagging"
    """They are not, and what is done about it."""
    READY = "ready"
    ASLEEP = "asleep"
    IDLE = "idle"
    """A model has been idle for its time and is stopped."""
    STOPPED = "stopped"
    FAILED = "failed"
    DOUBTED = "doubted"
    """An engine that calls itself ready is asked for the least that it can do."""
    RESUMED = "resumed"
    """The machine was suspended, and runs again."""
    QUARANTINED = "quarantined"
    ADOPTED = "adopted"
    HELD = "held"
    RELEASED = "released"
    LEASED = "leased"
    """An outside program was granted device bytes."""
    ENDED = "ended"
    """A lease has ended, or is waited for no more."""
    DEVICE = "device"
    """A device became measurable, or stopped being so."""
    CONFIGURATION = "configuration"
    UPSTREAM = "upstream"
    """An upstream stopped answering, answers again, or cannot be used."""
    CALLER = "caller"
    """A caller's key cannot be read: who shows it is not let in."""
    BRIDGE = "bridge"
    """Another route of a tier answers while its local model is brought in."""


WARNINGS = frozenset({Event.REFUSED, Event.LAGGING, Event.CALLER})
ERRORS = frozenset({Event.FAILED, Event.QUARANTINED})


@dataclass(frozen=True, slots=True)
class Record:
    """One decision or transition."""

    time: Seconds
    """Unix time."""
    event: Event
    model: str
    """The model it is about, empty when it is about none."""
    message: str
    fields: Mapping[str, Any]


class Records:
    """Writes records to the log and keeps the latest."""

    def __init__(self, clock: Callable[[], Seconds]) -> None:
        self._clock = clock
        self._kept: deque[Record] = deque(maxlen=KEPT)
        self._listeners: list[Callable[[], None]] = []
        self.counts: dict[Event, int] = {}
        """How many there were of each kind."""
        self.total = 0
        """How many there were: the number of the latest, which are counted from 1."""
        self._log = structlog.get_logger("aitherd")

    def add(self, event: Event, message: str, *, model: str = "", **fields: Any) -> None:
        """Adds a record. `fields` are sizes in bytes, durations in seconds, names."""
        self._kept.append(Record(self._clock(), event, model, message, fields))
        self.total += 1
        self.counts[event] = self.counts.get(event, 0) + 1
        write = self._log.error if event in ERRORS else self._log.warning if event in WARNINGS else self._log.info
        write(message, aither_event=str(event), aither_model=model, **fields)
        for added in self._listeners:
            added()

    def add_plan(self, purpose: str, plan: Plan, steps: Sequence[Step], *, model: str = "", **fields: Any) -> None:
        """What will be done. `steps` are those that are still to be carried out; `purpose` begins the sentence."""
        shown = [f"{step.verb} {step.model}" for step in steps]
        self.add(
            Event.PLAN,
            f"{purpose}: {', then '.join(shown)}: {plan.why}",
            model=model,
            steps=shown,
            seconds=round(plan.seconds, 3),
            spare=dict(plan.spare),
            **fields,
        )

    def add_refusal(self, what: str, refusal: Refusal, *, model: str = "", **fields: Any) -> None:
        """Why nothing can be done; `what` begins the sentence."""
        self.add(
            Event.REFUSED,
            f"{what}: {refusal.why}",
            model=model,
            kind=str(refusal.kind),
            missing=refusal.missing,
            holders=[f"{holder.name} {format_bytes(holder.bytes)} ({holder.why})" for holder in refusal.holders],
            **fields,
        )

    def latest(self, model: str | None = None) -> tuple[Record, ...]:
        """The records kept, oldest first; those about one model if it is given."""
        return tuple(record for record in self._kept if model is None or record.model == model)

    def since(self, number: int) -> tuple[tuple[int, Record], ...]:
        """The records after that with `number`, as far as they are kept, each with its number; oldest first."""
        new = min(max(self.total - number, 0), len(self._kept))
        return tuple(enumerate(islice(self._kept, len(self._kept) - new, None), self.total - new + 1))

    def subscribe(self, added: Callable[[], None]) -> Callable[[], None]:
        """Calls `added` after each record. Returns the function that ends the subscription."""
        self._listeners.append(added)
        return lambda: self._listeners.remove(added)
