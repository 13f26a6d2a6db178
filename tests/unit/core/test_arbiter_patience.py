"""Lines and those who work: who is waited for, who is drained, and what that is weighed against."""

from __future__ import annotations

from dataclasses import replace

from aitherd.core.arbiter import Policy, decide
from aitherd.core.words import Refusal, RefusalKind, Residency, ResidencyClass, Verb
from tests.unit.core.test_arbiter import plan, refused, sleeper
from tests.unit.core.worlds import NOW, TARGET, model, target, world


def test_for_an_overdue_line_those_that_work_are_drained_and_those_that_are_young_give_way() -> None:
    urgent = Policy(urgent=True)
    works = model("works", held=50, busy=True)
    young = model("young", held=50, ready_since=NOW - 5, start_seconds=60.0)
    both = world(target(80), works, young)
    assert refused(both).kind is RefusalKind.NOT_NOW
    assert {step.model for step in plan(both, urgent).steps} == {"works", "young", TARGET}
    assert plan(world(target(40), works, young), urgent).steps[0].model == "young", "the idle one goes first"
    assert [holder.name for holder in refused(both, Policy(urgent=True, patience=0.0)).holders] == ["works"]


def test_a_line_rather_waits_for_who_works_than_have_a_sleeper_stopped_as_long_as_that_pays() -> None:
    works = sleeper("works", held=60, wake=2.0, busy=True, frequency=5.0, last_used=NOW)
    asleep = sleeper(
        "asleep", residency=Residency.SLEEPING, held=30, wake=2.0, level=1, frequency=5.0, start_seconds=40.0
    )
    here = world(target(35), works, asleep)
    early = refused(here, Policy(waited=0.0))
    assert early.kind is RefusalKind.NOT_NOW
    assert [(holder.name, holder.why) for holder in early.holders] == [("works", "busy")]
    assert "works has nothing to do" in early.why
    assert "asleep" in early.why
    assert [step.model for step in plan(here, Policy(waited=1000.0)).steps] == ["asleep", TARGET]
    assert [step.model for step in plan(here).steps] == ["asleep", TARGET], "a dry run waits for nobody"


def test_an_overdue_line_has_one_drained_before_several_sleepers_are_stopped() -> None:
    works = sleeper("works", held=60, wake=2.0, busy=True, frequency=5.0, last_used=NOW)
    asleep = [
        sleeper(
            f"asleep{at}",
            residency=Residency.SLEEPING,
            held=15,
            wake=2.0,
            level=1,
            frequency=5.0,
            start_seconds=40.0,
        )
        for at in range(2)
    ]
    steps = plan(world(target(35), works, *asleep), Policy(urgent=True)).steps
    assert [(step.verb, step.model) for step in steps] == [(Verb.SLEEP, "works"), (Verb.START, TARGET)]


def test_who_has_to_be_drained_goes_first_so_that_nobody_gives_way_for_nothing() -> None:
    works, idle = model("works", held=50, busy=True), model("idle", held=40)
    steps = plan(world(target(85), works, idle), Policy(urgent=True)).steps
    assert [step.model for step in steps] == ["works", "idle", TARGET]


def test_who_is_held_or_essential_stays_even_then() -> None:
    for stays in (
        replace(model("stays", held=80, busy=True), held=True),
        model("stays", held=80, busy=True, residency_class=ResidencyClass.ESSENTIAL),
    ):
        assert isinstance(decide(world(target(80), stays), TARGET, NOW, Policy(urgent=True)), Refusal)
