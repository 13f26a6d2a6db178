"""Engines that lie about their health, and those that are merely busy, under a virtual clock."""

from __future__ import annotations

from aitherd.conductor.records import Event
from aitherd.core.vitality import STILL
from aitherd.core.words import Residency, ResidencyClass
from tests.simulator.world import SLEEPER, World, model
from tests.unit.conductor.test_scheduling import GIB, machine, residency, told

KINDS = {"engine": "vllm", "command": SLEEPER, "vram": 8 * GIB, "can": ("chat",)}


def starts(world: World, name: str) -> int:
    return sum("starting" in why for why in told(world, Event.STEP, name))


def test_an_engine_that_works_for_an_hour_on_one_answer_is_left_alone() -> None:
    with machine([model("busy", **KINDS)]) as world:
        request = world.send("busy", work=3600.0)
        world.advance(3700.0)
        assert request.served is not None and request.error is None
        assert told(world, Event.DOUBTED, "busy") == []
        assert starts(world, "busy") == 1


def test_one_whose_counters_stand_still_under_requests_is_ended_and_started_anew() -> None:
    with machine([model("hung", **KINDS, residency_class=ResidencyClass.RESIDENT)]) as world:
        world.send("hung", work=3600.0)
        world.advance(20.0)
        world.machine.natures["hung"].mute = True
        world.advance(STILL / 2)
        assert told(world, Event.DOUBTED, "hung") == []
        world.advance(STILL + 30.0)
        assert len(told(world, Event.DOUBTED, "hung")) == 1
        assert "calls itself ready and is not" in told(world, Event.FAILED, "hung")[0]
        world.machine.natures["hung"].mute = False
        world.advance(60.0)
        assert residency(world, "hung") is Residency.READY and starts(world, "hung") == 2


def test_the_clocks_tell_of_a_suspend_and_an_essential_engine_that_did_not_survive_it_comes_back() -> None:
    models = [
        model("essential", **KINDS, residency_class=ResidencyClass.ESSENTIAL),
        model("idle", vram=4 * GIB, idle=100.0),
    ]
    with machine(models) as world:
        world.send("idle", work=1.0)
        world.advance(30.0)
        assert residency(world, "idle") is residency(world, "essential") is Residency.READY
        world.machine.natures["essential"].mute = True
        world.machine.slept = 8 * 3600.0
        world.advance(6.0)
        assert [record.event for record in world.journal.all if record.event is Event.RESUMED]
        waits = world.send("essential", work=1.0)
        world.advance(1.0)
        # Eight hours on the wall are none of idling, and nobody is sent to an engine that has not shown that it works.
        assert residency(world, "idle") is Residency.READY and not waits.ended
        world.advance(25.0)
        assert told(world, Event.FAILED, "essential")
        world.machine.natures["essential"].mute = False
        world.advance(30.0)
        assert residency(world, "essential") is Residency.READY and waits.served is not None
        assert world.conductor.books["essential"].held


def test_a_canary_does_not_keep_a_model_from_idling_out() -> None:
    with machine([model("idle", **KINDS, idle=60.0)]) as world:
        world.send("idle", work=1.0)
        world.advance(40.0)
        world.machine.slept = 100.0
        world.advance(10.0)
        assert len(told(world, Event.DOUBTED, "idle")) == 1 and residency(world, "idle") is Residency.READY
        world.advance(30.0)
        assert residency(world, "idle") is Residency.ABSENT
