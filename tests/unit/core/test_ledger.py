"""The measured books: they balance, and they tell whether bytes came back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitherd.core.ledger import (
    SLACK,
    Accounts,
    DeviceSample,
    ProcessSample,
    Sample,
    account,
    believed,
    carried,
    lingering,
    outstanding,
    starved,
)
from aitherd.core.words import HOST, Claim

GIB = 2**30
TOTAL = 32 * GIB
GROUPS = {
    "vision": "/aither.slice/aither-vision-engine.service",
    "imagine": "/aither.slice/aither-imagine-engine.service",
}


def process(pid: int, count: int | None, cgroup: str, name: str = "python3") -> ProcessSample:
    return ProcessSample(pid=pid, name=name, bytes=count, cgroup=cgroup)


def sample(*processes: ProcessSample, lingering: int = 0) -> Sample:
    """One device of 32 GiB that the processes and the lingering bytes fill."""
    used = lingering + sum(process.bytes or 0 for process in processes)
    device = DeviceSample(
        id="gpu0", uuid="GPU-1", name="card", total=TOTAL, free=TOTAL - used, processes=tuple(processes)
    )
    return Sample(taken=1.0, driver="580.1", devices=(device,))


def books(*processes: ProcessSample, lingering: int = 0) -> Accounts:
    return account(sample(*processes, lingering=lingering), GROUPS, reserve=GIB)


def vision(count: int | None, pid: int = 10) -> ProcessSample:
    return process(pid, count, GROUPS["vision"])


def foreign(count: int, pid: int = 90) -> ProcessSample:
    return process(pid, count, "/user.slice/session-1.scope", "game")


class TestAccount:
    def test_a_process_belongs_to_the_model_in_whose_control_group_it_is(self) -> None:
        assert books(vision(3 * GIB)).measured == {"vision": {"gpu0": 3 * GIB}}

    def test_a_process_below_the_control_group_belongs_to_the_model_too(self) -> None:
        worker = process(11, GIB, GROUPS["vision"] + "/workers/1")
        assert books(vision(3 * GIB), worker).measured == {"vision": {"gpu0": 4 * GIB}}

    @pytest.mark.parametrize("cgroup", ["", "/", "/aither.slice", GROUPS["vision"] + "x", "/x" + GROUPS["vision"]])
    def test_any_other_process_is_foreign(self, cgroup: str) -> None:
        accounts = books(process(12, GIB, cgroup, "other"))
        assert accounts.measured == {}
        assert accounts.devices["gpu0"].foreign == (Claim("other", 12, "gpu0", GIB),)

    @pytest.mark.parametrize("group", ["", "/"])
    def test_a_model_without_a_control_group_of_its_own_owns_nothing(self, group: str) -> None:
        accounts = account(sample(foreign(GIB)), {"vision": group}, reserve=0)
        assert accounts.measured == {}

    def test_a_foreign_process_that_holds_a_lease_goes_by_its_purpose(self) -> None:
        accounts = account(sample(foreign(GIB)), GROUPS, 0, {}, (Claim("training", 90, "gpu0", 4 * GIB),))
        assert accounts.devices["gpu0"].foreign == (Claim("training", 90, "gpu0", GIB, holder=90),)

    def test_descendants_of_a_holder_use_its_lease_and_others_do_not(self) -> None:
        leases = (Claim("training", 90, "gpu0", 4 * GIB),)
        seen = sample(foreign(GIB, 91), foreign(GIB, 92), foreign(GIB, 93))
        accounts = account(seen, GROUPS, 0, {}, leases, {91: 90, 93: 94})
        assert accounts.devices["gpu0"].foreign == (
            Claim("training", 91, "gpu0", GIB, holder=90),
            Claim("game", 92, "gpu0", GIB),
            Claim("game", 93, "gpu0", GIB),
        )

    def test_a_process_that_is_listed_twice_counts_once(self) -> None:
        twice = Sample(1.0, "580", (DeviceSample("gpu0", "", "", TOTAL, TOTAL - GIB, (vision(GIB), vision(GIB))),))
        assert account(twice, GROUPS, 0).measured == {"vision": {"gpu0": GIB}}

    def test_bytes_that_the_driver_does_not_attribute_stay_unattributed(self) -> None:
        accounts = account(
            Sample(1.0, "580", (DeviceSample("gpu0", "", "", TOTAL, TOTAL - 5 * GIB, (vision(None),)),)), GROUPS, 0
        )
        assert accounts.measured == {}
        assert accounts.unattributed == {"gpu0": 5 * GIB}

    def test_reserve_and_quarantined_bytes_are_shown(self) -> None:
        view = account(sample(lingering=3 * GIB), GROUPS, GIB, {"gpu0": 2 * GIB}).devices["gpu0"]
        assert (view.reserve, view.quarantined, view.free, view.fresh) == (GIB, 2 * GIB, 29 * GIB, True)

    def test_a_service_that_is_not_ours_is_foreign_and_known_by_its_name(self) -> None:
        inside = process(12, GIB, "/system.slice/ollama.service/runner")
        beside = process(13, 2 * GIB, "/system.slice/ollama.service.d")
        accounts = account(sample(inside, beside), GROUPS, 0, services={"ollama.service": "ollama"})
        assert accounts.services == {"ollama": {"gpu0": GIB}}
        named = {claim.pid: (claim.owner, claim.service) for claim in accounts.devices["gpu0"].foreign}
        assert named[12] == ("ollama", "ollama")
        assert named[13][1] == ""
        assert accounts.measured == {}
        gone = account(sample(beside, lingering=GIB), GROUPS, 0, services={"ollama.service": "ollama"})
        assert outstanding(accounts, gone, "ollama", {"gpu0": GIB}) == {"gpu0": GIB}
        back = account(sample(beside), GROUPS, 0, services={"ollama.service": "ollama"})
        assert outstanding(accounts, back, "ollama", {"gpu0": GIB}) == {}

    def test_what_a_process_took_while_the_sample_was_read_is_not_free(self) -> None:
        seen = Sample(1.0, "580", (DeviceSample("gpu0", "", "card", TOTAL, TOTAL, (foreign(10 * GIB),)),))
        accounts = account(seen, GROUPS, GIB)
        assert (accounts.devices["gpu0"].free, accounts.unattributed["gpu0"]) == (TOTAL - 10 * GIB, 0)

    @given(
        st.lists(
            st.tuples(
                st.integers(1, 6),
                st.one_of(st.none(), st.integers(0, 20 * GIB)),
                st.sampled_from(["", "/", "/a", *GROUPS.values(), GROUPS["vision"] + "/child"]),
            ),
            max_size=8,
        ),
        st.integers(0, TOTAL),
    )
    def test_the_books_balance(self, listed: list[tuple[int, int | None, str]], free: int) -> None:
        processes = tuple(process(*entry) for entry in listed)
        accounts = account(Sample(1.0, "580", (DeviceSample("gpu0", "", "card", TOTAL, free, processes),)), GROUPS, GIB)
        view = accounts.devices["gpu0"]
        measured = sum(held["gpu0"] for held in accounts.measured.values())
        claimed = sum(claim.bytes for claim in view.foreign)
        assert measured + claimed + accounts.unattributed["gpu0"] + view.free == view.total


CARD = DeviceSample("gpu0", "GPU-1", "", TOTAL, GIB)
OTHER = DeviceSample("gpu1", "GPU-2", "", TOTAL, GIB)
KNOWN = {"gpu0": "GPU-1", "gpu1": "GPU-2"}


class TestBelieved:
    """What of a sample can be true."""

    def test_an_ordinary_sample_is_believed(self) -> None:
        ordinary = sample(vision(3 * GIB), foreign(GIB), vision(None, 11))
        assert believed(ordinary) == ordinary

    @pytest.mark.parametrize(
        ("device", "says"),
        [
            (replace(CARD, total=0, free=0), "size of 0 B"),
            (replace(CARD, free=TOTAL + 1), "free of"),
            (replace(CARD, free=-1), "free of"),
            (replace(CARD, processes=(vision(TOTAL + 1),)), "in use by python3"),
            (replace(CARD, processes=(vision(-1),)), "in use by python3"),
        ],
    )
    def test_nonsense_about_one_device_blinds_that_one(self, device: DeviceSample, says: str) -> None:
        found = believed(Sample(1.0, "580", (device, OTHER)))
        assert found.devices == (OTHER,) and not found.problem
        assert says in found.lost["gpu0"]
        alone = believed(Sample(1.0, "580", (device,)))
        assert not alone.devices and alone.problem.startswith("gpu0: ") and says in alone.problem

    def test_of_a_device_that_is_reported_twice_nothing_is_believed(self) -> None:
        found = believed(Sample(1.0, "580", (CARD, CARD, OTHER)))
        assert not found.devices and "gpu0 was reported twice" in found.problem

    def test_a_device_keeps_its_id_when_the_driver_numbers_those_that_are_left_anew(self) -> None:
        found = believed(Sample(1.0, "580", (replace(OTHER, id="gpu0"),)), KNOWN)
        assert found.devices == (OTHER,)
        assert found.lost.keys() == {"gpu0"} and "does not list it any more" in found.lost["gpu0"]

    def test_a_card_that_takes_the_number_of_one_that_is_gone_is_not_taken_for_it(self) -> None:
        found = believed(Sample(1.0, "580", (replace(CARD, uuid="GPU-9"), OTHER)), KNOWN)
        assert found.devices == (OTHER,) and found.lost.keys() == {"gpu0"}

    def test_where_nothing_can_be_measured_that_is_said_and_nothing_else(self) -> None:
        assert believed(Sample(1.0, "", (), "it hangs"), KNOWN).problem == "it hangs"


class TestCarried:
    """Devices that are lost stay in the books as they were."""

    def test_a_lost_device_is_not_fresh_and_keeps_what_was_booked_on_it(self) -> None:
        both = Sample(
            1.0, "580", (replace(CARD, processes=(vision(GIB),)), replace(OTHER, processes=(vision(GIB, 11),)))
        )
        before = account(both, GROUPS, reserve=0)
        now = account(Sample(2.0, "580", (replace(CARD, free=0, processes=(vision(2 * GIB),)),)), GROUPS, reserve=0)
        found = carried(now, before, {"gpu1": "it fell off the bus"}, reserve=0)
        assert found.measured == {"vision": {"gpu0": 2 * GIB, "gpu1": GIB}}
        assert found.devices["gpu0"] == now.devices["gpu0"] and found.devices["gpu0"].fresh
        lost = found.devices["gpu1"]
        assert (lost.fresh, lost.problem, lost.free) == (False, "it fell off the bus", GIB)
        assert outstanding(before, found, "vision", {"gpu1": GIB}) == {"gpu1": GIB}

    def test_a_device_that_was_never_seen_is_named_all_the_same(self) -> None:
        view = carried(books(), books(), {"gpu7": "lost"}, reserve=GIB).devices["gpu7"]
        assert (view.total, view.fresh, view.problem) == (0, False, "lost")


class TestLingering:
    def test_bytes_that_were_lost_stay_lost_as_far_as_nobody_has_them(self) -> None:
        left, without = lingering(books(foreign(2 * GIB), lingering=6 * GIB), {"gpu0": 4 * GIB})
        assert left == {"gpu0": 4 * GIB}
        # Against the accounts without them they are outstanding until they are back.
        still = books(foreign(2 * GIB), lingering=6 * GIB)
        assert outstanding(without, still, "vision", left) == {"gpu0": 4 * GIB}
        assert outstanding(without, books(foreign(3 * GIB), lingering=2 * GIB), "vision", left) == {}

    def test_bytes_that_came_back_meanwhile_are_not_lost(self) -> None:
        assert lingering(books(foreign(2 * GIB)), {"gpu0": 4 * GIB})[0] == {}
        assert lingering(books(lingering=GIB), {"gpu0": 4 * GIB, "gpu9": GIB})[0] == {"gpu0": GIB}


class TestOutstanding:
    before = books(vision(6 * GIB), foreign(2 * GIB), lingering=GIB)
    all_of_it: Mapping[str, int] = {"gpu0": 6 * GIB}

    def owed(self, now: Accounts, expected: Mapping[str, int] | None = None) -> Mapping[str, int]:
        return outstanding(self.before, now, "vision", self.all_of_it if expected is None else expected)

    def test_nothing_is_back_while_the_process_holds_it(self) -> None:
        assert self.owed(self.before) == {"gpu0": 6 * GIB}

    def test_a_gone_process_and_free_bytes_are_back(self) -> None:
        assert self.owed(books(foreign(2 * GIB), lingering=GIB)) == {}

    def test_a_gone_process_whose_bytes_linger_is_not_back(self) -> None:
        assert self.owed(books(foreign(2 * GIB), lingering=5 * GIB)) == {"gpu0": 4 * GIB}

    def test_half_given_back_is_half_outstanding(self) -> None:
        assert self.owed(books(vision(3 * GIB), foreign(2 * GIB), lingering=GIB)) == {"gpu0": 3 * GIB}

    def test_a_foreign_claim_in_the_meantime_does_not_hide_the_return(self) -> None:
        assert self.owed(books(foreign(9 * GIB), lingering=GIB)) == {}

    def test_a_foreign_exit_in_the_meantime_does_not_feign_the_return(self) -> None:
        assert self.owed(books(vision(6 * GIB), lingering=GIB)) == {"gpu0": 6 * GIB}
        assert self.owed(books(lingering=7 * GIB)) == {"gpu0": 6 * GIB}

    def test_another_process_of_the_model_still_owes(self) -> None:
        assert self.owed(books(vision(2 * GIB, pid=11), foreign(2 * GIB), lingering=GIB)) == {"gpu0": 2 * GIB}

    def test_caches_that_are_dropped_leave_the_rest_to_the_model(self) -> None:
        freed = {"gpu0": -4 * GIB}
        assert self.owed(books(vision(3 * GIB), foreign(2 * GIB), lingering=GIB), freed) == {"gpu0": GIB}
        assert self.owed(books(vision(2 * GIB), foreign(2 * GIB), lingering=GIB), freed) == {}

    def test_bytes_taken_after_the_first_sample_are_owed_by_their_process_only_while_it_lives(self) -> None:
        start = books(foreign(2 * GIB), lingering=GIB)
        failed = books(vision(5 * GIB), foreign(2 * GIB), lingering=GIB)
        assert outstanding(start, failed, "vision", {"gpu0": 5 * GIB}) == {"gpu0": 5 * GIB}
        assert outstanding(start, start, "vision", {"gpu0": 5 * GIB}) == {}

    def test_a_sample_taken_around_an_allocation_owes_nothing(self) -> None:
        assert outstanding(books(vision(6 * GIB), lingering=-GIB), books(lingering=0), "vision", self.all_of_it) == {}

    def test_a_few_bytes_of_other_contexts_are_not_waited_for(self) -> None:
        assert self.owed(books(foreign(2 * GIB), lingering=GIB + SLACK)) == {}
        assert self.owed(books(foreign(2 * GIB), lingering=GIB + SLACK + 1)) == {"gpu0": SLACK + 1}

    def test_little_is_waited_for_when_little_was_to_come(self) -> None:
        small = books(vision(SLACK))
        assert outstanding(small, books(lingering=SLACK), "vision", {"gpu0": SLACK}) == {"gpu0": SLACK}

    def test_host_memory_is_passed_over(self) -> None:
        assert self.owed(self.before, {HOST: 6 * GIB}) == {}

    @given(
        steps=st.lists(
            st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 12), st.integers(0, 12)),
            min_size=1,
            max_size=12,
        )
    )
    def test_under_any_lag_and_foreign_traffic_exactly_what_is_not_free_for_others_is_owed(
        self, steps: list[tuple[int, int, int, int]]
    ) -> None:
        """The engine gives back in two stages (its process shrinks, the driver frees) while others come and go."""
        before = books(vision(6 * GIB), foreign(2 * GIB), lingering=GIB)
        for shrunk, freed, elsewhere, second in steps:
            freed = min(freed, shrunk)
            now = books(
                *((vision((6 - shrunk) * GIB),) if shrunk < 6 else ()),
                foreign(elsewhere * GIB),
                foreign(second * GIB, pid=91),
                lingering=(1 + shrunk - freed) * GIB,
            )
            owed = outstanding(before, now, "vision", self.all_of_it)
            assert sum(owed.values()) == (6 - freed) * GIB


NEED = {"gpu0": 8 * GIB}


class TestStarved:
    """Whether a failure for lack of memory says nothing about what a model needs."""

    def test_what_others_took_of_its_room_starved_it(self) -> None:
        assert starved(books(foreign(20 * GIB)), books(foreign(25 * GIB)), "vision", NEED)
        grown = process(20, 25 * GIB, GROUPS["imagine"])
        assert starved(books(process(20, 20 * GIB, GROUPS["imagine"])), books(grown), "vision", NEED)

    def test_where_its_room_was_there_to_the_end_it_needs_more_than_that(self) -> None:
        assert not starved(books(foreign(20 * GIB)), books(foreign(23 * GIB)), "vision", NEED)
        assert not starved(books(), books(vision(9 * GIB)), "vision", NEED)

    def test_what_one_gave_back_does_not_hide_what_another_took(self) -> None:
        before = books(process(20, 20 * GIB, GROUPS["imagine"]))
        assert starved(before, books(foreign(10 * GIB)), "vision", NEED)

    def test_a_model_that_takes_nothing_is_not_starved(self) -> None:
        assert not starved(books(), books(foreign(32 * GIB)), "vision", {})
