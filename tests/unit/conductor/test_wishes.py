"""What people ask of a model while something else happens to it: other holds, a drain, a new configuration."""

from __future__ import annotations

import pytest

from aitherd.config import Fleet
from aitherd.core.words import Residency, ResidencyClass
from aitherd.errors import UnknownModel
from tests.simulator.world import World, fleet, model
from tests.unit.conductor.test_scheduling import GIB, machine, residency

MODEL = model("chat", vram=10 * GIB)
OTHER = model("other", vram=10 * GIB)


def configure(world: World, new: Fleet) -> None:
    async def apply() -> None:
        world.conductor.apply(new)

    world.run(apply())


def test_a_hold_is_kept_though_the_first_who_asked_for_it_has_left() -> None:
    with machine([MODEL]) as world:
        first, second = (world.loop.create_task(world.conductor.hold("chat")) for _ in range(2))
        world.advance(1.0)
        first.cancel()
        world.advance(20.0)
        assert second.done() and second.exception() is None
        assert world.conductor.books["chat"].held and "aither-chat.service" in world.manager.active


def test_a_hold_that_nobody_waits_for_any_more_is_none() -> None:
    with machine([MODEL]) as world:
        hold = world.loop.create_task(world.conductor.hold("chat"))
        world.advance(1.0)
        hold.cancel()
        world.advance(20.0)
        assert not world.conductor.books["chat"].held


@pytest.mark.parametrize("wish", ["start", "hold"])
def test_who_wants_a_model_that_is_drained_for_a_stop_gets_it_back_afterwards(wish: str) -> None:
    with machine([MODEL]) as world:
        world.send("chat", work=60.0)
        world.advance(10.0)
        stop = world.loop.create_task(world.conductor.stop("chat"))
        world.advance(1.0)
        wanted = world.loop.create_task(getattr(world.conductor, wish)("chat"))
        world.advance(10.0)
        assert not wanted.done()
        world.advance(200.0)
        assert stop.done() and wanted.done() and wanted.exception() is None
        assert residency(world, "chat") is Residency.READY
        assert world.conductor.books["chat"].held == (wish == "hold")


def test_those_who_wait_for_a_model_that_is_configured_no_more_are_told() -> None:
    with machine([MODEL, OTHER]) as world:
        world.send("other", work=1000.0)
        world.advance(10.0)
        request = world.send("chat", work=1.0)
        hold = world.loop.create_task(world.conductor.hold("chat"))
        world.advance(1.0)
        configure(world, fleet([OTHER]))
        world.advance(5.0)
        assert isinstance(request.error, UnknownModel) and isinstance(hold.exception(), UnknownModel)
        assert "chat" not in world.conductor.books


def test_a_model_that_is_configured_no_more_as_its_turn_begins_leaves_in_order() -> None:
    with machine([MODEL, OTHER]) as world:
        world.machine.measuring = 0.5
        world.advance(10.0)
        request = world.send("chat", work=1.0)
        world.advance(0.2)
        configure(world, fleet([OTHER]))
        world.advance(60.0)
        assert isinstance(request.error, UnknownModel)
        assert "chat" not in world.conductor.books and not world.machine.engines


def test_a_second_configuration_without_a_model_that_still_drains_changes_nothing() -> None:
    with machine([MODEL, OTHER]) as world:
        request = world.send("chat", work=30.0)
        world.advance(10.0)
        for _ in range(2):
            configure(world, fleet([OTHER]))
        world.advance(100.0)
        assert request.ended == 1 and request.error is None
        assert "chat" not in world.conductor.books and not world.machine.engines


def test_a_resident_model_that_is_configured_again_while_it_drains_comes_back() -> None:
    resident = model("chat", vram=10 * GIB, residency_class=ResidencyClass.RESIDENT)
    with machine([resident, OTHER]) as world:
        world.advance(10.0)
        world.send("chat", work=30.0)
        world.advance(10.0)
        configure(world, fleet([OTHER]))
        world.advance(1.0)
        configure(world, fleet([resident, OTHER]))
        world.advance(100.0)
        assert residency(world, "chat") is Residency.READY


def test_the_wait_for_a_model_ends_once_whatever_becomes_of_it() -> None:
    with machine([MODEL, OTHER]) as world:
        world.send("other", work=1000.0)
        world.advance(10.0)
        waits = [world.loop.create_task(world.conductor.start("chat")) for _ in range(3)]
        world.advance(1.0)
        waits[0].cancel()
        configure(world, fleet([OTHER]))
        configure(world, fleet([MODEL, OTHER]))
        world.advance(1.0)
        assert all(wait.done() for wait in waits)
        assert isinstance(waits[1].exception(), UnknownModel)
