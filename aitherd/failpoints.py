"""Named instants of a transition at which a test has the daemon killed, to see that it comes back from there.

They cost a comparison where nothing is armed. `AITHERD_FAILPOINTS` names a directory; a file in it that is named after
a point has the daemon remove the file and end as by `kill -9` when it gets there, so that each kills once. Nothing else
belongs here: what must hold afterwards is the tests' to say.
"""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from pathlib import Path

VARIABLE = "AITHERD_FAILPOINTS"


class Point(StrEnum):
    """Every instant that has a name. A test kills the daemon at each."""

    START_BOOKED = "start-booked"
    """The model is booked as starting, and has no unit yet."""
    START_RUNS = "start-runs"
    """Its unit runs, which the daemon does not know yet."""
    START_LOADING = "start-loading"
    """The unit is booked, and the server does not answer yet."""
    START_ANSWERS = "start-answers"
    """The server answers, and the model is not booked as ready."""
    START_READY = "start-ready"
    """It is booked as ready, and nobody who waits for it knows."""
    WAKE_BOOKED = "wake-booked"
    """The model is booked as waking, and its engine was not asked."""
    WAKE_ASKED = "wake-asked"
    """The engine says that it is awake, and nobody has looked."""
    FREE_ASKED = "free-asked"
    """The engine was asked to drop its caches."""
    SLEEP_BOOKED = "sleep-booked"
    """The model is booked as going to sleep, and its engine was not asked."""
    SLEEP_ASKED = "sleep-asked"
    """The engine says that it sleeps, and its bytes were not looked at."""
    SLEEP_ASLEEP = "sleep-asleep"
    """It is booked as asleep, and its level is not saved."""
    ESCALATION = "escalation"
    """Sleep gave too little back, and the engine is about to be stopped for it."""
    STOP_BOOKED = "stop-booked"
    """The model is booked as stopping, and is not drained."""
    STOP_DRAINED = "stop-drained"
    """Nothing is in flight, and its unit still runs."""
    STOP_ENDED = "stop-ended"
    """Its unit has ended, and its bytes were not looked at."""
    STOP_DOWN = "stop-down"
    """Its bytes are back and it is booked as absent, and nobody who waits for that knows."""
    KILL_DUE = "kill-due"
    """systemd could not stop the unit, and its control group is about to be killed."""
    QUARANTINE_DUE = "quarantine-due"
    """Bytes did not come back, and are not booked as lost."""
    QUARANTINED = "quarantined"
    """They are booked as lost and saved, and nobody who waits for the stop knows."""
    DEATH_SEEN = "death-seen"
    """An engine ended by itself, and what follows from it was not done."""
    HOLD_BOOKED = "hold-booked"
    """A hold is booked, and is not saved."""
    HOLD_SAVED = "hold-saved"
    """It is saved, and its unit is not active."""
    LEASE_DECIDED = "lease-decided"
    """The bytes of a lease are free, and it is not in force."""
    LEASE_SAVED = "lease-saved"
    """Its terms are saved, and the manager does not have its descriptor."""
    LEASE_KEPT = "lease-kept"
    """The manager has it, and the holder does not."""
    SAVE_WRITTEN = "save-written"
    """The new state lies beside the old."""
    SAVE_REPLACED = "save-replaced"
    """The new state has taken the old one's place."""
    ADOPTION_BEGUN = "adoption-begun"
    """A daemon that comes back knows which units run, and has taken over none."""
    ADOPTION_DONE = "adoption-done"
    """It has taken over all of them, and serves nobody yet."""


_ARMED = os.environ.get(VARIABLE, "")


def reach(point: Point) -> None:
    """The daemon is at `point`; it does not return if that is armed."""
    if _ARMED:
        _fire(Path(_ARMED) / point)


def _fire(armed: Path) -> None:
    try:
        armed.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
