"""When somebody who was refused is tried again."""

from aitherd.conductor.deferral import LATEST, SOONEST, Deferral, look
from aitherd.core.words import Claim, DeviceView, Residency
from tests.unit.conductor.books import Hands, ready

GIB = 1 << 30
CARD = DeviceView("gpu0", "card", total=16 * GIB, free=4 * GIB, reserve=0)


def test_who_was_not_refused_is_tried_at_once() -> None:
    assert Deferral().earliest("vision", None) == 0.0


def test_nothing_changed_waits_for_the_instant_that_is_known_but_not_for_long() -> None:
    deferral = Deferral()
    deferral.add("soon", 100.0, "same", until=100.7)
    deferral.add("late", 100.0, "same", until=1e9)
    assert deferral.earliest("soon", "same") == 100.7
    assert deferral.earliest("late", "same") == 100.0 + LATEST


def test_a_change_is_taken_up_at_once_but_does_not_make_it_spin() -> None:
    deferral = Deferral()
    deferral.add("vision", 100.0, "busy", until=1e9)
    assert deferral.earliest("vision", "idle") == 100.0 + SOONEST


def test_who_has_its_turn_or_is_wanted_no_more_is_forgotten() -> None:
    deferral = Deferral()
    for name in ("vision", "chat"):
        deferral.add(name, 100.0, None, until=1e9)
    deferral.drop("vision")
    assert deferral and deferral.earliest("vision", None) == 0.0
    deferral.keep({"vision"})
    assert not deferral


def test_the_fleet_looks_another_when_a_refusal_could_be_another_and_else_the_same() -> None:
    hands = Hands()
    book = ready(hands)
    devices = {"gpu0": CARD}
    before = look([book], devices, ())
    claim = book.begin_use(0.0, "ready")
    busy = look([book], devices, ())
    assert busy != before
    second = book.begin_use(0.0, "ready")
    second.release()
    assert look([book], devices, ()) == busy
    claim.release()
    assert look([book], devices, ()) == before
    assert book.residency is Residency.READY
    book.held = True
    assert look([book], devices, ()) != before
    book.held = False
    noise = DeviceView("gpu0", "card", total=16 * GIB, free=4 * GIB + (1 << 20), reserve=0)
    assert look([book], {"gpu0": noise}, ()) == before
    less = DeviceView("gpu0", "card", total=16 * GIB, free=3 * GIB, reserve=0)
    assert look([book], {"gpu0": less}, ()) != before
    assert look([book], devices, (Claim("game", 7, "gpu0", GIB),)) != before
