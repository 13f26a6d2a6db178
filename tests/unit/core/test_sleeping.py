"""A person's wish that a model sleep: done where it can be, refused with the reason where not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aitherd.core.sleeping import put_to_sleep
from aitherd.core.words import HOST, DeviceView, ModelView, Residency, ResidencyClass, SleepLevel, Step, Verb, World

GIB = 2**30
LADDER = (SleepLevel(1, GIB, 9 * GIB, 3, 3), SleepLevel(2, GIB, 0, 1, 10))


def world(host_free: int = 64 * GIB, **model: Any) -> World:
    view = ModelView(
        "m", ResidencyClass.ON_DEMAND, Residency.READY, 10 * GIB, ladder=LADDER, held_bytes={"gpu0": 10 * GIB}
    )
    gpu = DeviceView("gpu0", "card", 32 * GIB, 20 * GIB, GIB)
    memory = DeviceView(HOST, "host memory", 128 * GIB, host_free, 8 * GIB)
    return World({"gpu0": gpu, HOST: memory}, {"m": replace(view, **model)})


@pytest.mark.parametrize(("asked", "level"), [(0, 1), (1, 1), (2, 2)])
def test_it_gives_all_but_its_residue(asked: int, level: int) -> None:
    step = put_to_sleep(world(), "m", asked)
    assert isinstance(step, Step)
    assert (step.verb, step.level, step.takes) == (Verb.SLEEP, level, {"gpu0": -9 * GIB})


def test_bytes_on_several_devices_leave_their_part_of_the_residue() -> None:
    step = put_to_sleep(world(held_bytes={"gpu0": 5 * GIB, "gpu1": 5 * GIB}), "m", 1)
    assert isinstance(step, Step)
    assert step.takes == {"gpu0": -(5 * GIB - GIB // 2), "gpu1": -(5 * GIB - GIB // 2)}


@pytest.mark.parametrize(
    ("model", "level", "reason"),
    [
        ({"residency_class": ResidencyClass.ESSENTIAL}, 0, "never put to sleep"),
        ({"ladder": ()}, 0, "cannot sleep"),
        ({"residency": Residency.ABSENT}, 0, "is absent"),
        ({}, 3, "has no sleep level 3: it has 1, 2"),
        ({"held_bytes": {"gpu0": GIB}}, 1, "holds no more than the 1 GiB"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(model: dict[str, Any], level: int, reason: str) -> None:
    said = put_to_sleep(world(**model), "m", level)
    assert isinstance(said, str)
    assert reason in said


def test_host_memory_that_is_not_there_is_not_slept_in() -> None:
    said = put_to_sleep(world(host_free=12 * GIB), "m", 1)
    assert isinstance(said, str)
    assert "would need 9 GiB of host memory" in said
    assert "4 GiB is free" in said
    assert isinstance(put_to_sleep(world(host_free=12 * GIB), "m", 2), Step)
