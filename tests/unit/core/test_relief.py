"""A device that has less left than its reserve is relieved by the idle, the cheapest first, and by nobody else."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitherd.core.eviction import stays
from aitherd.core.policy import DEFAULTS
from aitherd.core.relief import relieve
from aitherd.core.words import HOST, Residency, ResidencyClass, SleepLevel, Verb
from tests.unit.core.worlds import NOW, model, world


def test_a_device_with_its_reserve_is_left_alone() -> None:
    assert relieve(world(model("idle", held=50), totals={"gpu0": 100}, reserve=10), "gpu0", NOW) is None


def test_the_cheapest_that_suffices_gives_way() -> None:
    small, large = model("small", held=5), model("large", held=60, start_seconds=100.0)
    medium = model("medium", held=30, start_seconds=50.0)
    step = relieve(world(small, medium, large, totals={"gpu0": 100}, reserve=20), "gpu0", NOW)
    assert step is not None and (step.verb, step.model, dict(step.takes)) == (Verb.STOP, "medium", {"gpu0": -30})


def test_where_one_does_not_suffice_the_best_bargain_begins() -> None:
    models = [model(f"m{number}", held=10 + number) for number in range(3)]
    step = relieve(world(*models, totals={"gpu0": 33}, reserve=30), "gpu0", NOW)
    assert step is not None and step.model == "m2"


@pytest.mark.parametrize(
    "changes",
    [
        {"residency_class": ResidencyClass.ESSENTIAL},
        {"held": True},
        {"busy": True},
        {"waiting": 1},
        {"ready_since": NOW - 1, "start_seconds": 60.0},
        {"residency": Residency.STARTING},
    ],
)
def test_who_may_not_be_touched_is_not(changes: dict[str, object]) -> None:
    stubborn = replace(model("stubborn", held=95), **changes)  # type: ignore[arg-type]
    assert relieve(world(stubborn, totals={"gpu0": 100}, reserve=10), "gpu0", NOW) is None


def test_a_device_that_cannot_be_measured_is_left_alone() -> None:
    blind = world(model("idle", held=95), totals={"gpu0": 100}, reserve=10, fresh=False)
    assert relieve(blind, "gpu0", NOW) is None


def test_host_memory_is_relieved_by_sleepers_only() -> None:
    rung = SleepLevel(level=1, residue=1, host=40, seconds=1.0, wake=1.0)
    asleep = model("asleep", Residency.SLEEPING, held=1, level=1, ladder=(rung,))
    awake = model("awake", held=30, ladder=(rung,))
    tight = world(asleep, awake, totals={"gpu0": 100, HOST: 100}, reserve=2)
    tight = replace(tight, devices={**tight.devices, HOST: replace(tight.devices[HOST], free=5, reserve=20)})
    step = relieve(tight, HOST, NOW)
    assert step is not None and (step.verb, step.model, dict(step.takes)) == (Verb.STOP, "asleep", {HOST: -40})


def test_nobody_falls_asleep_where_host_memory_has_no_room() -> None:
    rung = SleepLevel(level=1, residue=1, host=40, seconds=1.0, wake=1.0)
    short = world(model("awake", held=100, ladder=(rung,)), totals={"gpu0": 100, HOST: 100}, reserve=2)
    step = relieve(short, "gpu0", NOW)
    assert step is not None and step.verb is Verb.SLEEP
    tight = replace(short, devices={**short.devices, HOST: replace(short.devices[HOST], free=50, reserve=20)})
    step = relieve(tight, "gpu0", NOW)
    assert step is not None and step.verb is Verb.STOP


@given(
    st.lists(st.tuples(st.integers(0, 60), st.booleans(), st.booleans(), st.floats(0, 1000)), max_size=6),
    st.integers(0, 100),
)
def test_only_those_who_may_give_way_do_and_only_when_short(
    drawn: list[tuple[int, bool, bool, float]], reserve: int
) -> None:
    models = [
        replace(model(f"m{number}", held=size, busy=busy, last_used=NOW - idle), held=held)
        for number, (size, busy, held, idle) in enumerate(drawn)
    ]
    total = sum(size for size, *_ in drawn) + 10
    seen = world(*models, totals={"gpu0": total}, reserve=reserve)
    step = relieve(seen, "gpu0", NOW)
    able = [one for one in models if one.held_bytes and not stays(one, NOW, DEFAULTS)]
    if step is None:
        assert not able or seen.devices["gpu0"].free >= reserve
    else:
        assert seen.devices["gpu0"].free < reserve
        assert step.model in {one.name for one in able}
        assert sum(step.takes.values()) < 0
