"""The whole conductor in a machine that lags, lies, leaks and crashes: after every step the rules of the design hold.

Requests of people and of batch jobs, holds, stops and leases meet a machine on which everything goes wrong. What the
rules are is in `tests/simulator/audit.py`. They are checked after each of the up to 50 steps of 220 machines, some
10,000 times, in about 50 s of one core.
HYPOTHESIS_PROFILE=slow looks at many more, and makes what it finds small, which takes minutes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aitherd.core.callers import Caller
from aitherd.core.words import Priority, Residency, ResidencyClass
from aitherd.errors import AitherError, CannotFit, Hopeless, QueueFull, StartFailed, UnknownLease
from tests.simulator.engines import Nature
from tests.simulator.machine import Sight
from tests.simulator.world import SLEEPER, Request, World, fleet, model

GIB = 1 << 30
WAIT = 90.0
"""How long requests wait at most, in seconds."""
CALM = 400.0
"""Seconds after which a machine that is well again has recovered: the longest back-off, wait, load and stop."""
SERVED = 120.0
"""Seconds within which an idle, healthy machine brings any model in."""

ORCHESTRATOR = model(
    "orchestrator",
    engine="vllm",
    command=SLEEPER,
    residency_class=ResidencyClass.ESSENTIAL,
    vram=8 * GIB,
    devices=("gpu0",),
    load_timeout=60.0,
)
OTHERS = {
    other.name: other
    for other in (
        model("chat", vram=9 * GIB, idle=300.0, load_timeout=60.0, max_waiting=3),
        model("coder", vram=12 * GIB, engine="vllm", command=SLEEPER, load_timeout=60.0),
        model(
            "writer",
            vram=10 * GIB,
            engine="vllm",
            command=(*SLEEPER, "--kv-cache-memory-bytes=2G"),
            load_timeout=60.0,
        ),
        model("embed", vram=2 * GIB, residency_class=ResidencyClass.RESIDENT, load_timeout=60.0),
        model("images", vram=10 * GIB, engine="comfyui", port=8188, idle=100.0, load_timeout=60.0),
        model("voice", vram=4 * GIB, swap_slot="heavy", load_timeout=60.0, idle=40.0, max_waiting=2),
        model("reader", vram=5 * GIB, swap_slot="heavy", load_timeout=60.0),
        model("giant", vram=20 * GIB, load_timeout=60.0),
        model("wide", vram=12 * GIB, span=2, load_timeout=60.0),
    )
}
PERSON, JOB = Caller("person"), Caller("job", Priority.BATCH)
callers = st.sampled_from([PERSON, JOB])
models = st.integers(0, 5)
"""Which of the machine's models; there are up to six."""
devices = st.sampled_from(["gpu0", "gpu1"])
pauses = st.sampled_from([0.0, 0.01, 0.3, 1.0, 6.0, 30.0])
WISHES = ("start", "hold", "release", "release", "stop", "stop", "force")
SPOILT = (
    *("crash", "crash", "fails", "hangs", "refuses", "stubborn", "leaks", "lags", "grows", "works"),
    *("mends", "mends", "mends"),
)


class Workstation(RuleBasedStateMachine):
    """One machine from the start of its daemon until everything has come to an end."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None
        self.operations: list[asyncio.Task[None]] = []
        self.leases: list[asyncio.Task[None]] = []
        self.patient: list[tuple[Request, float]] = []
        """Requests with the time that they would wait."""

    @initialize(
        others=st.sets(st.sampled_from(sorted(OTHERS)), min_size=2, max_size=5),
        second=st.booleans(),
        load=st.sampled_from([0.5, 5.0, 25.0]),
        memory=st.sampled_from([64, 24, 16, 8]),
    )
    def boot(self, others: set[str], second: bool, load: float, memory: int) -> None:
        models = [ORCHESTRATOR, *(OTHERS[name] for name in sorted(others))]
        totals = {"gpu0": 24 * GIB} | ({"gpu1": 16 * GIB} if second else {})
        natures = {one.name: Nature(one.vram, load=load) for one in models}
        self.world = World(
            fleet(models, wait=WAIT, return_timeout=5.0, min_residency=5.0, age_bound=10.0), totals, natures
        )
        self.world.machine.memory_total = memory * GIB
        self.world.__enter__()

    @property
    def here(self) -> World:
        assert self.world is not None
        return self.world

    def _name(self, which: int) -> str:
        """One of the models that there are: drawing from all that there might be would mostly do nothing."""
        known = sorted(self.here.conductor.books)
        return known[which % len(known)]

    # --- what clients and people do --------------------------------------------------------------------------------

    @rule(
        which=models,
        work=st.sampled_from([0.0, 2.0, 30.0]),
        timeout=st.sampled_from([None, None, 3.0, 20.0]),
        caller=callers,
        then=pauses,
    )
    def ask(self, which: int, work: float, timeout: float | None, caller: Caller, then: float) -> None:
        book = self.here.conductor.books[self._name(which)]
        ready = book.residency is Residency.READY and not book.stop_wanted
        request = self.here.send(book.name, work, timeout, caller)
        self.patient.append((request, timeout or WAIT))
        self._settle()
        assert not ready or request.served == request.sent, "a ready model serves at once"
        if isinstance(request.error, QueueFull) and caller is PERSON:
            assert all(waiter.caller is PERSON for waiter in book.waiters if waiter.wants_claim), (
                "batch gives its place"
            )
        self.here.advance(then)

    @rule(
        wanted=st.sets(models, min_size=2, max_size=4),
        work=st.sampled_from([1.0, 20.0]),
        caller=callers,
        then=pauses,
    )
    def ask_many(self, wanted: set[int], work: float, caller: Caller, then: float) -> None:
        for name in sorted({self._name(which) for which in wanted}):
            self.here.send(name, work, None, caller)
        self.here.advance(then)

    @rule(
        part=st.sampled_from([0.05, 0.2, 0.6, 3.0]),
        device=st.sampled_from(["gpu0", "gpu0", "gpu1", None]),
        seconds=st.sampled_from([0.0, 20.0, 100.0]),
        then=pauses,
    )
    def lease(self, part: float, device: str | None, seconds: float, then: float) -> None:
        """Another program wants a part of the first device's size."""
        count = int(part * self.here.machine.totals["gpu0"])
        self.leases.append(self.here.loop.create_task(self._lease(count, device, seconds)))
        self.here.advance(then)

    @rule(choice=st.integers(0, 100))
    def lease_ends(self, choice: int) -> None:
        """One that waits is withdrawn, or one in force released."""
        if self.leases:
            self.leases[choice % len(self.leases)].cancel()

    async def _lease(self, count: int, device: str | None, seconds: float) -> None:
        leasing = self.here.conductor.leasing
        try:
            grant = await leasing.acquire(count, device, "a game", os.getpid(), seconds, WAIT)
        except AitherError:
            return
        self.here.audit.granted(grant.id, count, grant.device)
        try:
            await asyncio.sleep(seconds or CALM)
        finally:
            grant.descriptor.close()
            with suppress(UnknownLease):
                await leasing.release(grant.id)

    @rule(choice=st.integers(0, 100))
    def go_away(self, choice: int) -> None:
        waiting = [request for request in self.here.requests if not request.ended]
        if waiting:
            task = waiting[choice % len(waiting)].task
            assert task is not None
            task.cancel()

    @rule(which=models, what=st.sampled_from(WISHES), then=pauses)
    def tell(self, which: int, what: str, then: float) -> None:
        conductor, name = self.here.conductor, self._name(which)
        match what:
            case "start":
                self._operate(conductor.start(name))
            case "hold":
                self._operate(conductor.hold(name))
            case "release":
                self._operate(conductor.release(name))
            case _:
                self._operate(conductor.stop(name, force=what == "force"))
        self.here.advance(then)

    @rule(seconds=st.sampled_from([0.3, 4.0, 15.0, 40.0, 120.0]))
    def wait(self, seconds: float) -> None:
        self.here.advance(seconds)

    # --- what befalls the machine ----------------------------------------------------------------------------------

    @rule(which=models, how=st.sampled_from(SPOILT), then=pauses)
    def spoil(self, which: int, how: str, then: float) -> None:
        name = self._name(which)
        nature = self.here.machine.natures[name]
        match how:
            case "crash":
                self.here.machine.crash(name)
            case "leaks":
                nature.leaks = 0.5
            case "lags":
                nature.lag = 4.0
            case "grows":
                self.here.audit.liars.add(name)
                nature.footprint = self.here.conductor.fleet.models[name].vram * 6 // 5
            case "works":
                if engine := self.here.machine.engines.get(name):
                    engine.jobs = 1
            case "mends":
                self.here.machine.mend_model(name)
            case _:
                setattr(nature, how, True)
        self.here.advance(then)

    @rule(device=devices, part=st.sampled_from([0.0, 0.1, 0.4, 1.0]), then=pauses)
    def others_take(self, device: str, part: float, then: float) -> None:
        machine = self.here.machine
        if device in machine.totals:
            machine.take(f"game on {device}", device, int(machine.totals[device] * part))
        self.here.advance(then)

    @rule(sight=st.sampled_from([Sight.TRUE, *Sight]), slow=st.sampled_from([0.0, 0.0, 0.02, 1.5]), then=pauses)
    def see(self, sight: Sight, slow: float, then: float) -> None:
        self.here.machine.sight, self.here.machine.measuring = sight, slow
        self.here.advance(then)
        if then > 1.0:
            self.here.machine.sight = Sight.TRUE

    @rule(now=st.sampled_from([False, False, False, True]))
    def restart(self, now: bool) -> None:
        if now:
            self.here.restart()

    # --- what holds ------------------------------------------------------------------------------------------------

    @invariant()
    def rules_hold(self) -> None:
        if self.world is not None:
            self._settle()
            for request in self.here.requests:
                assert request.ended <= 1, "a request ends once"
                if request.waited is not None:
                    assert request.waited <= WAIT + 0.001, f"{request} waited too long"
            for request, bound in self.patient:
                late = self.here.now - request.sent > bound + 0.001
                assert not late or request.served is not None or request.ended, f"{request} waits beyond its bound"
                if isinstance(request.error, Hopeless):
                    assert request.error.retry_after is not None and request.served is None

    def _settle(self) -> None:
        """Lets everything happen that happens at this instant."""
        self.here.run(asyncio.sleep(0.0001))
        self.here.check()

    def _operate(self, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
            except AitherError:
                return

        self.operations.append(self.here.loop.create_task(run()))

    # --- how it ends -----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if self.world is None:
            return
        try:
            self._end()
        finally:
            self.world.__exit__(None, None, None)

    def _end(self) -> None:
        world = self.here
        for request in world.requests:
            if request.task is not None and request.served is not None:
                request.task.cancel()
        world.machine.mend()
        for program in list(world.machine.foreign):
            del world.machine.foreign[program]
        for lease in self.leases:
            lease.cancel()
        for book in world.conductor.books.values():
            self._operate(world.conductor.release(book.name))
        world.advance(CALM)
        assert all(request.ended == 1 for request in world.requests), "every request ends"
        assert all(task.done() for task in self.operations), "every operation ends"
        assert not world.conductor.leasing.list(), "every lease ends"
        for task in self.operations:
            # One that the daemon took with it when it was killed has no result.
            if not task.cancelled():
                task.result()
        up = {book.name for book in world.conductor.books.values() if book.alive}
        assert up == set(world.machine.engines), "what is booked is what runs"
        for name in sorted(world.conductor.books):
            request = world.send(name, 0.1)
            world.advance(SERVED)
            self._serves(request)

    def _serves(self, request: Request) -> None:
        assert request.ended == 1
        honest = request.model not in self.here.audit.liars
        fair = CannotFit if honest else (CannotFit, StartFailed)
        assert request.served is not None or isinstance(request.error, fair), f"{request} in a healthy machine"


SLOW = os.environ.get("HYPOTHESIS_PROFILE") == "slow"
TestWorkstation = Workstation.TestCase
TestWorkstation.settings = settings(
    max_examples=3000 if SLOW else 220,
    stateful_step_count=80 if SLOW else 50,
    phases=tuple(phase for phase in Phase if SLOW or phase is not Phase.shrink),
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
