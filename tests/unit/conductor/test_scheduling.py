"""Who moves when, on a simulated machine under a virtual clock: the conductor is the daemon's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from aitherd.conductor.outlook import Outlooks
from aitherd.conductor.records import Event
from aitherd.config import Fleet, Model
from aitherd.core.host import STALLED
from aitherd.core.words import HOST, Residency
from aitherd.errors import DeviceBlind, Hopeless
from tests.simulator.engines import Nature
from tests.simulator.machine import DRIVER, Sight
from tests.simulator.world import SLEEPER, World, fleet, model

GIB = 1 << 30


def machine(models: Iterable[Model], devices: int = 1, load: float = 5.0, **settings: float) -> World:
    """A machine with devices of 16 GiB, on which these models load in 5 s."""
    known = list(models)
    given = {"min_residency": 0.0, "age_bound": 10.0, **settings}
    natures = {one.name: Nature(one.vram, load=load) for one in known}
    return World(fleet(known, **given), {f"gpu{index}": 16 * GIB for index in range(devices)}, natures)


def residency(world: World, name: str) -> Residency:
    return world.conductor.books[name].residency


def told(world: World, event: Event, name: str) -> list[str]:
    return [record.message for record in world.journal.all if record.event is event and record.model == name]


def test_a_busy_model_that_a_person_stops_does_not_keep_others_from_its_device_while_it_drains() -> None:
    with machine([model("long", vram=4 * GIB), model("other", vram=4 * GIB)]) as world:
        request = world.send("long", work=600.0)
        world.advance(10.0)
        assert request.served is not None
        stop = world.loop.create_task(world.conductor.stop("long"))
        world.advance(1.0)
        other = world.send("other", work=1.0)
        world.advance(20.0)
        assert other.served is not None and not stop.done()
        status = world.conductor.status("long")
        assert status.residency is Residency.STOPPING and "in flight" in status.stage
        late = world.send("long", work=1.0)
        world.advance(600.0)
        assert stop.done() and request.error is None and request.ended == 1
        # Who came while it was on its way down has it brought back.
        assert late.served is not None and late.served > request.sent + 600.0


def test_force_ends_a_drain_that_waits() -> None:
    with machine([model("long", vram=4 * GIB)]) as world:
        world.send("long", work=600.0)
        world.advance(10.0)
        stop = world.loop.create_task(world.conductor.stop("long"))
        world.advance(5.0)
        assert not stop.done()
        force = world.loop.create_task(world.conductor.stop("long", force=True))
        world.advance(5.0)
        assert stop.done() and force.done() and residency(world, "long") is Residency.ABSENT


def test_a_model_that_is_held_while_it_drains_for_another_is_kept() -> None:
    with machine([model("long", vram=10 * GIB), model("other", vram=10 * GIB)]) as world:
        world.send("long", work=300.0)
        world.advance(10.0)
        other = world.send("other", work=1.0)
        while residency(world, "long") is not Residency.STOPPING:
            world.advance(0.5)
        hold = world.loop.create_task(world.conductor.hold("long"))
        world.advance(0.5)
        assert residency(world, "long") is Residency.READY
        assert hold.done() and world.audit.starts_of["long"] == 1
        assert told(world, Event.LAGGING, "long") == ["long is held now; it is kept for now"]
        world.run(world.conductor.release("long"))
        world.advance(700.0)
        assert other.served is not None


def test_what_others_took_during_a_load_is_not_learned_as_its_footprint() -> None:
    models = [
        model("images", vram=8 * GIB, engine="comfyui", port=8188),
        model("chat", vram=12 * GIB),
    ]
    with machine(models, load=8.0) as world:
        world.send("images", work=0.5)
        world.advance(20.0)
        request = world.send("chat", work=1.0)
        while residency(world, "chat") is not Residency.STARTING:
            world.advance(0.2)
        assert told(world, Event.STEP, "images")[-1].startswith("freeing images")
        # It works again before the other has taken its bytes.
        again = world.send("images", work=0.5)
        world.advance(60.0)
        assert request.served is not None and again.served is not None
        assert "once more, since others took its room meanwhile" in " ".join(told(world, Event.LAGGING, "chat"))
        assert world.conductor.books["chat"].expected() == 12 * GIB


def test_who_needs_more_than_its_file_says_is_given_more() -> None:
    with machine([model("chat", vram=8 * GIB)]) as world:
        world.audit.liars.add("chat")
        world.machine.take("game", "gpu0", 7 * GIB)
        world.machine.natures["chat"].footprint = 9 * GIB + GIB // 2
        request = world.send("chat", work=1.0)
        world.advance(30.0)
        assert "once more with a margin" in " ".join(told(world, Event.LAGGING, "chat"))
        assert world.conductor.books["chat"].expected() > 8 * GIB
        assert request.served is None


def test_who_was_refused_comes_in_as_soon_as_the_reason_is_gone() -> None:
    with machine([model("long", vram=10 * GIB), model("other", vram=10 * GIB)], age_bound=1e6) as world:
        busy = world.send("long", work=30.0)
        world.advance(10.0)
        other = world.send("other", work=1.0)
        world.advance(1.0)
        assert busy.served is not None and not other.ended
        gone = busy.served + 30.0
        world.advance(gone + 10.0 - world.now)
        assert other.served is not None
        # The drain is seen at once, and a stop and a load take no more than they take.
        assert other.served - gone < 1.0 + 0.3 + 5.0 + 0.5


def test_a_fleet_in_which_nothing_changes_is_not_measured_over_and_over_for_one_who_was_refused() -> None:
    with machine([model("long", vram=10 * GIB), model("other", vram=10 * GIB)], age_bound=1e6) as world:
        world.send("long", work=1000.0)
        world.advance(10.0)
        world.send("other", work=1.0)
        world.advance(10.0)
        before = world.machine.samples
        world.advance(100.0)
        # By the observer every 5 s, and by the slow look at who was refused every 2 s.
        assert world.machine.samples - before <= 100 / 5 + 100 / 2 + 2


def test_a_line_is_looked_at_again_the_moment_it_is_overdue() -> None:
    with machine([model("long", vram=10 * GIB), model("other", vram=10 * GIB)], age_bound=33.3) as world:
        world.conductor.books["other"].learned.observe_start(5.0)
        world.send("long", work=1000.0)
        world.advance(10.0)
        request = world.send("other", work=1.0)
        drained: list[float] = []
        while not drained:
            world.advance(0.05)
            drained = [record.time for record in world.journal.all if record.message.startswith("stopping long")]
        assert drained[0] - request.sent - 33.3 < 0.2


def learned(world: World, **seconds: float) -> None:
    """The models have started in so many seconds before."""
    for name, took in seconds.items():
        world.conductor.books[name].learned.observe_start(took)


def test_a_request_whose_model_cannot_be_ready_in_time_leaves_at_once_and_the_load_goes_on() -> None:
    with machine([model("slow", vram=4 * GIB)], load=40.0) as world:
        learned(world, slow=40.0)
        request = world.send("slow", work=1.0, timeout=20.0)
        patient = world.send("slow", work=1.0, timeout=60.0)
        world.advance(3.0)
        assert isinstance(request.error, Hopeless) and request.error.retry_after is not None
        assert request.error.status == 503 and 30.0 < request.error.retry_after <= 40.0
        assert not patient.ended
        world.advance(50.0)
        assert patient.served is not None


def test_when_the_load_alone_takes_too_long_for_everybody_it_goes_on_for_those_who_come_back() -> None:
    with machine([model("busy", vram=4 * GIB), model("slow", vram=4 * GIB)], load=40.0) as world:
        learned(world, slow=40.0)
        world.send("busy", work=1.0)
        world.advance(5.0)
        request = world.send("slow", work=1.0, timeout=20.0)
        world.advance(3.0)
        assert isinstance(request.error, Hopeless)
        world.advance(90.0)
        assert residency(world, "slow") is Residency.READY


def test_a_request_behind_lines_that_take_too_long_leaves_at_once_and_takes_its_demand_with_it() -> None:
    # Each measures the device while it starts, so they start one after another.
    models = [model(name, vram=4 * GIB, engine="vllm", command=("vllm",)) for name in ("first", "second", "third")]
    with machine(models, load=40.0) as world:
        learned(world, first=40.0, second=40.0, third=40.0)
        first = world.send("first", work=1.0)
        second = [world.send("second", work=1.0) for _ in range(3)]
        world.advance(1.0)
        third = world.send("third", work=1.0, timeout=100.0)
        world.advance(3.0)
        assert isinstance(third.error, Hopeless) and "2 min at best" in third.error.message
        world.advance(200.0)
        assert first.served is not None and all(request.served is not None for request in second)
        assert residency(world, "third") is Residency.ABSENT


def test_nobody_is_given_up_for_what_was_never_seen() -> None:
    with machine([model("new", vram=4 * GIB)], load=2.0) as world:
        # Expected, as long as nothing is known, are 60 s.
        request = world.send("new", work=1.0, timeout=5.0)
        world.advance(5.0)
        assert request.served is not None


def test_what_gives_way_and_who_is_in_front_are_in_what_routing_expects() -> None:
    # The second measures the device while it starts, so that it waits until the first is up.
    second = model("second", vram=4 * GIB, engine="vllm", command=("vllm",))
    with machine([model("old", vram=10 * GIB), model("first", vram=10 * GIB), second], load=40.0) as world:
        learned(world, old=40.0, first=40.0, second=40.0)
        world.conductor.books["old"].learned.observe_stop(7.0)
        outlook = Outlooks(
            world.conductor.books,
            world.conductor.scheduler.forecast,
            world.conductor.scheduler.execution.world,
            world.conductor.clock,
        )

        def expected(name: str) -> float:
            view = outlook(name)
            assert view is not None
            return view.seconds

        assert expected("first") == 40.0
        world.send("old", work=1.0)
        world.advance(60.0)
        assert expected("first") == 47.0
        world.send("first", work=1.0)
        world.advance(0.001)
        assert 80.0 <= expected("second") <= 87.0


def test_one_lost_device_of_two_blinds_only_itself() -> None:
    models = [
        model("here", vram=10 * GIB, devices=("gpu0",)),
        model("there", vram=10 * GIB, devices=("gpu1",)),
        model("anywhere", vram=10 * GIB),
        model("next", vram=10 * GIB, devices=("gpu0",)),
    ]
    with machine(models, devices=2, age_bound=1e6) as world:
        serves_on = world.send("there", work=20.0)
        world.advance(10.0)
        world.machine.sight = Sight.PARTLY
        world.advance(10.0)
        here = world.send("here", work=30.0)
        world.advance(10.0)
        assert serves_on.served is not None and here.served is not None
        there = world.send("there", work=1.0)
        anywhere = world.send("anywhere", work=1.0)
        world.advance(10.0)
        # What ran there serves on. What may stand on the other device waits for it instead of being sent away.
        assert there.served is not None and not anywhere.ended
        world.advance(50.0)
        assert anywhere.served is not None
        world.run(world.conductor.stop("there"))
        lost = world.send("there", work=1.0)
        after = world.send("next", work=1.0)
        world.advance(20.0)
        assert isinstance(lost.error, DeviceBlind) and "gpu1" in lost.error.message
        assert after.served is not None
        assert world.conductor.problems() == ("devices cannot be measured: gpu1: GPU is lost; reset or reboot",)


def test_sleepers_compete_for_host_memory_and_the_one_that_is_used_least_leaves() -> None:
    kinds = {"engine": "vllm", "command": SLEEPER, "vram": 12 * GIB}
    models = [model("old", **kinds), model("often", **kinds), model("other", **kinds)]
    with machine(models, load=60.0, host_reserve=2 * GIB) as world:
        # Room for the weights of one sleeper.
        world.machine.memory_total = 16 * GIB
        for name, times in (("old", 1), ("often", 9), ("other", 1)):
            for _ in range(times):
                request = world.send(name, work=0.1)
                world.advance(100.0)
                assert request.served is not None
            if name == "old":
                world.advance(20000.0)
        books = world.conductor.books
        assert (residency(world, "often"), books["often"].level) == (Residency.SLEEPING, 1)
        assert residency(world, "old") is Residency.ABSENT
        assert any("leaves host memory to who falls asleep" in why for why in told(world, Event.STEP, "old"))


def test_without_host_memory_to_spare_a_model_sleeps_without_its_weights() -> None:
    kinds = {"engine": "vllm", "command": SLEEPER, "vram": 12 * GIB}
    with machine([model("first", **kinds), model("other", **kinds)], load=60.0, host_reserve=2 * GIB) as world:
        world.machine.memory_total = 6 * GIB
        for name in ("first", "other"):
            world.send(name, work=0.1)
            world.advance(100.0)
        assert (residency(world, "first"), world.conductor.books["first"].level) == (Residency.SLEEPING, 2)


def test_a_machine_that_runs_short_of_host_memory_is_relieved_by_its_sleepers() -> None:
    kinds = {"engine": "vllm", "command": SLEEPER, "vram": 12 * GIB}
    with machine([model("first", **kinds), model("other", **kinds)], load=60.0, host_reserve=2 * GIB) as world:
        world.machine.memory_total = 32 * GIB
        for name in ("first", "other"):
            world.send(name, work=0.1)
            world.advance(100.0)
        assert (residency(world, "first"), world.conductor.books["first"].level) == (Residency.SLEEPING, 1)
        # Something else takes what is left.
        world.machine.memory_total = 12 * GIB
        world.advance(15.0)
        assert residency(world, "first") is Residency.ABSENT and residency(world, "other") is Residency.READY


def test_pressure_on_host_memory_ends_sleepers_whatever_is_called_available() -> None:
    kinds = {"engine": "vllm", "command": SLEEPER, "vram": 12 * GIB}
    with machine([model("first", **kinds), model("other", **kinds)], load=60.0, host_reserve=2 * GIB) as world:
        world.machine.memory_total = 32 * GIB
        for name in ("first", "other"):
            world.send(name, work=0.1)
            world.advance(100.0)
        world.machine.stalled = STALLED / 2
        world.advance(15.0)
        assert (residency(world, "first"), world.conductor.books["first"].level) == (Residency.SLEEPING, 1)
        world.machine.stalled = 0.3
        world.advance(15.0)
        assert residency(world, "first") is Residency.ABSENT and residency(world, "other") is Residency.READY
        assert any("programs wait for host memory 30% of the time" in why for why in told(world, Event.STEP, "first"))


def test_on_unified_memory_nobody_sleeps_with_the_weights_in_what_is_to_become_free() -> None:
    kinds = {"engine": "vllm", "command": SLEEPER, "vram": 12 * GIB}
    with machine([model("first", **kinds), model("other", **kinds)], load=60.0) as world:
        world.machine.unified = True
        for name in ("first", "other"):
            world.send(name, work=0.1)
            world.advance(100.0)
        assert (residency(world, "first"), world.conductor.books["first"].level) == (Residency.SLEEPING, 2)


def test_what_was_learned_belongs_to_a_model_its_command_and_the_driver_and_survives_a_restart() -> None:
    with machine([model("chat", vram=4 * GIB)], load=5.0) as world:

        def starts() -> list[float]:
            world.run(world.conductor.stop("chat"))
            world.send("chat", work=0.1)
            world.advance(20.0)
            return list(world.conductor.books["chat"].learned.starts)

        async def apply(fleet: Fleet) -> None:
            world.conductor.apply(fleet)

        as_it_was = world.conductor.fleet
        assert len(starts()) == 1 and len(starts()) == 2
        world.restart()
        assert len(starts()) == 3
        world.machine.driver = "999.2"
        world.advance(10.0)
        assert len(starts()) == 1
        changed = replace(world.conductor.fleet.models["chat"], command=("llama-server", "--ctx-size", "9"))
        world.run(apply(replace(world.conductor.fleet, models={"chat": changed})))
        assert len(starts()) == 1 and len(starts()) == 2
        world.run(apply(as_it_was))
        world.machine.driver = DRIVER
        world.advance(10.0)
        # As it was before, with what was learned then.
        assert len(starts()) == 4


def test_host_memory_that_cannot_be_read_for_a_while_keeps_nobody_from_the_device() -> None:
    models = [
        model("first", vram=10 * GIB, engine="vllm", command=SLEEPER),
        model("second", vram=10 * GIB, engine="vllm", command=SLEEPER),
    ]
    with machine(models) as world:
        assert world.send("first", work=1.0) is not None
        world.advance(20.0)
        world.machine.meminfo = False
        request = world.send("second", work=1.0)
        world.advance(30.0)
        # Nobody is put to sleep where it is not known whether there is room.
        assert request.served is not None and residency(world, "first") is Residency.ABSENT
        assert not next(device for device in world.conductor.devices() if device.id == HOST).fresh
        world.machine.meminfo = True
        world.send("first", work=1.0)
        world.advance(30.0)
        assert residency(world, "second") is Residency.SLEEPING
