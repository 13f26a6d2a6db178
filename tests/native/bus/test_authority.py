"""Who may do what on a system bus: the service opened as there, the real polkit with aitherd's own actions."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncIterator, Iterator
from xml.etree import ElementTree

import pytest
from sdbus.sd_bus_internals import sd_bus_open_system

from aitherd.bus.authority import Authority
from aitherd.bus.log_control import INTERFACE as LOG_CONTROL
from aitherd.bus.log_control import PATH as LOG_PATH
from aitherd.bus.names import BUS_NAME, MANAGER, MODEL, ROOT, model_path
from aitherd.bus.service import BusService
from aitherd.host import log
from aitherd.proxy.routing import Routing
from tests.native.bus.broker import POLKITD, Broker, Ran
from tests.native.bus.fleet import SmallFleet, SmallLeasing

NOBODY = pwd.getpwnam("nobody").pw_uid

READING = {"Plan", "Route", "ListModels", "ListLeases", "GetModel", "History"}
"""The methods that change nothing. Any other, also one that is added later, must ask."""

VALUES = {"s": ("vision",), "t": ("1",), "u": ("1",), "b": ("true",), "as": ("1", "vision"), "d": ("1",), "i": ("1",)}
"""Arguments of a call that would do something, by type, as busctl takes them."""

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

    one = BusService(
        bus, fleet, SmallLeasing(fleet), fleet.records, Routing(fleet), reload, Authority(bus, user=False), log
    )
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


async def own_members(broker: Broker, kind: str) -> list[tuple[str, str, ElementTree.Element]]:
    """What the live introspection shows of an object of each kind: path, interface and the member's element."""
    tree = await broker.run("busctl", "--system", "--list", "tree", BUS_NAME, user=NOBODY)
    found = []
    seen = set()
    # The last model is `vision`, the one that the arguments of calls mean.
    for path in reversed(tree.out.split()):
        ran = await broker.run("busctl", "--system", "--xml-interface", "introspect", BUS_NAME, path, user=NOBODY)
        for interface in ElementTree.fromstring(ran.out).iter("interface"):
            name = interface.get("name", "")
            if not name.startswith("org.freedesktop.DBus.") and name not in seen:
                seen.add(name)
                found += [(path, name, member) for member in interface.iter(kind)]
    assert seen >= {MANAGER, MODEL, LOG_CONTROL}
    return found


def arguments(method: ElementTree.Element) -> Iterator[str]:
    """The signature and the values of a call."""
    types = [argument.get("type", "") for argument in method.iter("arg") if argument.get("direction") == "in"]
    if types:
        yield "".join(types)
    for one in types:
        yield from VALUES[one]


@pytest.mark.parametrize("polkit_runs", [True, False])
async def test_every_method_that_changes_something_asks_first(
    broker: Broker, fleet: SmallFleet, system_service: BusService, polkit_runs: bool
) -> None:
    if polkit_runs:
        if not POLKITD.exists():
            pytest.skip("no polkitd: install polkitd")
        await broker.open_polkit("")
    before = dict(fleet.models)
    methods = await own_members(broker, "method")
    asked = [one for one in methods if one[2].get("name") not in READING]
    assert len(asked) >= 12 and {one[2].get("name") for one in methods} >= READING
    for path, interface, method in asked:
        name = method.get("name", "")
        call = ("busctl", "--system", "call", BUS_NAME, path, interface, name, *arguments(method))
        ran = await broker.run(*call, user=NOBODY)
        assert ran.status != 0, name
        assert "not allowed to " in ran.err, f"{name}: {ran.err}"
        assert ("polkit does not answer" in ran.err) is not polkit_runs
    assert fleet.models == before and fleet.stopped == []


async def test_only_root_writes_properties(broker: Broker, system_service: BusService) -> None:
    properties = await own_members(broker, "property")
    writable = [one for one in properties if "write" in one[2].get("access", "")]
    assert [one[2].get("name") for one in writable] == ["LogLevel", "LogTarget"]
    before = log.get_level()
    for path, interface, element in writable:
        name = element.get("name", "")
        ran = await broker.run(
            *("busctl", "--system", "set-property", BUS_NAME, path, interface, name, "s", "debug"), user=NOBODY
        )
        assert ran.status != 0 and "denied" in ran.err.lower(), ran.err
    assert log.get_level() == before


async def test_root_sets_the_log_level_and_what_is_none_changes_nothing(
    broker: Broker, system_service: BusService
) -> None:
    async def level(*value: str) -> str:
        target = (BUS_NAME, LOG_PATH, LOG_CONTROL, "LogLevel")
        if value:
            await broker.run("busctl", "--system", "set-property", *target, "s", *value)
        return (await broker.run("busctl", "--system", "get-property", *target)).out

    before = log.get_level()
    try:
        assert await level("debug") == 's "debug"\n'
        assert await level("loud") == 's "debug"\n'
        assert log.get_level() == "debug"
    finally:
        log.set_level(before)
