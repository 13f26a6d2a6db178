"""The systemd manager over its bus: a real `systemd --user`, real units."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from signal import Signals

import pytest
from sdbus import SdBus

from aitherd.errors import HostFailure
from aitherd.host import dbus
from aitherd.host.systemd import MANAGER, MANAGER_PATH, SYSTEMD, JobFailed, Property, Systemd, UnitExists

MODEL = "aither-probe-engine.service"


@pytest.fixture
async def systemd(bus: SdBus) -> AsyncIterator[Systemd]:
    manager = await Systemd.connect(bus)
    yield manager
    for unit in await manager.list_units("aither-*.service"):
        await manager.kill_unit(unit.name, Signals.SIGKILL)
        await manager.stop_unit(unit.name)
        await manager.reset_failed(unit.name)
    await manager.close()


def runs(*argv: str, kind: str = "exec") -> list[Property]:
    return [("Type", ("s", kind)), ("ExecStartEx", ("a(sasas)", [(argv[0], list(argv), ["no-env-expand"])]))]


SLEEPS = runs("/bin/sleep", "600")


@asynccontextmanager
async def told(systemd: Systemd, wanted: Callable[[str], bool]) -> AsyncIterator[None]:
    """Inside the block something happens; at its end a watcher has been told of a unit that is wanted."""
    heard = asyncio.Event()
    unwatch = systemd.watch(lambda unit: heard.set() if wanted(unit) else None)
    yield
    async with asyncio.timeout(10):
        await heard.wait()
    unwatch()


async def settled(systemd: Systemd, unit: str, state: str) -> None:
    """Waits, by the watch alone, until the unit is in `state` (`gone` when it is not loaded)."""
    heard = asyncio.Event()
    unwatch = systemd.watch(lambda name: heard.set() if name == unit else None)
    async with asyncio.timeout(10):
        while True:
            heard.clear()
            found = await systemd.unit(unit)
            if (found.active_state if found else "gone") == state:
                break
            await heard.wait()
    unwatch()


async def test_a_transient_unit_is_active_when_its_start_returns_and_gone_when_its_stop_returns(
    systemd: Systemd,
) -> None:
    await systemd.start_transient(MODEL, [*SLEEPS, ("Description", ("s", "a probe"))])
    unit = await systemd.unit(MODEL)
    assert unit is not None
    assert (unit.name, unit.load_state, unit.active_state, unit.sub_state) == (MODEL, "loaded", "active", "running")
    assert unit.main_pid > 0
    assert len(unit.invocation_id) == 32
    assert unit.control_group.endswith(f"/{MODEL}")
    assert unit.active_enter_monotonic > 0
    await systemd.stop_unit(MODEL)
    assert await systemd.unit(MODEL) is None


async def test_the_fields_that_a_creator_leaves_come_back_as_a_mapping(systemd: Systemd) -> None:
    fields = ("LogExtraFields", ("aay", [b"AITHER_MODEL=probe", b"AITHER_ENDPOINT=unix:/a=b", "AITHER_X=ü".encode()]))
    await systemd.start_transient(MODEL, [*SLEEPS, fields])
    unit = await systemd.unit(MODEL)
    assert unit is not None
    assert dict(unit.log_extra_fields) == {
        "AITHER_MODEL": "probe",
        "AITHER_ENDPOINT": "unix:/a=b",
        "AITHER_X": "ü",
    }


async def test_a_command_that_cannot_be_executed_fails_the_start(systemd: Systemd) -> None:
    with pytest.raises(JobFailed) as failure:
        await systemd.start_transient(MODEL, runs("/nonexistent/engine"))
    assert (failure.value.unit, failure.value.result) == (MODEL, "failed")
    unit = await systemd.unit(MODEL)
    assert unit is not None
    assert (unit.active_state, unit.result, unit.exec_main_status) == ("failed", "exit-code", 203)


async def test_a_failed_unit_keeps_its_name_until_it_is_reset(systemd: Systemd) -> None:
    await systemd.start_transient(MODEL, runs("/bin/sh", "-c", "exit 7", kind="simple"))
    await settled(systemd, MODEL, "failed")
    unit = await systemd.unit(MODEL)
    assert unit is not None
    assert (unit.result, unit.exec_main_code, unit.exec_main_status) == ("exit-code", 1, 7)
    with pytest.raises(UnitExists):
        await systemd.start_transient(MODEL, SLEEPS)
    await systemd.reset_failed(MODEL)
    await systemd.start_transient(MODEL, SLEEPS)


async def test_a_name_that_runs_cannot_be_taken(systemd: Systemd) -> None:
    await systemd.start_transient(MODEL, SLEEPS)
    with pytest.raises(UnitExists) as failure:
        await systemd.start_transient(MODEL, SLEEPS)
    assert failure.value.unit == MODEL
    assert "reset-failed" in failure.value.remedy


@pytest.mark.parametrize(
    ("offending", "named"),
    [
        (("Nonsense", ("s", "x")), "Nonsense"),
        (("CPUWeight", ("t", 99_999_999)), "CPUWeight"),
        (("MemoryMax", ("s", "12G")), "MemoryMax"),
        (("MemoryMax", ("t", "12G")), "MemoryMax"),
        (("MemoryMax", ("t", -1)), "MemoryMax"),
        (("MemoryMax", ("?", 1)), "MemoryMax"),
        (("Nice", ("i", 99)), "Nice"),
        (("OOMPolicy", ("s", "sometimes")), "OOMPolicy"),
    ],
)
async def test_a_property_that_systemd_does_not_take_is_named(
    systemd: Systemd, offending: Property, named: str
) -> None:
    with pytest.raises(HostFailure) as failure:
        await systemd.start_transient(MODEL, [("CPUQuotaPerSecUSec", ("t", 10**6)), *SLEEPS, offending])
    assert named in failure.value.message
    assert "CPUQuotaPerSecUSec" not in failure.value.message
    assert "[resources]" in failure.value.remedy
    assert await systemd.unit(MODEL) is None


async def test_many_jobs_at_once_each_end_for_whoever_waits(systemd: Systemd) -> None:
    """Short commands end before the reply to their start is read: no end may be lost."""
    units = [f"aither-many{i}-engine.service" for i in range(40)]
    async with asyncio.timeout(30):
        await asyncio.gather(*(systemd.start_transient(unit, runs("/bin/true", kind="oneshot")) for unit in units))
        await asyncio.gather(*(systemd.stop_unit(unit) for unit in units for _ in range(2)))


async def test_a_job_that_ends_before_its_reply_is_read_is_not_lost(systemd: Systemd, bus: SdBus) -> None:
    await systemd.start_transient(MODEL, SLEEPS)
    ended = asyncio.Event()
    slot = await bus.match_signal_async(SYSTEMD, MANAGER_PATH, MANAGER, "JobRemoved", lambda _: ended.set())

    async def dispatch_read_late() -> tuple[object, ...]:
        reply = await dbus.ask(bus, SYSTEMD, MANAGER_PATH, MANAGER, "StopUnit", "ss", MODEL, "replace")
        await ended.wait()
        return reply

    async with asyncio.timeout(10):
        await systemd._job(MODEL, False, dispatch_read_late(), timeout=5)
    slot.close()


async def test_a_wait_that_runs_out_leaves_the_job_to_systemd(systemd: Systemd) -> None:
    with pytest.raises(JobFailed) as failure:
        await systemd.start_transient(MODEL, runs("/bin/sleep", "600", kind="oneshot"), timeout=0.05)
    assert failure.value.result == "unfinished"
    unit = await systemd.unit(MODEL)
    assert unit is not None
    assert unit.active_state == "activating"


async def test_a_start_that_a_stop_overtakes_is_canceled(systemd: Systemd) -> None:
    start = asyncio.create_task(systemd.start_transient(MODEL, runs("/bin/sleep", "600", kind="oneshot")))
    await settled(systemd, MODEL, "activating")
    await systemd.stop_unit(MODEL)
    with pytest.raises(JobFailed) as failure:
        await start
    assert failure.value.result == "canceled"


async def test_closing_ends_every_wait(bus: SdBus, systemd: Systemd) -> None:
    other = await Systemd.connect(bus)
    start = asyncio.create_task(other.start_transient(MODEL, runs("/bin/sleep", "600", kind="oneshot")))
    await settled(systemd, MODEL, "activating")
    await other.close()
    with pytest.raises(HostFailure, match="closed"):
        await start


async def test_cancelling_a_wait_does_not_cancel_the_job(systemd: Systemd) -> None:
    start = asyncio.create_task(systemd.start_transient(MODEL, runs("/bin/sleep", "600", kind="oneshot")))
    await settled(systemd, MODEL, "activating")
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    unit = await systemd.unit(MODEL)
    assert unit is not None
    assert unit.active_state == "activating"


async def test_what_is_not_there_needs_no_stop_no_kill_and_no_reset(systemd: Systemd) -> None:
    await systemd.stop_unit(MODEL)
    await systemd.kill_unit(MODEL, Signals.SIGKILL)
    await systemd.reset_failed(MODEL)
    assert await systemd.unit(MODEL) is None
    with pytest.raises(HostFailure, match="no aither-probe"):
        await systemd.start_unit(MODEL)


async def test_a_kill_reaches_every_process_of_the_unit(systemd: Systemd) -> None:
    script = "sleep 600 & sleep 600 & wait"
    await systemd.start_transient(MODEL, runs("/bin/sh", "-c", script))
    await systemd.kill_unit(MODEL, Signals.SIGKILL)
    await settled(systemd, MODEL, "failed")
    unit = await systemd.unit(MODEL)
    assert unit is not None
    assert (unit.result, unit.exec_main_code, unit.exec_main_status) == ("signal", 2, Signals.SIGKILL)
    assert unit.control_group == ""


async def test_looking_at_a_unit_that_is_not_there_tells_no_watcher(systemd: Systemd) -> None:
    """Or a watcher that looks would be told again, for ever."""
    heard: list[str] = []
    systemd.watch(heard.append)
    assert await systemd.unit("aither-nobody-engine.service") is None
    async with told(systemd, lambda unit: unit == MODEL):
        await systemd.start_transient(MODEL, SLEEPS)
    assert "aither-nobody-engine.service" not in heard


async def test_a_watcher_is_told_of_death_and_of_going_away_and_of_nothing_foreign(systemd: Systemd) -> None:
    heard: list[str] = []
    systemd.watch(heard.append)
    await systemd.start_transient("foreign.service", runs("/bin/true"))
    await systemd.start_transient(MODEL, SLEEPS)
    async with told(systemd, lambda unit: unit == MODEL):
        await systemd.kill_unit(MODEL, Signals.SIGKILL)
    await settled(systemd, MODEL, "failed")
    async with told(systemd, lambda unit: unit == MODEL):
        await systemd.reset_failed(MODEL)
    await settled(systemd, MODEL, "gone")
    assert set(heard) == {MODEL}


async def test_a_watch_that_ended_is_told_nothing(systemd: Systemd) -> None:
    heard: list[str] = []
    systemd.watch(heard.append)()
    async with told(systemd, lambda unit: unit == MODEL):
        await systemd.start_transient(MODEL, SLEEPS)
    assert heard == []


async def test_units_are_listed_by_pattern(systemd: Systemd) -> None:
    names = ["aither-a-engine.service", "aither-b-c-engine.service"]
    for name in [*names, "elsewhere.service"]:
        await systemd.start_transient(name, SLEEPS)
    assert [unit.name for unit in await systemd.list_units("aither-*-engine.service", "nothing-*")] == names
    assert await systemd.list_units("nothing-*") == ()
    await systemd.stop_unit("elsewhere.service")


async def test_a_forged_signal_ends_no_wait(systemd: Systemd, bus: SdBus) -> None:
    """The broker delivers to us what anybody addresses to us: only the manager itself is believed."""
    start = asyncio.create_task(systemd.start_transient(MODEL, runs("/bin/sleep", "600", kind="oneshot")))
    await settled(systemd, MODEL, "activating")
    (path,) = systemd._jobs
    call = dbus.message(bus, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId")
    us = (await bus.call_async(call)).destination
    assert us is not None
    emit = ["busctl", "--user", "emit", f"--destination={us}", MANAGER_PATH, MANAGER, "JobRemoved"]
    forger = await asyncio.create_subprocess_exec(*emit, "uoss", "1", path, MODEL, "done")
    assert await forger.wait() == 0
    await systemd.unit(MODEL)
    assert not start.done()
    start.cancel()


def reexecute(bus: SdBus) -> None:
    """`systemctl daemon-reexec`: the manager leaves the bus and joins it again under another address."""
    dbus.message(bus, SYSTEMD, MANAGER_PATH, MANAGER, "Reexecute").send()


async def test_waits_and_watches_outlive_a_reexecution_of_the_manager(systemd: Systemd, bus: SdBus) -> None:
    stopping = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done"
    await systemd.start_transient(MODEL, runs("/bin/sh", "-c", stopping))
    stop = asyncio.create_task(systemd.stop_unit(MODEL))
    await settled(systemd, MODEL, "deactivating")
    reexecute(bus)
    async with asyncio.timeout(20):
        await stop
    async with told(systemd, lambda unit: unit == "aither-later-engine.service"):
        await systemd.start_transient("aither-later-engine.service", SLEEPS)


async def test_calls_while_the_manager_reexecutes_itself_are_answered_when_it_is_back(
    systemd: Systemd, bus: SdBus
) -> None:
    for turn in range(6):
        reexecute(bus)
        names = [f"aither-turn{turn}-{place}-engine.service" for place in range(4)]
        async with asyncio.timeout(30):
            for name in names:
                await systemd.start_transient(name, SLEEPS)
                unit = await systemd.unit(name)
                assert unit is not None
                assert unit.active_state == "active"
            assert [unit.name for unit in await systemd.list_units(f"aither-turn{turn}-*")] == names
            await asyncio.gather(*map(systemd.stop_unit, names))


async def test_what_was_missed_while_the_manager_was_away_is_caught_up(systemd: Systemd, bus: SdBus) -> None:
    deaf = await Systemd.connect(bus)
    for slot in deaf._slots[1:]:  # all but the one that tells of the manager's address
        slot.close()
    await systemd.start_transient(MODEL, SLEEPS)
    stop = asyncio.create_task(deaf.stop_unit(MODEL))
    start = asyncio.create_task(deaf.start_transient("aither-bad-engine.service", runs("/nonexistent/engine")))
    await settled(systemd, MODEL, "gone")
    await settled(systemd, "aither-bad-engine.service", "failed")
    assert not stop.done()
    async with asyncio.timeout(20), told(deaf, lambda unit: unit == "aither-bad-engine.service"):
        reexecute(bus)
        await stop
        with pytest.raises(JobFailed, match="failed"):
            await start
    await deaf.close()
