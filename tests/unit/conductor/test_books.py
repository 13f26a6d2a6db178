"""What a book tells the arbiter and people follows from what happened."""

import pytest

from aitherd.core.policy import DEFAULTS
from aitherd.core.residency import Event, ForbiddenMove
from aitherd.core.words import Residency, ResidencyClass
from tests.unit.conductor.books import Hands, book, ready


def test_an_idle_model_is_stopped_after_its_time_and_a_used_one_later() -> None:
    hands = Hands()
    line = ready(hands, idle=60.0)
    assert line.stops_at() == hands.now + 60.0
    hands.now += 30.0
    claim = line.begin_use(0.0, "ready")
    assert line.stops_at() is None
    hands.now += 100.0
    claim.release()
    assert line.stops_at() == hands.now + 60.0
    assert line.status().stops_at == hands.now + 1e9 + 60.0


@pytest.mark.parametrize("kind", [ResidencyClass.ESSENTIAL, ResidencyClass.RESIDENT])
def test_only_on_demand_models_idle_out(kind: ResidencyClass) -> None:
    assert ready(Hands(), residency_class=kind).stops_at() is None


def test_a_held_model_and_one_without_an_idle_time_stay() -> None:
    held = ready(Hands())
    held.held = True
    assert held.stops_at() is None and not held.yields()
    assert ready(Hands(), idle=None).stops_at() is None


def test_busy_counts_requests_and_what_the_engine_says() -> None:
    line = ready(Hands())

    def state() -> tuple[bool, bool, bool]:
        return line.busy, line.view().busy, line.yields()

    assert state() == (False, False, True)
    line.engine_busy = True
    assert state() == (True, True, False)
    line.engine_busy = False
    claim = line.begin_use(0.0, "ready")
    assert state() == (True, True, False) and not line.idle.is_set()
    claim.release()
    assert state() == (False, False, True) and line.idle.is_set()


def test_use_counts_decay_by_half_in_the_half_life() -> None:
    hands = Hands()
    line = ready(hands)
    line.begin_use(0.0, "ready").release()
    hands.now += DEFAULTS.half_life
    line.begin_use(0.0, "ready").release()
    assert line.frequency == pytest.approx(1.5)


def test_a_part_of_a_device_that_is_not_measured_yet_is_not_nothing() -> None:
    assert book(Hands(), vram=0).expected() == 0
    assert book(Hands(), vram=0, utilization=0.6).expected() > 0


def test_each_move_is_told_and_a_forbidden_one_changes_nothing() -> None:
    hands = Hands()
    line = book(hands)
    with pytest.raises(ForbiddenMove):
        line.move(Event.UP)
    assert line.residency is Residency.ABSENT and not hands.changed
    line.move(Event.START)
    assert hands.changed == ["vision"]
