"""Leases and how they are granted, over a world that a test makes up: descriptors, clocks and processes are real."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aitherd.conductor.books import Clock
from aitherd.conductor.granting import LONGEST, STEPS_MAX, Granting
from aitherd.conductor.leases import MOST, NAME, descriptors
from aitherd.conductor.records import Event, Records
from aitherd.conductor.store import KeptLease
from aitherd.core.policy import Policy
from aitherd.core.words import (
    HOST,
    Claim,
    DeviceId,
    DeviceView,
    ModelView,
    Residency,
    ResidencyClass,
    Step,
    World,
)
from aitherd.errors import (
    AitherError,
    CannotFit,
    DeviceBlind,
    InvalidLease,
    QueueFull,
    ShuttingDown,
    UnknownLease,
    WaitedTooLong,
)
from aitherd.host.processes import origin_of

GIB = 2**30
ME = os.getpid()
UNITS = Path(__file__).parents[3] / "units"


def card(free: int, *foreign: Claim, id: DeviceId = "gpu0", **changes: Any) -> DeviceView:
    return DeviceView(id, "card", total=32 * GIB, free=free, reserve=GIB, foreign=foreign, **changes)


def model(name: str, count: int, **changes: Any) -> ModelView:
    values: dict[str, Any] = {"residency_class": ResidencyClass.ON_DEMAND, "residency": Residency.READY, "vram": count}
    return ModelView(**{"name": name, "held_bytes": {"gpu0": count}, **values, **changes})


@dataclass
class Bench:
    """A world, and the scheduler's part in it: models that give way give their bytes back at once."""

    devices: dict[DeviceId, DeviceView]
    models: dict[str, ModelView] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    later_asked: int = 0
    saved: list[Mapping[str, KeptLease]] = field(default_factory=list)
    changes: int = 0
    stubborn: bool = False
    """Models do not give way."""

    def __post_init__(self) -> None:
        clock = Clock(lambda: 1000.0, lambda: 5000.0)
        self.records = Records(clock.unix)
        self.granting = Granting(
            clock,
            self.records,
            self.world,
            lambda: self.saved.append(self.granting.leases.kept),
            lambda: setattr(self, "changes", self.changes + 1),
        )

    @property
    def leases(self) -> Any:
        return self.granting.leases

    def world(self) -> World:
        return World(dict(self.devices), dict(self.models), self.granting.leases.claims())

    def policy(self) -> Policy:
        return Policy(min_residency=0.0)

    async def survey(self) -> World:
        await asyncio.sleep(0)
        return self.world()

    async def make_room(self, step: Step) -> bool:
        self.steps.append(f"{step.verb} {step.model}")
        if self.stubborn:
            return False
        gone = self.models.pop(step.model)
        for device, count in gone.held_bytes.items():
            view = self.devices[device]
            self.devices[device] = card(view.free + count, *view.foreign, id=device)
        return True

    def later(self, name: str) -> None:
        self.later_asked += 1

    async def ask(self, count: int, device: DeviceId | None = None, **options: Any) -> Any:
        """Asks, and gives everybody who waits one turn."""
        values = {"purpose": "a game", "pid": ME, **options}
        asked = asyncio.create_task(self.granting.acquire(count, device, **values))
        await asyncio.sleep(0)
        for demand in self.granting.waiting:
            await self.granting.grant(demand, self)
        return await asked

    def told(self, event: Event) -> list[str]:
        return [record.message for record in self.records.latest() if record.event is event]


@pytest.fixture
async def bench() -> Any:
    made = Bench({"gpu0": card(31 * GIB), HOST: card(100 * GIB, id=HOST)})
    yield made
    made.granting.close()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours."""
    made = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield made
    made.kill()
    made.communicate()


async def over(bench: Bench) -> None:
    """Returns when there is no lease left."""
    async with asyncio.timeout(5):
        while bench.granting.list():  # noqa: ASYNC110 - that is what is to be seen
            await asyncio.sleep(0.001)


class TestGranting:
    async def test_what_is_free_is_granted_and_promised(self, bench: Bench) -> None:
        grant = await bench.ask(20 * GIB)
        with grant.descriptor:
            assert bench.world().leases == (Claim("a game", ME, "gpu0", 20 * GIB),)
            with pytest.raises(WaitedTooLong, match=r"a game keeps 20 GiB \(leased, not used yet\)"):
                await bench.ask(11 * GIB, timeout=0.01)
        assert bench.later_asked == 1
        assert bench.granting.waiting == ()

    async def test_idle_models_give_way_one_after_the_other_and_no_more_than_needed(self, bench: Bench) -> None:
        bench.devices["gpu0"] = card(4 * GIB)
        bench.models = {
            name: model(name, 9 * GIB, last_used=used) for name, used in (("old", 1.0), ("older", 0.5), ("new", 999.0))
        }
        bench.models["new"] = model("new", 9 * GIB, busy=True)
        grant = await bench.ask(20 * GIB)
        grant.descriptor.close()
        assert sorted(bench.steps) == ["stop old", "stop older"]
        assert "to grant lease" in bench.told(Event.PLAN)[0] and "must give way" in bench.told(Event.PLAN)[0]

    @pytest.mark.parametrize(
        "keeps", [{"busy": True}, {"held": True}, {"residency_class": ResidencyClass.ESSENTIAL}, {"waiting": 1}]
    )
    async def test_who_may_not_give_way_is_not_asked_to(self, bench: Bench, keeps: dict[str, Any]) -> None:
        bench.devices["gpu0"] = card(11 * GIB)
        bench.models = {"chat": model("chat", 20 * GIB, **keeps)}
        with pytest.raises((CannotFit, WaitedTooLong), match="chat keeps 20 GiB"):
            await bench.ask(12 * GIB, timeout=0.01)
        assert bench.steps == []

    async def test_models_that_never_give_way_do_not_hold_up_the_others_for_ever(self, bench: Bench) -> None:
        bench.devices["gpu0"] = card(11 * GIB)
        bench.models = {"chat": model("chat", 20 * GIB)}
        bench.stubborn = True
        with pytest.raises(WaitedTooLong, match="stop chat"):
            await bench.ask(12 * GIB, timeout=0.5)
        assert len(bench.steps) == STEPS_MAX and bench.later_asked == 1
        assert len(bench.told(Event.PLAN)) == 1, "the same plan is told once"

    async def test_an_asker_that_leaves_in_the_middle_evicts_nobody_more(self, bench: Bench) -> None:
        bench.devices["gpu0"] = card(4 * GIB)
        bench.models = {name: model(name, 9 * GIB) for name in ("one", "two")}
        asked = asyncio.create_task(bench.granting.acquire(20 * GIB, None, "a game", ME))
        await asyncio.sleep(0)
        (demand,) = bench.granting.waiting
        make_room = bench.make_room

        async def leave(step: Step) -> bool:
            asked.cancel()
            return await make_room(step)

        bench.make_room = leave  # type: ignore[method-assign]
        await bench.granting.grant(demand, bench)
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert len(bench.steps) == 1 and len(bench.leases) == 0 and bench.granting.waiting == ()
        assert "was not granted" in bench.told(Event.ENDED)[0]

    async def test_a_grant_that_nobody_takes_any_more_ends(self, bench: Bench) -> None:
        asked = asyncio.create_task(bench.granting.acquire(GIB, None, "a game", ME))
        await asyncio.sleep(0)
        (demand,) = bench.granting.waiting
        await bench.granting.grant(demand, bench)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await over(bench)

    async def test_what_the_holder_uses_already_is_not_claimed_again(self, bench: Bench) -> None:
        # 3 GiB can be had; it uses 8.
        bench.devices["gpu0"] = card(4 * GIB, Claim("python", ME, "gpu0", 8 * GIB))
        bench.models = {"chat": model("chat", 20 * GIB)}
        first = await bench.ask(8 * GIB)
        second = await bench.ask(3 * GIB)
        assert bench.steps == []
        third = await bench.ask(GIB)
        assert bench.steps == ["stop chat"]
        assert [lease.used for lease in bench.granting.list()] == [8 * GIB, 0, 0]
        for grant in (first, second, third):
            grant.descriptor.close()

    async def test_any_device_is_where_its_holder_is_already_or_one_with_room(self, bench: Bench) -> None:
        bench.devices = {
            "gpu0": card(4 * GIB, Claim("python", ME, "gpu0", 2 * GIB)),
            "gpu1": card(20 * GIB, id="gpu1"),
        }
        for count, device in ((5 * GIB, "gpu0"), (6 * GIB, "gpu1")):
            grant = await bench.ask(count)
            grant.descriptor.close()
            assert grant.device == device

    async def test_what_can_never_be_is_refused_before_its_turn(self, bench: Bench) -> None:
        bench.models = {"chief": model("chief", 20 * GIB, residency_class=ResidencyClass.ESSENTIAL)}
        for count in (12 * GIB, 40 * GIB, 2**64 - 1):
            with pytest.raises(CannotFit, match=r"short: of 32 GiB, chief keeps 20 GiB \(essential\), 1 GiB are"):
                await bench.granting.acquire(count, None, "a game", ME)
        assert len(bench.told(Event.REFUSED)) == 3

    async def test_a_device_that_cannot_be_measured_takes_none(self, bench: Bench) -> None:
        for used in (0, 9 * GIB):
            mine = Claim("python", ME, "gpu0", used)
            bench.devices["gpu0"] = card(31 * GIB - used, mine, fresh=False, problem="lost; reset it")
            with pytest.raises(DeviceBlind, match="lost; reset it"):
                await bench.ask(8 * GIB)

    @pytest.mark.parametrize(
        ("count", "device", "seconds"),
        [
            (0, None, 0.0),
            (-GIB, None, 0.0),
            (GIB, "gpu7", 0.0),
            (GIB, "", 0.0),
            (GIB, HOST, 0.0),
            (GIB, None, -1.0),
            (GIB, None, LONGEST + 1),
            (GIB, None, float("nan")),
            (GIB, None, float("inf")),
        ],
    )
    async def test_nonsense_is_refused(self, bench: Bench, count: int, device: DeviceId | None, seconds: float) -> None:
        with pytest.raises(InvalidLease) as refused:
            await bench.granting.acquire(count, device, "a game", ME, seconds)
        assert refused.value.remedy
        assert bench.granting.waiting == () and len(bench.leases) == 0

    async def test_there_are_no_more_than_the_manager_keeps(self, bench: Bench) -> None:
        for unit in ("system", "user"):
            assert f"\nFileDescriptorStoreMax={MOST}\n" in (UNITS / unit / "aitherd.service").read_text()
        grants = [await bench.ask(1) for _ in range(MOST)]
        with pytest.raises(QueueFull):
            await bench.ask(1)
        for grant in grants:
            grant.descriptor.close()

    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ("  Doom\n\teternal ", "Doom eternal"),
            ("x" * 500, "x" * 80),
            ("\0", Path("/proc/self/comm").read_text()[:-1]),
        ],
    )
    async def test_a_purpose_is_one_line_for_people(self, bench: Bench, given: str, shown: str) -> None:
        grant = await bench.ask(GIB, purpose=given)
        grant.descriptor.close()
        assert bench.granting.list()[0].purpose == shown

    async def test_closing_refuses_who_waits_and_ends_nobody(self, bench: Bench) -> None:
        grant = await bench.ask(GIB)
        asked = asyncio.create_task(bench.granting.acquire(GIB, None, "a game", ME))
        await asyncio.sleep(0)
        bench.granting.close()
        with pytest.raises(ShuttingDown):
            await asked
        assert bench.told(Event.ENDED) == []
        # Nobody but the manager, which there is none of here, has our end now.
        assert grant.descriptor.recv(1) == b""
        grant.descriptor.close()

    async def test_an_unforeseen_error_ends_the_wait(self, bench: Bench) -> None:
        asked = asyncio.create_task(bench.granting.acquire(GIB, None, "a game", ME))
        await asyncio.sleep(0)
        (demand,) = bench.granting.waiting
        bench.granting.ended(demand, None)
        assert not asked.done()
        bench.granting.ended(demand, AitherError("broken"))
        with pytest.raises(AitherError, match="broken"):
            await asked


class TestLeases:
    async def ended(self, bench: Bench) -> str:
        await over(bench)
        (message,) = bench.told(Event.ENDED)
        assert bench.saved[-1] == {}
        return message

    async def test_it_ends_when_every_copy_of_the_descriptor_is_closed(self, bench: Bench) -> None:
        grant = await bench.ask(GIB)
        copy = grant.descriptor.dup()
        # What a holder says is read and means nothing.
        grant.descriptor.send(b"x" * 10000)
        grant.descriptor.close()
        await asyncio.sleep(0.01)
        assert len(bench.leases) == 1
        copy.close()
        assert "its holder ended or let go of it; 1 GiB on gpu0 are no longer promised" in await self.ended(bench)
        assert bench.world().leases == ()

    async def test_it_ends_with_its_time(self, bench: Bench) -> None:
        grant = await bench.ask(GIB, seconds=0.01)
        assert "its time ran out" in await self.ended(bench)
        assert grant.descriptor.recv(1) == b""
        grant.descriptor.close()

    async def test_it_is_released_once(self, bench: Bench) -> None:
        grant = await bench.ask(GIB)
        await bench.granting.release(grant.id)
        assert "it was released" in await self.ended(bench)
        assert grant.descriptor.recv(1) == b""
        grant.descriptor.close()
        with pytest.raises(UnknownLease):
            await bench.granting.release(grant.id)

    async def test_what_was_saved_and_kept_goes_on_and_the_rest_has_ended(self, bench: Bench) -> None:
        grants = [await bench.ask(GIB, purpose=name) for name in ("kept", "lost")]
        saved = bench.saved[-1]
        ours = [bench.leases._granted[grant.id].ours.dup() for grant in grants]
        bench.granting.close()
        ours[1].close()
        unknown = grants[1].descriptor
        passed = {"proxy": [], NAME + grants[0].id: [ours[0]], NAME + "who": [unknown]}
        found = descriptors(passed)
        assert list(passed) == ["proxy"]
        after = Bench({"gpu0": card(31 * GIB)})
        after.leases.restore(saved, found)
        (lease,) = after.granting.list()
        assert (lease.id, lease.purpose, lease.bytes, lease.pid) == (grants[0].id, "kept", GIB, ME)
        assert unknown.fileno() == -1, "a descriptor without terms is closed"
        (message,) = after.told(Event.ENDED)
        assert "(lost) has ended" in message and "while aitherd was away" in message
        grants[0].descriptor.close()
        await over(after)

    async def test_descendants_belong_to_their_nearest_holder(
        self, bench: Bench, child: subprocess.Popen[bytes]
    ) -> None:
        mine = await bench.ask(GIB)
        assert bench.leases.kin([ME, child.pid, os.getppid(), 1, 2**22 + 1]) == {ME: ME, child.pid: ME}
        its = await bench.ask(GIB, pid=child.pid)
        assert bench.leases.kin([child.pid, ME]) == {child.pid: child.pid, ME: ME}
        for grant in (mine, its):
            grant.descriptor.close()

    async def test_a_pid_that_another_process_has_now_is_not_the_holders(self, bench: Bench) -> None:
        origin = origin_of(ME)
        assert origin is not None
        terms = KeptLease(GIB, "gpu0", "a game", ME, origin.started - 1, since=1.0, ends=0.0)
        descriptor = bench.leases.begin("a1", terms)
        assert bench.leases.kin([ME]) == {}
        assert bench.leases.claims() == (Claim("a game", 0, "gpu0", GIB),), "the promise stays"
        descriptor.close()
