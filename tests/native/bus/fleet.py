"""A fleet in memory behind the operations that the bus serves: models change as a test says, nothing is started."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from aitherd.conductor.operations import Grant, Lease, ModelStatus, Use
from aitherd.conductor.records import Event, Records
from aitherd.core.callers import ANYBODY, Caller
from aitherd.core.words import (
    Claim,
    DeviceView,
    Endpoint,
    Holder,
    Plan,
    Refusal,
    RefusalKind,
    Residency,
    ResidencyClass,
    Seconds,
    Step,
    Verb,
)
from aitherd.errors import CannotFit, StartFailed, UnknownLease, UnknownModel

GIB = 2**30
NOW: Seconds = 1_700_000_000.0

CARD = DeviceView(
    id="gpu0",
    name="NVIDIA GeForce RTX 5090",
    total=32 * GIB,
    free=7 * GIB,
    reserve=GIB // 2,
    foreign=(Claim("gnome-shell", 4711, "gpu0", 300 * 2**20),),
)


def model(name: str, **changes: Any) -> ModelStatus:
    """A model that has never been used."""
    status = ModelStatus(
        name=name,
        description=f"what {name} does",
        engine="llama-server",
        residency_class=ResidencyClass.ON_DEMAND,
        residency=Residency.ABSENT,
        level=0,
        serves=(),
        can=("chat",),
        unit=f"aither-{name}-engine.service",
        model_unit=f"aither-{name}.service",
        declared=5 * GIB,
        expected=5 * GIB,
        measured={},
        in_flight=0,
        waiting=0,
        held=False,
        busy=False,
        since=NOW,
        last_used=0.0,
        stops_at=0.0,
        endpoint=None,
        command=("llama-server", "--alias", name),
        error="",
        stage="",
    )
    return replace(status, **changes)


class SmallFleet:
    """`Operations` over a dictionary."""

    def __init__(self) -> None:
        self.models = {
            one.name: one
            for one in (
                model("vision", serves=("qwen2.5-vl",)),
                model(
                    "orchestrator",
                    residency_class=ResidencyClass.ESSENTIAL,
                    residency=Residency.READY,
                    measured={"gpu0": 19 * GIB},
                    endpoint=Endpoint(socket="/run/aither-engine/orchestrator/http.sock"),
                ),
                model("broken", residency=Residency.FAILED, error="exited with status 1; see aitherctl logs broken"),
                # Names that are no identifiers.
                model("0.5b-draft"),
            )
        }
        self.cards = (CARD,)
        self.faults: tuple[str, ...] = ()
        self.gate = asyncio.Event()
        """While clear, starts do not finish."""
        self.gate.set()
        self.demands: dict[str, int] = {}
        """Callers that wait for a model."""
        self.stopped: list[tuple[str, bool]] = []
        self.records = Records(lambda: NOW)
        self._subscribers: list[Callable[[str], None]] = []

    def change(self, name: str, **changes: Any) -> None:
        """Changes a model and tells of it."""
        self.models[name] = replace(self.models[name], **changes)
        self.tell(name)

    def tell(self, name: str) -> None:
        """Tells of a change, be there one or not."""
        for changed in self._subscribers:
            changed(name)

    def resolve(self, name: str) -> str:
        for one in self.models.values():
            if name == one.name or name in one.serves:
                return one.name
        raise UnknownModel(f"no model is called {name}", remedy=f"there is {', '.join(self.models)}")

    def try_use(self, model: str) -> Use | None:
        raise NotImplementedError("the bus uses no model")

    def look(self, model: str, method: str, path: str) -> Use | None:
        raise NotImplementedError("the bus looks at no engine")

    async def use(self, model: str, timeout: Seconds | None = None, caller: Caller = ANYBODY) -> Use:
        raise NotImplementedError("the bus uses no model")

    async def start(self, model: str) -> None:
        if model == "broken":
            raise StartFailed("broken did not become ready: exited with status 1", remedy="see aitherctl logs broken")
        self.demands[model] = self.demands.get(model, 0) + 1
        try:
            self.change(model, residency=Residency.STARTING, stage="waiting for the gate")
            await self.gate.wait()
        finally:
            self.demands[model] -= 1
        self.change(model, residency=Residency.READY, stage="", measured={"gpu0": 5 * GIB})

    async def hold(self, model: str) -> None:
        await self.start(model)
        self.change(model, held=True)

    async def release(self, model: str) -> None:
        self.change(model, held=False)

    async def stop(self, model: str, *, force: bool = False) -> None:
        self.stopped.append((model, force))
        self.records.add(Event.STOPPED, f"{model} is stopped", model=model, bytes=5 * GIB, seconds=0.5, forced=force)
        self.change(model, residency=Residency.ABSENT, held=False, measured={})

    async def sleep(self, model: str, level: int = 0) -> None:
        self.change(model, residency=Residency.SLEEPING, level=max(level, 1), held=False)

    async def wake(self, model: str) -> None:
        self.change(model, residency=Residency.READY, level=0)

    async def plan(self, model: str) -> Plan | Refusal:
        if model == "broken":
            holder = Holder("orchestrator", "gpu0", 19 * GIB, "essential")
            return Refusal(model, RefusalKind.NEVER, 3 * GIB, (holder,), "3 GiB are missing for ever")
        steps = (
            Step(Verb.STOP, "embedder", {"gpu0": -2 * GIB}, 2.0, "idle for 5 min"),
            Step(Verb.START, model, {"gpu0": 5 * GIB}, 8.0, "wanted"),
        )
        return Plan(model, steps, ("gpu0",), {"gpu0": 3 * GIB}, "fits after one stop")

    def status(self, model: str) -> ModelStatus:
        try:
            return self.models[model]
        except KeyError:
            raise UnknownModel(f"no model is called {model}") from None

    def statuses(self) -> tuple[ModelStatus, ...]:
        return tuple(self.models[name] for name in sorted(self.models))

    def devices(self) -> tuple[DeviceView, ...]:
        return self.cards

    def problems(self) -> tuple[str, ...]:
        return self.faults

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        self._subscribers.append(changed)
        return lambda: self._subscribers.remove(changed)

    def configure(self, models: Mapping[str, ModelStatus]) -> None:
        """What a reload does: other models, and word of it."""
        self.models = dict(models)
        self.tell("")


class SmallLeasing:
    """`Leasing` without devices: every lease is granted once the gate is open."""

    def __init__(self, fleet: SmallFleet) -> None:
        self._fleet = fleet
        self.leases: dict[str, Lease] = {}
        self.held: dict[str, socket.socket] = {}
        """Our ends."""
        self.gate = asyncio.Event()
        self.gate.set()

    async def acquire(
        self,
        count: int,
        device: str | None,
        purpose: str,
        pid: int,
        seconds: Seconds = 0.0,
        timeout: Seconds | None = None,
    ) -> Grant:
        if count > CARD.total:
            raise CannotFit("a lease needs too much, 8 GiB short", remedy="ask for less")
        id = f"a{len(self.leases)}"
        lease = Lease(id, purpose, count, device or "", 0, pid, NOW, 0.0, waiting=True, stage="waiting for the gate")
        self.leases[id] = lease
        self._fleet.tell("")
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            del self.leases[id]
            self._fleet.tell("")
            raise
        ends = NOW + seconds if seconds else 0.0
        self.leases[id] = replace(lease, waiting=False, device="gpu0", stage="", ends=ends)
        self._fleet.tell("")
        self.held[id], theirs = socket.socketpair()
        return Grant(id, "gpu0", theirs)

    async def release(self, id: str) -> None:
        if id not in self.leases:
            raise UnknownLease(f"there is no lease {id}")
        del self.leases[id]
        self.held.pop(id).close()
        self._fleet.tell("")

    def list(self) -> tuple[Lease, ...]:
        return tuple(self.leases.values())
