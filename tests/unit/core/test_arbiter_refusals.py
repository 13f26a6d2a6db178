"""What the arbiter keeps free for others, and how it refuses. Sizes by hand are GiB of one card unless they say so."""

from __future__ import annotations

import pytest

from aitherd.core.arbiter import Policy, decide, impossible
from aitherd.core.words import (
    Claim,
    Plan,
    Refusal,
    RefusalKind,
    Residency,
    ResidencyClass,
    World,
)
from tests.unit.core.worlds import NOW, TARGET, model, target, world

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


class TestPromises:
    def test_leased_bytes_are_not_given_away_before_they_are_used(self) -> None:
        lease = Claim("training", 7, "gpu0", 60)
        assert steps(world(target(38), leases=(lease,))) == ["start target"]
        refusal = refused(world(target(39), leases=(lease,)))
        assert (refusal.kind, refusal.missing) == (RefusalKind.NOT_NOW, 1)
        assert [(holder.name, holder.bytes) for holder in refusal.holders] == [("training", 60)]

    def test_leased_bytes_that_are_in_use_are_counted_once(self) -> None:
        lease, used = Claim("training", 7, "gpu0", 60), Claim("training", 7, "gpu0", 50)
        assert steps(world(target(38), leases=(lease,), foreign=(used,))) == ["start target"]
        assert refused(world(target(39), leases=(lease,), foreign=(used,))).missing == 1

    def test_what_descendants_of_the_holder_use_is_used_of_the_lease(self) -> None:
        lease, used = Claim("training", 7, "gpu0", 60), Claim("training", 8, "gpu0", 50, holder=7)
        assert steps(world(target(38), leases=(lease,), foreign=(used,))) == ["start target"]
        refusal = refused(world(target(39), leases=(lease,), foreign=(used,)))
        assert [(one.name, one.bytes, one.why) for one in refusal.holders[:2]] == [
            ("training", 50, "leased"),
            ("training", 10, "leased, not used yet"),
        ]

    def test_a_starting_model_has_been_promised_its_bytes(self) -> None:
        starting = model("starting", Residency.STARTING, 10, vram=60)
        assert steps(world(target(38), starting)) == ["start target"]
        assert refused(world(target(39), starting)).missing == 1

    @pytest.mark.parametrize("residency", [Residency.ABSENT, Residency.FAILED, Residency.STOPPING])
    def test_the_room_of_an_essential_model_is_kept_while_it_is_down(self, residency: Residency) -> None:
        essential = model("essential", residency, vram=60, residency_class=ResidencyClass.ESSENTIAL)
        assert steps(world(target(38), essential)) == ["start target"]
        assert refused(world(target(39), essential)).kind is RefusalKind.NEVER

    def test_an_essential_model_comes_in_itself_at_the_expense_of_others(self) -> None:
        essential = target(60, residency_class=ResidencyClass.ESSENTIAL)
        assert steps(world(essential, model("other", held=60))) == ["stop other", "start target"]


class TestRefusals:
    def test_never_shows_the_sum_with_the_essential_models(self) -> None:
        orchestrator = model("orchestrator", held=19 * GIB, residency_class=ResidencyClass.ESSENTIAL)
        machine = world(
            target(16 * GIB), orchestrator, model("idle", held=GIB), totals={"gpu0": 32 * GIB}, reserve=GIB // 2
        )
        refusal = refused(machine)
        assert (refusal.kind, refusal.missing) == (RefusalKind.NEVER, 16 * GIB - (32 * GIB - 19 * GIB - GIB // 2))
        assert refusal.why == (
            "target needs 16 GiB on gpu0, where at most 12.5 GiB can ever be free, 3.5 GiB short: "
            "of 32 GiB, orchestrator keeps 19 GiB (essential), 512 MiB are reserved"
        )
        assert impossible(machine) == (refusal,)

    def test_not_now_shows_the_sum_with_everybody_who_stays(self) -> None:
        machine = world(
            target(12 * GIB),
            model("chat", held=9 * GIB, busy=True),
            model("idle", held=4 * GIB),
            totals={"gpu0": 24 * GIB},
            reserve=GIB,
            foreign=(Claim("game", 7, "gpu0", 3 * GIB),),
            unattributed=2 * GIB,
            quarantined=GIB,
        )
        refusal = refused(machine)
        assert (refusal.kind, refusal.missing) == (RefusalKind.NOT_NOW, 3 * GIB)
        assert refusal.why == (
            "target needs 12 GiB on gpu0, where at most 9 GiB can be made free now, 3 GiB short: of 24 GiB, "
            "chat keeps 9 GiB (busy), game keeps 3 GiB (foreign), driver keeps 1 GiB (belongs to no process), "
            "quarantine keeps 1 GiB (did not come back), 1 GiB are reserved"
        )
        assert impossible(machine) == ()

    def test_of_several_devices_the_one_that_came_closest_is_shown(self) -> None:
        busy = [model(f"on-{device}", held={device: held}, busy=True) for device, held in (("gpu0", 80), ("gpu1", 30))]
        refusal = refused(world(target(50), *busy, totals={"gpu0": 100, "gpu1": 60}))
        assert (refusal.missing, {holder.device for holder in refusal.holders}) == (22, {"gpu1"})

    @pytest.mark.parametrize("residency", [Residency.STARTING, Residency.STOPPING])
    def test_what_is_moving_is_not_planned_anew(self, residency: Residency) -> None:
        refusal = refused(world(target(10, residency)))
        assert (refusal.kind, refusal.missing, refusal.why) == (RefusalKind.NOT_NOW, 0, f"target is {residency}")

    def test_what_is_quarantined_waits_for_its_bytes_which_are_named(self) -> None:
        refusal = refused(world(target(10, Residency.QUARANTINED), unattributed=6 * GIB, quarantined=6 * GIB))
        assert refusal.kind is RefusalKind.NOT_NOW
        assert [holder.bytes for holder in refusal.holders] == [6 * GIB]
        assert "6 GiB on gpu0 did not come back" in refusal.why

    def test_nothing_is_loaded_on_a_device_that_cannot_be_measured(self) -> None:
        refusal = refused(world(target(10), fresh=False, problem="the driver hangs; reboot"))
        assert refusal.kind is RefusalKind.BLIND
        assert refusal.why == "nothing is loaded for target: gpu0 cannot be measured: the driver hangs; reboot"

    def test_never_is_known_without_measuring(self) -> None:
        assert refused(world(target(99), fresh=False)).kind is RefusalKind.NEVER

    def test_a_device_that_has_gone_is_not_taken_for_too_small(self) -> None:
        refusal = refused(world(target(10, devices=("gpu1",))))
        assert (refusal.kind, refusal.why) == (
            RefusalKind.BLIND,
            "nothing is loaded for target: gpu1 is not there",
        )

    def test_before_anything_was_measured_the_machine_is_blind(self) -> None:
        assert refused(World({}, {TARGET: target(10)})).kind is RefusalKind.BLIND

    def test_another_device_is_used_while_one_is_blind(self) -> None:
        healthy, lost = world(target(10)).devices["gpu0"], world(target(10), fresh=False).devices["gpu0"]
        assert plan(World({"gpu0": lost, "gpu1": healthy}, {TARGET: target(10)})).placement == ("gpu1",)
