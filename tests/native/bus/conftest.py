"""A bus of its own for each test, the service on it, and a client."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sdbus import SdBus
from sdbus.sd_bus_internals import sd_bus_open_user

from aitherd.bus.authority import Authority
from aitherd.bus.service import BusService
from aitherd.host import log
from aitherd.proxy.routing import Routing
from tests.native.bus.broker import Broker
from tests.native.bus.client import Client
from tests.native.bus.fleet import SmallFleet, SmallLeasing


@pytest.fixture
async def broker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    """The bus."""
    if shutil.which("dbus-daemon") is None or shutil.which("busctl") is None:
        pytest.skip("no dbus-daemon or no busctl: install dbus and systemd")
    # A short path: a socket's has 108 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="aither-bus-"))
    bus = Broker(folder)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus.address)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
    try:
        await bus.open()
        yield bus
    finally:
        await bus.close()
        shutil.rmtree(folder)


@pytest.fixture
def connection(broker: Broker) -> SdBus:
    """The service's connection."""
    return sd_bus_open_user()


@pytest.fixture
def client(broker: Broker) -> Client:
    """Somebody else on the bus."""
    return Client(sd_bus_open_user())


@pytest.fixture
def fleet() -> SmallFleet:
    """What the service serves."""
    return SmallFleet()


@pytest.fixture
def leasing(fleet: SmallFleet) -> Iterator[SmallLeasing]:
    """Who grants leases."""
    one = SmallLeasing(fleet)
    yield one
    for ours in one.held.values():
        ours.close()


@pytest.fixture
async def routing(fleet: SmallFleet) -> AsyncIterator[Routing]:
    """Where requests go: nowhere yet, besides the fleet."""
    one = Routing(fleet, records=fleet.records)
    yield one
    await one.close()


@pytest.fixture
async def service(
    connection: SdBus, fleet: SmallFleet, leasing: SmallLeasing, routing: Routing
) -> AsyncIterator[BusService]:
    """The service, on the user's bus. A reload adds the model `newcomer`."""

    async def reload() -> None:
        from tests.native.bus.fleet import model

        fleet.configure({**fleet.models, "newcomer": model("newcomer")})

    one = BusService(connection, fleet, leasing, fleet.records, routing, reload, Authority(connection, user=True), log)
    await one.start()
    yield one
    await one.stop()
