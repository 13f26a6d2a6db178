"""Who may do what on a system bus: the service opened as there, the real polkit with aitherd's own actions."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncIterator

import pytest
from sdbus.sd_bus_internals import sd_bus_open_system

from aitherd.bus.authority import Authority
from aitherd.bus.names import BUS_NAME, MANAGER, MODEL, ROOT, model_path
from aitherd.bus.service import BusService
from aitherd.proxy.routing import Routing
from tests.native.bus.broker import POLKITD, Broker, Ran
from tests.native.bus.fleet import SmallFleet, SmallLeasing

NOBODY = pwd.getpwnam("nobody").pw_uid

NOBODY_MAY_START_VISION = """
polkit.addRule(function (action, subject) {
    var start = action.id === "org.aitheros.Aither1.start";
    if (start && action.lookup("model") === "vision" && subject.user === "nobody") {
        return polkit.Result.YES;
    }
    return polkit.Result.NOT_HANDLED;
});
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can call as another user")


@pytest.fixture
async def system_service(broker: Broker, fleet: SmallFleet) -> AsyncIterator[BusService]:
    """The service, opened as on a system bus."""
    bus = sd_bus_open_system()

    async def reload() -> None:
        fleet.tell("")

    one = BusService(bus, fleet, SmallLeasing(fleet), fleet.records, Routing(fleet), reload, Authority(bus, user=False))
    await one.start()
    broker.open_to_all()
    yield one
    await one.stop()


@pytest.fixture
async def polkit(broker: Broker) -> None:
    """polkit on the same bus."""
    if not POLKITD.exists():
        pytest.skip("no polkitd: install polkitd")
    await broker.open_polkit(NOBODY_MAY_START_VISION)


async def call(broker: Broker, member: str, *arguments: str, user: int | None = NOBODY) -> Ran:
    """A call of the manager by somebody."""
    return await broker.run("busctl", "--system", "call", BUS_NAME, ROOT, MANAGER, member, *arguments, user=user)


async def test_reading_is_free(broker: Broker, system_service: BusService) -> None:
    for arguments in (
        ("tree", BUS_NAME),
        ("introspect", BUS_NAME, model_path("vision")),
        ("get-property", BUS_NAME, model_path("vision"), MODEL, "Residency"),
        ("call", BUS_NAME, ROOT, MANAGER, "ListModels"),
        ("call", BUS_NAME, ROOT, MANAGER, "Plan", "s", "vision"),
        ("call", BUS_NAME, ROOT, MANAGER, "History", "su", "", "0"),
    ):
        ran = await broker.run("busctl", "--system", "--no-pager", *arguments, user=NOBODY)
        assert ran.status == 0, ran.err


async def test_root_needs_no_polkit(broker: Broker, fleet: SmallFleet, system_service: BusService) -> None:
    assert (await call(broker, "ForceStop", "s", "vision", user=None)).status == 0
    assert fleet.stopped == [("vision", True)]


async def test_without_polkit_nobody_else_changes_anything(
    broker: Broker, fleet: SmallFleet, system_service: BusService
) -> None:
    ran = await call(broker, "Stop", "s", "vision")
    assert "not allowed to stop vision: polkit does not answer" in ran.err
    assert fleet.stopped == []


async def test_polkit_decides_by_action_and_model(
    broker: Broker, fleet: SmallFleet, system_service: BusService, polkit: None
) -> None:
    ran = await call(broker, "Hold", "s", "qwen2.5-vl")
    assert ran.status == 0, ran.err
    assert fleet.models["vision"].held
    refused = {
        "not allowed to start 0.5b-draft": ("Start", "s", "0.5b-draft"),
        "not allowed to stop vision": ("Stop", "s", "vision"),
        "not allowed to manage vision": ("ForceStop", "s", "vision"),
        "not allowed to reload": ("Reload",),
    }
    for message, arguments in refused.items():
        ran = await call(broker, *arguments)
        assert ran.status != 0
        assert f"{message}; be root or in the group aither, or have a polkit rule grant {BUS_NAME}." in ran.err
    assert fleet.stopped == []
    assert fleet.models["vision"].held
    assert fleet.models["0.5b-draft"].residency == "absent"
