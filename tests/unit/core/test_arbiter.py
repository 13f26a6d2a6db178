"""The arbiter's decisions, one story at a time. Sizes in the worlds by hand are GiB of one card unless they say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from aitherd.core.arbiter import Policy, decide
from aitherd.core.words import (
    HOST,
    ModelView,
    Plan,
    Refusal,
    RefusalKind,
    Residency,
    ResidencyClass,
    SleepLevel,
    Verb,
    World,
)
from tests.unit.core.worlds import NOW, SHORT_LIVED, TARGET, model, target, world

GIB = 2**30


def plan(world: World, policy: Policy | None = None) -> Plan:
    outcome = decide(world, TARGET, NOW, policy or Policy())
    assert isinstance(outcome, Plan), outcome
    return outcome


def refused(world: World, policy: Policy | None = None) -> Refusal:
    outcome = decide(world, TARGET, NOW, policy or Policy())
    assert isinstance(outcome, Refusal), outcome
    return outcome


def steps(world: World) -> list[str]:
    return [f"{step.verb} {step.model}" for step in plan(world).steps]


def sleeper(name: str, held: int, *, residue: int = 2, host: int = 0, wake: float = 1.0, **more: Any) -> ModelView:
    return model(name, held=held, ladder=(SleepLevel(1, residue, host, 1.0, wake),), **more)


class TestMakingReady:
    def test_what_is_ready_needs_no_step(self) -> None:
        ready = plan(world(target(10, Residency.READY, held=10)))
        assert (ready.steps, ready.placement, ready.seconds) == ((), ("gpu0",), 0)

    def test_what_fits_is_started_and_nobody_touched(self) -> None:
        fits = plan(world(target(60), model("other", held=30)))
        assert [(step.verb, dict(step.takes)) for step in fits.steps] == [(Verb.START, {"gpu0": 60})]
        assert (fits.placement, dict(fits.spare)) == (("gpu0",), {"gpu0": 8})

    def test_the_reserve_is_not_used(self) -> None:
        assert steps(world(target(98))) == ["start target"]
        assert refused(world(target(99))).missing == 1

    def test_a_model_without_device_memory_starts_even_where_nothing_can_be_measured(self) -> None:
        blind = world(target(0), fresh=False)
        assert steps(blind) == ["start target"]
        assert plan(blind).placement == ()

    def test_a_failed_model_is_started_anew(self) -> None:
        assert steps(world(target(10, Residency.FAILED))) == ["start target"]

    def test_a_sleeper_is_woken_and_takes_what_it_gave(self) -> None:
        ladder = (SleepLevel(1, 3, 0, 1.0, 2.5), SleepLevel(2, 3, 0, 1.0, 8.0))
        woken = plan(world(target(10, Residency.SLEEPING, held=3, level=2, ladder=ladder)))
        (step,) = woken.steps
        assert (step.verb, dict(step.takes), step.seconds) == (Verb.WAKE, {"gpu0": 7}, 8.0)

    def test_a_sleeper_that_holds_all_it_needs_wakes_on_a_full_device(self) -> None:
        assert steps(world(target(3, Residency.SLEEPING, held=5), model("busy", held=95, busy=True))) == ["wake target"]

    def test_a_name_that_is_not_in_the_world_is_an_error_of_the_caller(self) -> None:
        with pytest.raises(KeyError):
            decide(world(), "nobody", NOW)


class TestWhoGivesWay:
    def test_caches_are_dropped_where_that_suffices(self) -> None:
        assert steps(world(target(40), model("imagine", held=80, freeable=30))) == ["free imagine", "start target"]

    def test_a_model_is_stopped_where_dropping_its_caches_does_not_suffice(self) -> None:
        assert steps(world(target(60), model("imagine", held=80, freeable=30))) == ["stop imagine", "start target"]

    def test_sleep_comes_before_stop_where_waking_is_quicker_than_starting(self) -> None:
        assert steps(world(target(40), sleeper("chat", 80))) == ["sleep chat", "start target"]
        assert steps(world(target(40), sleeper("chat", 80, wake=99.0))) == ["stop chat", "start target"]

    def test_sleep_takes_the_level_that_is_cheapest_to_wake_from_and_gives_enough(self) -> None:
        ladder = (SleepLevel(1, 50, 0, 1.0, 1.0), SleepLevel(2, 5, 0, 1.0, 5.0))
        levels = [plan(world(target(vram), model("chat", held=80, ladder=ladder))).steps[0].level for vram in (40, 80)]
        assert levels == [1, 2]

    def test_a_model_is_stopped_where_host_memory_has_no_room_for_the_sleeper(self) -> None:
        def with_host(total: int) -> World:
            return world(target(40), sleeper("chat", 80, host=50), totals={"gpu0": 100, HOST: total})

        assert steps(with_host(52)) == ["sleep chat", "start target"]
        assert plan(with_host(52)).steps[0].takes == {"gpu0": -78, HOST: 50}
        assert steps(with_host(51)) == ["stop chat", "start target"]

    def test_two_sleepers_share_the_host_memory_that_there_is(self) -> None:
        sleepers = (sleeper("a", 49, host=40), sleeper("b", 49, host=40))
        both = world(target(90), *sleepers, totals={"gpu0": 100, HOST: 70})
        assert sorted(step.verb for step in plan(both).steps) == [Verb.SLEEP, Verb.START, Verb.STOP]

    def test_the_one_that_is_used_least_goes_first(self) -> None:
        crowd = [model(name, held=40, frequency=uses) for name, uses in (("often", 9.0), ("rarely", 2.0))]
        assert steps(world(target(40), *crowd)) == ["stop rarely", "start target"]

    def test_uses_of_long_ago_count_for_less(self) -> None:
        was = model("was", held=40, frequency=9.0, last_used=NOW - 6000)
        now = model("now", held=40, frequency=2.0)
        assert steps(world(target(40), was, now)) == ["stop was", "start target"]

    def test_the_one_that_is_back_soonest_goes_first(self) -> None:
        crowd = [model(name, held=40, start_seconds=seconds) for name, seconds in (("slow", 90.0), ("quick", 3.0))]
        assert steps(world(target(40), *crowd)) == ["stop quick", "start target"]

    def test_two_cheap_ones_go_before_one_that_costs_more_than_both(self) -> None:
        crowd = [model("big", held=40, start_seconds=90.0)]
        crowd += [model(name, held=20, start_seconds=10.0) for name in ("a", "b")]
        assert steps(world(target(50), *crowd)) == ["stop a", "stop b", "start target"]

    def test_one_that_suffices_alone_is_not_joined_by_one_that_is_cheaper_by_the_byte(self) -> None:
        crowd = [model("small", held=10, start_seconds=1.0), model("large", held=60, start_seconds=20.0)]
        assert steps(world(target(60), *crowd)) == ["stop large", "start target"]

    def test_a_resident_goes_only_when_all_others_together_do_not_suffice(self) -> None:
        def crowd(vram: int) -> World:
            kept = model("kept", held=40, residency_class=ResidencyClass.RESIDENT, start_seconds=1.0)
            others = [model(name, held=20, frequency=50.0, start_seconds=99.0) for name in ("a", "b")]
            return world(target(vram), kept, *others)

        assert steps(crowd(50)) == ["stop a", "stop b", "start target"]
        assert steps(crowd(70)) == ["stop a", "stop kept", "start target"]

    def test_a_sleeper_may_be_stopped_for_what_it_still_holds(self) -> None:
        asleep = model("asleep", Residency.SLEEPING, 5, level=1)
        assert steps(world(target(95), asleep)) == ["stop asleep", "start target"]

    @pytest.mark.parametrize(
        ("state", "why"),
        [
            ({"residency_class": ResidencyClass.ESSENTIAL}, "essential"),
            ({"held": True}, "held"),
            ({"busy": True}, "busy"),
            ({"waiting": 1}, "requests wait for it"),
            ({"ready_since": SHORT_LIVED}, "ready for less than 30 s"),
            ({"residency": Residency.STARTING}, "starting"),
            ({"residency": Residency.STOPPING}, "stopping"),
        ],
    )
    def test_who_stays_and_why_it_is_said(self, state: dict[str, Any], why: str) -> None:
        stays = ModelView(
            **{
                "name": "other",
                "residency_class": ResidencyClass.ON_DEMAND,
                "residency": Residency.READY,
                "vram": 80,
                "held_bytes": {"gpu0": 80},
                "freeable": 70,
                **state,
            }
        )
        (holder,) = refused(world(target(40), stays)).holders
        assert (holder.name, holder.bytes, holder.why) == ("other", 80, why)

    def test_minimum_residency_is_the_policys(self) -> None:
        young = world(target(40), model("young", held=80, ready_since=NOW - 20, start_seconds=60.0))
        assert refused(young).kind is RefusalKind.NOT_NOW
        assert plan(young, Policy(min_residency=10.0)).steps[0].model == "young"

    def test_what_is_back_in_seconds_need_not_stay_long(self) -> None:
        quick = sleeper("quick", held=80, wake=3.0, ready_since=NOW - 5, start_seconds=60.0)
        assert plan(world(target(40), quick)).steps[0].model == "quick"
        assert plan(world(target(40), model("brief", held=80, ready_since=NOW, start_seconds=9.0))).steps[0]
        slow = model("slow", held=80, ready_since=NOW - 5, start_seconds=60.0)
        assert refused(world(target(40), slow)).kind is RefusalKind.NOT_NOW
        middling = world(target(40), model("middling", held=80, ready_since=NOW - 5, start_seconds=16.0))
        assert refused(middling).kind is RefusalKind.NOT_NOW
        assert plan(middling, Policy(quick=12.0)).steps[0].model == "middling"


class TestSwapSlot:
    mate = model("mate", held=10, swap_slot="s")

    def test_the_member_that_is_awake_leaves_although_both_would_fit(self) -> None:
        assert steps(world(target(10, swap_slot="s"), self.mate)) == ["stop mate", "start target"]

    def test_dropping_its_caches_is_not_leaving(self) -> None:
        mate = model("mate", held=10, swap_slot="s", freeable=9)
        assert steps(world(target(10, swap_slot="s"), mate)) == ["stop mate", "start target"]

    def test_it_may_leave_by_falling_asleep(self) -> None:
        assert steps(world(target(10, swap_slot="s"), sleeper("mate", 10, swap_slot="s"))) == [
            "sleep mate",
            "start target",
        ]

    def test_it_leaves_for_a_model_without_device_memory_too(self) -> None:
        assert steps(world(target(0, swap_slot="s"), self.mate)) == ["stop mate", "start target"]

    def test_a_member_that_sleeps_or_another_slot_does_not_matter(self) -> None:
        asleep = model("mate", Residency.SLEEPING, 3, level=1, swap_slot="s")
        other = model("other", held=10, swap_slot="t")
        assert steps(world(target(10, swap_slot="s"), asleep, other)) == ["start target"]

    @pytest.mark.parametrize(
        ("mate", "kind"),
        [
            (model("mate", held=10, swap_slot="s", busy=True), RefusalKind.NOT_NOW),
            (model("mate", Residency.STARTING, 10, swap_slot="s"), RefusalKind.NOT_NOW),
            (model("mate", held=10, swap_slot="s", residency_class=ResidencyClass.ESSENTIAL), RefusalKind.NEVER),
        ],
    )
    def test_while_it_cannot_leave_the_slot_is_taken(self, mate: ModelView, kind: RefusalKind) -> None:
        refusal = refused(world(target(10, swap_slot="s"), mate))
        assert (refusal.kind, refusal.missing, refusal.holders[0].name) == (kind, 0, "mate")
        assert "swap slot s" in refusal.why


class TestPlacement:
    two: Mapping[str, int] = {"gpu0": 100, "gpu1": 60}

    def test_the_tightest_fit_is_taken_so_that_large_holes_stay(self) -> None:
        assert plan(world(target(50), totals=self.two)).placement == ("gpu1",)
        assert plan(world(target(70), totals=self.two)).placement == ("gpu0",)

    def test_a_free_device_is_taken_before_anybody_gives_way(self) -> None:
        assert steps(world(target(50), model("other", held={"gpu1": 40}), totals=self.two)) == ["start target"]

    def test_the_device_is_taken_whose_victims_cost_least(self) -> None:
        dear, cheap = model("dear", held=90, frequency=9.0), model("cheap", held={"gpu1": 50})
        chosen = plan(world(target(50), dear, cheap, totals=self.two))
        assert ([step.model for step in chosen.steps], chosen.placement) == (["cheap", TARGET], ("gpu1",))

    def test_a_model_stays_on_the_devices_that_it_names(self) -> None:
        dear = model("dear", held=90, frequency=9.0)
        assert steps(world(target(50, devices=("gpu0",)), dear, totals=self.two)) == ["stop dear", "start target"]

    def test_a_model_that_spans_takes_an_equal_part_of_each_device(self) -> None:
        spread = plan(world(target(101, span=2), totals=self.two))
        assert dict(spread.steps[0].takes) == {"gpu0": 51, "gpu1": 51}
        assert spread.placement == ("gpu0", "gpu1")

    def test_one_victim_that_spans_is_stopped_once_for_both_devices(self) -> None:
        spread = model("spread", held={"gpu0": 50, "gpu1": 50})
        solo = [model(f"on-{device}", held={device: 20}, start_seconds=6.0) for device in ("gpu0", "gpu1")]
        machine = world(target(90, span=2), spread, *solo, totals={"gpu0": 100, "gpu1": 100})
        assert steps(machine) == ["stop spread", "start target"]

    def test_host_memory_is_used_only_by_models_that_name_it(self) -> None:
        machine = {"gpu0": 20, HOST: 100}
        assert refused(world(target(50), totals=machine)).kind is RefusalKind.NEVER
        assert plan(world(target(50, devices=(HOST,)), totals=machine)).placement == (HOST,)

    def test_a_model_that_spans_more_devices_than_there_are_never_comes_in(self) -> None:
        refusal = refused(world(target(10, span=2)))
        assert (refusal.kind, refusal.why) == (RefusalKind.NEVER, "target spans 2 devices and may use 1 (gpu0)")


class TestTelling:
    def test_a_plan_says_in_sizes_what_is_needed_what_is_free_and_who_gives_what(self) -> None:
        imagine = model("imagine", held=28 * GIB, freeable=4 * GIB, last_used=NOW - 240)
        told = plan(world(target(5 * GIB), imagine, totals={"gpu0": 32 * GIB}, reserve=GIB))
        assert told.why == "target needs 5 GiB on gpu0; above the reserve 3 GiB on gpu0 is free; imagine must give way"
        assert [step.why for step in told.steps] == [
            "makes room for target, unused for 4 min; 4 GiB on gpu0 expected back",
            "takes 5 GiB on gpu0",
        ]

    def test_a_step_down_says_that_it_is_for_the_swap_slot(self) -> None:
        told = plan(world(target(0, swap_slot="art"), model("mate", held=1, swap_slot="art")))
        assert told.steps[0].why.startswith("leaves the swap slot art to target")

    def test_a_plan_takes_as_long_as_its_steps(self) -> None:
        told = plan(world(target(40, start_seconds=7.0), model("other", held=80, stop_seconds=3.0)))
        assert told.seconds == 10.0


def test_among_very_many_candidates_room_is_still_made_with_no_victim_too_many() -> None:
    crowd = [model(f"m{index:03}", held=7 + index % 5, start_seconds=5.0 + index % 7) for index in range(120)]
    chosen = plan(world(target(400), *crowd, totals={"gpu0": 1200}))
    given = [-step.takes["gpu0"] for step in chosen.steps[:-1]]
    spare = chosen.spare["gpu0"]
    assert spare >= 0
    assert all(count > spare for count in given)


class TestServicesThatAreNotOurs:
    def test_one_is_freed_and_nothing_else_is_done_to_it(self) -> None:
        outcome = plan(world(target(60), model("ollama", held=50, freeable=50, foreign=True)))
        assert [(step.verb, step.model, dict(step.takes)) for step in outcome.steps] == [
            (Verb.FREE, "ollama", {"gpu0": -50}),
            (Verb.START, TARGET, {"gpu0": 60}),
        ]

    def test_it_goes_before_a_model_that_is_used(self) -> None:
        used = model("used", held=40, frequency=3.0, last_used=NOW - 1)
        assert steps(world(target(50), used, model("ollama", held=40, freeable=40, foreign=True)))[0] == "free ollama"

    def test_it_is_left_alone_while_it_works_even_by_an_overdue_line(self) -> None:
        works = world(target(60), model("ollama", held=50, freeable=50, foreign=True, busy=True))
        for policy in (Policy(), Policy(urgent=True)):
            outcome = refused(works, policy)
            assert (outcome.kind, [holder.why for holder in outcome.holders]) == (RefusalKind.NOT_NOW, ["busy"])


class TestSleepersCompeteForHostMemory:
    """Host memory is a cache as the device is: who is worth least there leaves it."""

    RUNGS = (SleepLevel(1, 2, 40, 1.0, 1.0), SleepLevel(2, 2, 0, 1.0, 20.0))

    def tight(self, *others: ModelView, free: int, **more: Any) -> World:
        """`chat`, used often, has to give way for `target`; so many host bytes are free above the reserve."""
        chat = model("chat", held=50, ladder=self.RUNGS, start_seconds=60.0, frequency=5.0, last_used=NOW - 60, **more)
        seen = world(target(60), chat, *others, totals={"gpu0": 100, HOST: 200})
        return replace(seen, devices={**seen.devices, HOST: replace(seen.devices[HOST], free=free + 2)})

    def asleep(self, name: str, host: int, **more: Any) -> ModelView:
        rung = SleepLevel(1, 1, host, 1.0, 1.0)
        return model(name, Residency.SLEEPING, held=1, level=1, ladder=(rung,), **more)

    def test_with_room_the_quickest_rung_is_taken(self) -> None:
        plan = decide(self.tight(self.asleep("old", 40), free=40), TARGET, NOW)
        assert isinstance(plan, Plan) and [(s.verb, s.model, s.level) for s in plan.steps[:-1]] == [
            ("sleep", "chat", 1)
        ]

    def test_without_room_the_deeper_rung_is_taken(self) -> None:
        plan = decide(self.tight(free=39), TARGET, NOW)
        assert isinstance(plan, Plan) and [(s.verb, s.model, s.level) for s in plan.steps[:-1]] == [
            ("sleep", "chat", 2)
        ]

    def test_a_sleeper_that_is_hardly_used_leaves_before_another_falls_asleep(self) -> None:
        plan = decide(self.tight(self.asleep("old", 40, start_seconds=30.0), free=0), TARGET, NOW)
        assert isinstance(plan, Plan)
        assert [(step.verb, step.model, step.level) for step in plan.steps[:-1]] == [
            ("stop", "old", 0),
            ("sleep", "chat", 1),
        ]
        assert plan.steps[0].takes == {HOST: -40}
        assert "host memory" in plan.steps[0].why

    def test_a_sleeper_that_is_worth_more_stays_and_the_newcomer_falls_deeper(self) -> None:
        dear = self.asleep("dear", 40, start_seconds=600.0, frequency=50.0, last_used=NOW - 5)
        plan = decide(self.tight(dear, free=0), TARGET, NOW)
        assert isinstance(plan, Plan) and [(s.verb, s.model, s.level) for s in plan.steps[:-1]] == [
            ("sleep", "chat", 2)
        ]

    def test_the_cheapest_of_the_sleepers_that_suffices_leaves(self) -> None:
        several = [self.asleep(f"s{seconds}", 40, start_seconds=float(seconds)) for seconds in (30, 20, 40)]
        plan = decide(self.tight(*several, free=0), TARGET, NOW)
        assert isinstance(plan, Plan) and [s.model for s in plan.steps[:-1]] == ["s20", "chat"]

    @pytest.mark.parametrize("changes", [{"held": True}, {"waiting": 1}, {"residency_class": ResidencyClass.ESSENTIAL}])
    def test_a_sleeper_that_may_not_be_touched_stays(self, changes: dict[str, Any]) -> None:
        stays = replace(self.asleep("stays", 40), **changes)
        plan = decide(self.tight(stays, free=0), TARGET, NOW)
        assert isinstance(plan, Plan) and "stays" not in [step.model for step in plan.steps]
