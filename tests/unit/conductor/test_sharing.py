"""Who comes up beside whom on a device, in the simulated machine. Who moves next is in `test_scheduling.py`."""

from __future__ import annotations

from aitherd.core.words import Residency
from tests.simulator.world import model
from tests.unit.conductor.test_scheduling import GIB, machine, residency


def test_models_come_up_beside_each_other_unless_one_measures_the_device() -> None:
    sized = ("vllm", "serve", "--kv-cache-memory-bytes=1G")
    models = [
        model("small", vram=2 * GIB),
        model("other", vram=2 * GIB),
        model("sized", vram=4 * GIB, engine="vllm", command=sized),
        model("measures", vram=4 * GIB, engine="vllm", command=("vllm", "serve")),
    ]
    with machine(models, load=20.0) as world:
        beside = [world.send(name, work=1.0) for name in ("small", "sized", "other")]
        world.advance(5.0)
        alone = world.send("measures", work=1.0)
        world.advance(18.0)
        assert all(request.waited is not None and request.waited < 21.0 for request in beside)
        assert world.audit.starts_of["measures"] == 1
        # While it measures nobody else moves.
        world.run(world.conductor.stop("small"))
        late = world.send("small", work=1.0)
        world.advance(60.0)
        assert alone.served is not None and late.served is not None
        assert 20.0 <= alone.served - max(request.served or 0.0 for request in beside) < 21.0
        assert late.served - alone.served > 19.0


def test_room_is_made_for_one_while_another_comes_up_and_what_was_promised_to_that_stays_its() -> None:
    models = [model("old", vram=6 * GIB), model("slow", vram=8 * GIB), model("next", vram=6 * GIB)]
    with machine(models) as world:
        world.machine.natures["slow"].load = 60.0
        world.send("old", work=1.0)
        world.advance(10.0)
        slow = world.send("slow", work=1.0)
        world.advance(5.0)
        request = world.send("next", work=1.0)
        world.advance(15.0)
        assert request.served is not None and residency(world, "old") is Residency.ABSENT
        assert residency(world, "slow") is Residency.STARTING
        world.advance(60.0)
        assert slow.served is not None and world.audit.starts_of["slow"] == 1
