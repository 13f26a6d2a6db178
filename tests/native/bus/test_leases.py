"""Leases over the bus: who asks is who calls, and the descriptor that goes over is the only one of its end."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest
from sdbus.sd_bus_internals import sd_bus_open_user

from aitherd.bus.names import BUS_NAME, MANAGER
from aitherd.bus.service import BusService
from tests.native.bus.broker import Broker
from tests.native.bus.client import BusError, Client
from tests.native.bus.fleet import GIB, NOW, SmallFleet, SmallLeasing

WANTED = ("tssu", 8 * GIB, "gpu0", "a game", 60)


async def test_the_descriptor_is_the_holders_alone(client: Client, leasing: SmallLeasing, service: BusService) -> None:
    descriptor, lease, device = await client.manager("AcquireLease", *WANTED)
    assert (lease, device) == ("a0", "gpu0")
    ours = leasing.held["a0"]
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    os.close(descriptor)
    async with asyncio.timeout(10):
        assert await asyncio.get_running_loop().sock_recv(ours, 1) == b"", "the service has no copy left"


async def test_the_holder_is_the_caller(client: Client, leasing: SmallLeasing, service: BusService) -> None:
    descriptor, *_ = await client.manager("AcquireLease", *WANTED)
    os.close(descriptor)
    usec = round(NOW * 1_000_000)
    row = ("a0", False, "gpu0", 8 * GIB, 0, "a game", os.getpid(), usec, usec + 60_000_000, "")
    assert await client.manager("ListLeases") == [row]


async def test_leases_are_announced_while_they_are_waited_for(
    client: Client, leasing: SmallLeasing, service: BusService
) -> None:
    leasing.gate.clear()
    async with client.signals("PropertiesChanged") as seen:
        asked = asyncio.create_task(client.manager("AcquireLease", *WANTED))
        async with asyncio.timeout(10):
            while not any("Leases" in changes for _, changes, _ in seen):  # noqa: ASYNC110 - signals come when they come
                await asyncio.sleep(0.01)
    (interface, changes, _), *_ = [one for one in seen if "Leases" in one[1]]
    ((_, waiting, *_, stage),) = changes["Leases"][1]
    assert (interface, waiting, stage) == (MANAGER, True, "waiting for the gate")
    leasing.gate.set()
    os.close((await asked)[0])


async def test_a_caller_that_leaves_asks_no_more(broker: Broker, leasing: SmallLeasing, service: BusService) -> None:
    leasing.gate.clear()
    asker = await broker.start(sys.executable, "-m", "aitherd.ctl", "--user", "lease", "--vram", "8G", "true")
    await broker.until(lambda: leasing.leases.get("a0") is not None)
    assert leasing.leases["a0"].pid == asker.pid
    asker.kill()
    await asker.wait()
    await broker.until(lambda: leasing.leases == {})


async def test_a_lease_is_released_by_its_id(client: Client, leasing: SmallLeasing, service: BusService) -> None:
    descriptor, lease, _ = await client.manager("AcquireLease", *WANTED)
    await client.manager("ReleaseLease", "s", lease)
    assert os.read(descriptor, 1) == b""
    os.close(descriptor)
    with pytest.raises(BusError, match=f"{BUS_NAME}.Error.NoSuchLease: there is no lease {lease}"):
        await client.manager("ReleaseLease", "s", lease)


async def test_the_end_of_the_service_ends_the_wait(client: Client, leasing: SmallLeasing, service: BusService) -> None:
    leasing.gate.clear()
    asked = asyncio.create_task(client.manager("AcquireLease", *WANTED))
    async with asyncio.timeout(10):
        while not leasing.leases:  # noqa: ASYNC110 - the call comes when it comes
            await asyncio.sleep(0.01)
    await service.stop()
    with pytest.raises(BusError, match="ShuttingDown"):
        await asked
    assert leasing.leases == {}


async def test_two_callers_have_two_leases(
    broker: Broker, client: Client, fleet: SmallFleet, leasing: SmallLeasing, service: BusService
) -> None:
    other = Client(sd_bus_open_user())
    answers = await asyncio.gather(client.manager("AcquireLease", *WANTED), other.manager("AcquireLease", *WANTED))
    assert sorted(lease for _, lease, _ in answers) == ["a0", "a1"]
    os.close(answers[0][0])
    assert len(leasing.held) == 2
    os.close(answers[1][0])
