"""When a model that is waited for could be ready, and for whom that is too late.

Room is made for one model after another on a device. Those that mind nobody come up beside others; one that measures
the device meanwhile comes up alone. In which order is decided in `queue.py`, who gives way in `arbiter.py`; where a
request goes that leaves is for routing to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aitherd.core.policy import DEFAULTS, Policy
from aitherd.core.words import DeviceId, Seconds


@dataclass(frozen=True, slots=True)
class Turn:
    """One model on its way up, now or when its turn has come."""

    model: str
    devices: frozenset[DeviceId]
    """Where nothing else moves meanwhile. Empty when it waits for nobody: it needs none, or cannot have them now."""
    room: Seconds
    """Expected until those that give way for it have done so."""
    rise: Seconds
    """Expected from then on until it is ready."""
    shares: bool = False
    """Whether room may be made for others, and they may come up, while it comes up."""


def ready_in(turns: Iterable[Turn]) -> Mapping[str, Seconds]:
    """Seconds until each model is ready, by name, when the turns are taken in this order."""
    busy: dict[DeviceId, Seconds] = {}
    shared: dict[DeviceId, Seconds] = {}
    ready: dict[str, Seconds] = {}
    for turn in turns:
        room = max((busy.get(device, 0.0) for device in turn.devices), default=0.0) + turn.room
        if not turn.shares:
            room = max([room, *(shared.get(device, 0.0) for device in turn.devices)])
        ready[turn.model] = ends = room + turn.rise
        busy.update(dict.fromkeys(turn.devices, room if turn.shares else ends))
        if turn.shares:
            shared.update({device: max(shared.get(device, 0.0), ends) for device in turn.devices})
    return ready


def doubted(ready_at: Seconds, deadline: Seconds | None, since: Seconds | None, now: Seconds) -> Seconds | None:
    """Since when it has looked as if the model will be ready too late for one who waits for it; None when it does not.

    All instants are monotonic. `since` is what the last look, before `now`, came to; `deadline` is None for who waits
    for ever.
    """
    if deadline is None or ready_at <= deadline:
        return None
    return now if since is None else since


def hopeless(since: Seconds | None, now: Seconds, policy: Policy = DEFAULTS) -> bool:
    """Whether one who has been doubted `since` then leaves: a moment's bad look is not believed."""
    return since is not None and now >= since + policy.doubt
