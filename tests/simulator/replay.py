"""Runs a trace through the daemon's own conductor and says what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aitherd.conductor.records import Event
from aitherd.core.words import Bytes, Seconds
from tests.simulator.baselines import STOPPING, Outcome
from tests.simulator.engines import Nature
from tests.simulator.traces import Arrival, Kind, Trace
from tests.simulator.world import SLEEPER, World, fleet, model

LAG: Seconds = 0.3
DISK = 2.5e9
"""Bytes a second that weights are read with, as by the references' costs: two loads beside each other share it."""
SIZED = (*SLEEPER, "--kv-cache-memory-bytes=1G")
"""vLLM beside others on a device is told the size of its KV cache: else each makes it as large as what it finds free,
and starts alone."""
ENDLESS: Seconds = 1e6
RESIDUE: Bytes = 1 << 30
"""What a sleeping vLLM keeps on the device: its CUDA context and what is not in its pools. 1.4 to 1.8 GiB are published
for large models, and these are small."""


@dataclass(slots=True)
class Replayed(Outcome):
    """What came of it, and who was resident when: (model, from, to)."""

    spans: list[tuple[str, Seconds, Seconds]] = field(default_factory=list)
    refused: list[Arrival] = field(default_factory=list)
    """Those that were told that it would take too long; they are not among the waits."""
    wakes: int = 0


def world(
    kinds: Sequence[Kind], capacity: Bytes, wait: Seconds = ENDLESS, residue: Bytes = RESIDUE, **settings: Any
) -> World:
    """A machine with one device on which all of `capacity` may be used, and the fleet that its files describe. Who
    sleeps keeps `residue` on the device."""
    models = [
        model(
            kind.name,
            vram=kind.size,
            engine="vllm" if kind.wake is not None else "llama-server",
            command=SIZED if kind.wake is not None else ("llama-server",),
            load_timeout=600.0,
        )
        for kind in kinds
    ]
    natures = {
        kind.name: Nature(
            kind.size,
            load=kind.load,
            reads=min(kind.size / DISK, kind.load),
            stop=STOPPING - LAG,
            lag=LAG,
            residue=residue,
            wake={1: kind.wake or 0.0, 2: 3 * (kind.wake or 0.0)},
        )
        for kind in kinds
    }
    return World(fleet(models, reserve=0, wait=wait, **settings), {"gpu0": capacity}, natures)


def one_after_another(trace: Trace, kinds: Sequence[Kind], capacity: Bytes) -> Replayed:
    """Each request is sent when the one before has ended, not before its time: who is evicted is all that counts."""
    with world(kinds, capacity, min_residency=0.0) as here:
        for arrival in trace:
            here.advance(max(arrival.at - here.now, 0.0))
            request = here.send(arrival.model, 0.1)
            assert request.task is not None
            here.run(asyncio.wait_for(request.task, None))
            here.check()
        return _outcome(here, trace, kinds)


def as_they_come(
    trace: Trace, kinds: Sequence[Kind], capacity: Bytes, wait: Seconds = ENDLESS, residue: Bytes = RESIDUE
) -> Replayed:
    """Each request is sent at its time, whatever became of the others. None waits longer than `wait`."""
    with world(kinds, capacity, wait, residue) as here:
        for arrival in trace:
            here.advance(max(arrival.at - here.now, 0.0))
            here.send(arrival.model, arrival.work)
        while any(not request.ended for request in here.requests):
            here.advance(60.0)
        return _outcome(here, trace, kinds)


def _outcome(here: World, trace: Trace, kinds: Sequence[Kind]) -> Replayed:
    starts, wakes = here.audit.starts_of, here.audit.wakes_of
    found = Replayed(loads=sum(starts.values()), wakes=sum(wakes.values()))
    found.cost = sum(
        kind.load * starts.get(kind.name, 0) + (kind.wake or 0.0) * wakes.get(kind.name, 0) for kind in kinds
    )
    for arrival, request in zip(trace, here.requests, strict=True):
        if request.waited is None:
            found.refused.append(arrival)
        else:
            found.waits.append((arrival, request.waited))
    since: dict[str, Seconds] = {}
    for record in here.journal.all:
        if record.event is Event.READY:
            since[record.model] = record.time
        elif record.event is Event.STEP and record.fields["step"] in ("stop", "sleep") and record.model in since:
            found.spans.append((record.model, since.pop(record.model), record.time))
    found.spans += [(name, begin, here.now) for name, begin in since.items()]
    return found
