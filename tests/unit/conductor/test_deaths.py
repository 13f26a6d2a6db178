"""Engines that end by themselves, or do not come up, on a machine that does not make it easy: a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aitherd.conductor.records import Event
from aitherd.core.words import Residency, ResidencyClass
from aitherd.errors import HostFailure
from aitherd.host.systemd import UnitStatus
from tests.simulator.manager import Manager
from tests.simulator.world import World, model
from tests.unit.conductor.test_scheduling import GIB, machine, residency, told


def test_an_essential_model_that_ended_comes_back_once_its_bytes_have_however_late() -> None:
    with machine([model("orchestrator", vram=8 * GIB, residency_class=ResidencyClass.ESSENTIAL)]) as world:
        world.advance(20.0)
        world.machine.natures["orchestrator"].lag = 120.0
        world.machine.crash("orchestrator")
        world.advance(60.0)
        assert residency(world, "orchestrator") is Residency.QUARANTINED
        said = "orchestrator: 8 GiB on gpu0 did not come back after it ended; they are left alone until they return"
        assert told(world, Event.QUARANTINED, "orchestrator") == [said]
        assert world.conductor.problems() == (said.partition(";")[0],)
        samples = world.machine.samples
        world.advance(30.0)
        # Looked at as often as anything that is up, and not for the sake of who cannot come in.
        assert world.machine.samples - samples <= 30 / 5 + 1
        world.advance(60.0)
        assert residency(world, "orchestrator") is Residency.READY and world.conductor.problems() == ()


def test_a_start_that_fails_and_leaves_bytes_behind_says_what_is_missing() -> None:
    with machine([model("chat", vram=8 * GIB, load_timeout=20.0)]) as world:
        world.machine.natures["chat"].hangs = True
        world.machine.natures["chat"].lag = 600.0
        request = world.send("chat", work=1.0)
        world.advance(60.0)
        assert request.error is not None and "did not answer within 20 s" in request.error.message
        missing = "chat: 8 GiB on gpu0 did not come back after it was stopped"
        assert world.conductor.problems() == (missing,)
        assert [why.partition(";")[0] for why in told(world, Event.QUARANTINED, "chat")] == [missing]


def test_one_that_is_started_anew_before_its_bytes_are_back_has_lost_none() -> None:
    with machine([model("chat", vram=4 * GIB)]) as world:
        world.send("chat", work=1.0)
        world.advance(20.0)
        world.machine.natures["chat"].lag = 60.0
        world.machine.crash("chat")
        world.advance(3.0)
        request = world.send("chat", work=1.0)
        world.advance(30.0)
        assert request.served is not None and residency(world, "chat") is Residency.READY
        assert not world.conductor.books["chat"].lost and world.conductor.devices()[0].quarantined == 0


class Deaf(Manager):
    """A service manager that may be too busy to say how a unit is."""

    silent = False

    async def unit(self, name: str) -> UnitStatus | None:
        if self.silent:
            raise HostFailure(f"state of {name}: no answer in time")
        return await super().unit(name)


@contextmanager
def deaf(world: World) -> Iterator[None]:
    """Meanwhile nothing is told of any unit."""
    world.manager.__class__ = Deaf
    world.manager.silent = True  # type: ignore[attr-defined]
    yield
    world.manager.silent = False  # type: ignore[attr-defined]


def test_a_death_is_heard_of_although_the_manager_does_not_answer_at_first() -> None:
    with machine([model("orchestrator", vram=8 * GIB, residency_class=ResidencyClass.ESSENTIAL)]) as world:
        world.advance(20.0)
        with deaf(world):
            world.machine.crash("orchestrator")
            world.advance(60.0)
        world.advance(60.0)
        assert world.machine.engines.keys() == {"orchestrator"}
        assert residency(world, "orchestrator") is Residency.READY


def test_an_engine_that_ends_is_booked_although_nobody_says_why() -> None:
    with machine([model("orchestrator", vram=8 * GIB, residency_class=ResidencyClass.ESSENTIAL)]) as world:
        world.advance(20.0)
        world.machine.crash("orchestrator")
        # It is seen to be gone; then it is asked why.
        world.run(asyncio.sleep(0))
        world.run(asyncio.sleep(0))
        with deaf(world):
            world.advance(20.0)
        world.advance(60.0)
        assert residency(world, "orchestrator") is Residency.READY


def test_a_start_that_fails_is_cleared_away_although_nobody_says_why() -> None:
    with machine([model("chat", vram=8 * GIB, load_timeout=20.0)]) as world:
        world.machine.natures["chat"].hangs = True
        request = world.send("chat", work=1.0)
        world.advance(10.0)
        with deaf(world):
            world.advance(20.0)
        assert request.error is not None and "did not answer within 20 s" in request.error.message
        assert not world.machine.engines and residency(world, "chat") is Residency.FAILED
        world.machine.natures["chat"].hangs = False
        again = world.send("chat", work=1.0)
        world.advance(60.0)
        assert again.served is not None or again.error is not None
