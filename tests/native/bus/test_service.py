"""The service as other programs on the bus see it, busctl above all."""

from __future__ import annotations

import asyncio
import json
import signal
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest
from sdbus import SdBus
from sdbus.sd_bus_internals import sd_bus_open_user

from aitherd.bus import introspection
from aitherd.bus.authority import Authority
from aitherd.bus.names import BUS_NAME, DEVICE, MANAGER, MODEL, ROOT, device_path, model_path
from aitherd.bus.service import BusService
from aitherd.conductor.records import Event
from aitherd.core.words import Residency
from aitherd.errors import HostFailure
from aitherd.host import log
from aitherd.proxy.routing import Routing
from tests.native.bus.broker import Broker
from tests.native.bus.client import BusError, Client
from tests.native.bus.fleet import GIB, SmallFleet, SmallLeasing, model

REPOSITORY = Path(__file__).parents[3]
VISION = model_path("vision")


async def busctl(broker: Broker, *arguments: str) -> str:
    """What busctl prints; it has to succeed."""
    ran = await broker.run("busctl", "--user", "--no-pager", *arguments)
    assert ran.status == 0, ran.err
    return ran.out


# --- what there is


async def test_busctl_shows_the_tree(broker: Broker, service: BusService) -> None:
    tree = await busctl(broker, "tree", "--list", BUS_NAME)
    assert set(tree.split()) >= {ROOT, VISION, model_path("orchestrator"), device_path("gpu0")}
    assert f"{ROOT}/model/_30_2e5b_2ddraft" in tree.split()


async def test_busctl_introspects_a_model(broker: Broker, service: BusService) -> None:
    shown = {
        (words[0], words[1]): words[2:]
        for words in (line.split() for line in (await busctl(broker, "introspect", BUS_NAME, VISION)).splitlines())
    }
    assert shown[".Hold", "method"] == ["-", "-", "-"]
    assert shown[".Residency", "property"] == ["s", '"absent"', "emits-change"]
    assert shown[".EngineUnit", "property"] == ["s", '"aither-vision-engine.service"', "const"]
    assert shown[".Serves", "property"] == ["as", "1", '"qwen2.5-vl"', "emits-change"]
    assert shown[".DeclaredBytes", "property"] == ["t", str(5 * GIB), "emits-change"]


def members(root: ElementTree.Element, interface: str) -> Sequence[object]:
    """An interface of an introspection document, without what busctl does not care about."""
    found = root.find(f"interface[@name='{interface}']")
    assert found is not None
    return sorted(
        (
            entry.tag,
            entry.get("name"),
            entry.get("type"),
            entry.get("access"),
            tuple((arg.get("name"), arg.get("type"), arg.get("direction")) for arg in entry.iter("arg")),
            tuple(
                (note.get("name"), note.get("value"))
                for note in entry.iter("annotation")
                if note.get("value") != "true"
            ),
        )
        for entry in found
    )


async def test_the_committed_introspection_is_what_runs(client: Client, service: BusService) -> None:
    committed = ElementTree.fromstring((REPOSITORY / introspection.PATH).read_text())
    for path, interface in ((ROOT, MANAGER), (VISION, MODEL), (device_path("gpu0"), DEVICE)):
        text = await client.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")
        assert members(ElementTree.fromstring(text), interface) == members(committed, interface)


async def test_a_device_is_shown_as_measured(client: Client, service: BusService) -> None:
    values = await client.call(device_path("gpu0"), "org.freedesktop.DBus.Properties", "GetAll", "s", DEVICE)
    assert {name: value for name, (_, value) in values.items()} == {
        "Id": "gpu0",
        "Name": "NVIDIA GeForce RTX 5090",
        "Total": 32 * GIB,
        "Free": 7 * GIB,
        "Watts": -1.0,
        "Busy": -1.0,
        "Reserve": GIB // 2,
        "Quarantined": 0,
        "Foreign": [("gnome-shell", 4711, 300 * 2**20)],
        "Fresh": True,
        "Problem": "",
    }


async def test_models_are_listed(broker: Broker, client: Client, service: BusService) -> None:
    listed = await busctl(broker, "--json=short", "call", BUS_NAME, ROOT, MANAGER, "ListModels")
    rows = json.loads(listed)["data"][0]
    assert [row[0] for row in rows] == ["0.5b-draft", "broken", "orchestrator", "vision"]
    orchestrator = ["orchestrator", "essential", "ready", False, 0, 0, 19 * GIB, model_path("orchestrator")]
    assert rows[2] == orchestrator
    assert await client.manager("GetModel", "s", "qwen2.5-vl") == VISION


async def test_text_that_is_no_text_is_still_sent(client: Client, fleet: SmallFleet, service: BusService) -> None:
    fleet.change("vision", error="a\0b\udcff", command=("/opt/\udce9/server",))
    assert await client.get("vision", "Error") == "a�b?"
    assert await client.get("vision", "Command") == ["/opt/?/server"]


# --- what can be done


async def test_busctl_holds_releases_and_stops(broker: Broker, fleet: SmallFleet, service: BusService) -> None:
    for member, held, residency in (
        ("Hold", "true", "ready"),
        ("Release", "false", "ready"),
        ("Stop", "false", "absent"),
    ):
        await busctl(broker, "call", BUS_NAME, ROOT, MANAGER, member, "s", "qwen2.5-vl")
        assert await busctl(broker, "get-property", BUS_NAME, VISION, MODEL, "Held") == f"b {held}\n"
        assert await busctl(broker, "get-property", BUS_NAME, VISION, MODEL, "Residency") == f's "{residency}"\n'
    await busctl(broker, "call", BUS_NAME, VISION, MODEL, "ForceStop")
    assert fleet.stopped == [("vision", False), ("vision", True)]


async def test_errors_have_names_and_say_the_remedy(broker: Broker, client: Client, service: BusService) -> None:
    with pytest.raises(BusError) as unknown:
        await client.manager("Start", "s", "visoin")
    assert unknown.value.name == f"{BUS_NAME}.Error.NoSuchModel"
    with pytest.raises(BusError) as failed:
        await client.call(model_path("broken"), MODEL, "Start")
    assert failed.value.name == f"{BUS_NAME}.Error.StartFailed"
    assert failed.value.message == "broken did not become ready: exited with status 1; see aitherctl logs broken"
    ran = await broker.run("busctl", "--user", "call", BUS_NAME, ROOT, MANAGER, "Hold", "s", "broken")
    assert ran.status != 0
    assert "exited with status 1; see aitherctl logs broken" in ran.err


async def test_what_nobody_expected_fails_with_one_error(
    client: Client, fleet: SmallFleet, service: BusService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def surprise(model: str) -> None:
        raise ZeroDivisionError("a sum")

    monkeypatch.setattr(fleet, "release", surprise)
    with pytest.raises(BusError, match="internal error: ZeroDivisionError") as failed:
        await client.manager("Release", "s", "vision")
    assert failed.value.name == f"{BUS_NAME}.Error.Failed"
    assert await client.get("vision", "Held") is False


async def test_plans_are_json(client: Client, service: BusService) -> None:
    plan = json.loads(await client.manager("Plan", "s", "vision"))
    assert plan["possible"]
    assert [(step["verb"], step["model"], step["takes"]) for step in plan["steps"]] == [
        ("stop", "embedder", {"gpu0": -2 * GIB}),
        ("start", "vision", {"gpu0": 5 * GIB}),
    ]
    assert plan["seconds"] == 10.0
    refused = json.loads(await client.manager("Plan", "s", "broken"))
    assert (refused["possible"], refused["kind"], refused["missing"]) == (False, "never", 3 * GIB)
    assert refused["holders"][0] == {"name": "orchestrator", "device": "gpu0", "bytes": 19 * GIB, "why": "essential"}


async def test_history_keeps_types(client: Client, fleet: SmallFleet, service: BusService) -> None:
    fleet.records.add(Event.READY, "orchestrator is ready", model="orchestrator")
    fleet.records.add(
        Event.PLAN, "to bring in vision: stop embedder", model="vision",
        steps=["stop embedder"], spare={"gpu0": 3 * GIB}, seconds=2.5, mixed=[1, "two"],
    )  # fmt: skip
    fleet.records.add(Event.READY, "vision is ready", model="vision", forced=False, bytes=5 * GIB)
    (plan, ready) = await client.manager("History", "su", "vision", 0)
    assert plan[:4] == (1_700_000_000_000_000, "plan", "vision", "to bring in vision: stop embedder")
    assert plan[4] == {
        "steps": ("as", ["stop embedder"]),
        "spare": ("a{sx}", {"gpu0": 3 * GIB}),
        "seconds": ("d", 2.5),
        "mixed": ("s", '[1, "two"]'),
    }
    assert ready[4] == {"forced": ("b", False), "bytes": ("x", 5 * GIB)}
    assert await client.manager("History", "su", "qwen2.5-vl", 1) == [ready]
    assert len(await client.manager("History", "su", "", 0)) == 3
    del fleet.models["vision"]
    assert await client.manager("History", "su", "vision", 1) == [ready]


# --- what is announced


async def test_changes_are_announced_once_and_only_if_real(
    broker: Broker, client: Client, fleet: SmallFleet, service: BusService
) -> None:
    async with client.signals("PropertiesChanged") as seen:
        fleet.tell("vision")
        for count in range(1000):
            fleet.change("vision", in_flight=count % 7 + 1)
        fleet.change("vision", residency=Residency.READY)
        await broker.until(lambda: seen)
        fleet.tell("vision")
        fleet.change("broken", error="")
        await broker.until(lambda: len(seen) > 1)
    interface, changes, _ = seen[0]
    assert interface == MODEL
    assert changes == {"InFlight": ("u", 999 % 7 + 1), "Residency": ("s", "ready")}
    assert seen[1][1] == {"Error": ("s", "")}
    assert len(seen) == 2


async def test_devices_and_problems_are_announced(
    broker: Broker, client: Client, fleet: SmallFleet, service: BusService
) -> None:
    from dataclasses import replace

    async with client.signals("PropertiesChanged") as seen:
        fleet.cards = (replace(fleet.cards[0], fresh=False, problem="the driver hangs"),)
        fleet.faults = ("the driver hangs",)
        fleet.tell("")
        await broker.until(lambda: len(seen) == 2)
    assert sorted(seen) == [
        (DEVICE, {"Fresh": ("b", False), "Problem": ("s", "the driver hangs")}, []),
        (MANAGER, {"Healthy": ("b", False), "Problems": ("as", ["the driver hangs"])}, []),
    ]


async def test_a_reload_adds_and_removes_objects(
    broker: Broker, client: Client, fleet: SmallFleet, service: BusService
) -> None:
    del fleet.models["broken"]
    async with client.signals("InterfacesAdded", ROOT) as added, client.signals("InterfacesRemoved", ROOT) as removed:
        await client.manager("Reload")
        # Whoever has reloaded finds the result at once, not a turn of announcements later.
        assert await client.get("newcomer", "Residency") == "absent"
        await broker.until(lambda: added and removed)
    ((path, interfaces),) = added
    assert path == model_path("newcomer")
    assert interfaces[MODEL]["Name"] == ("s", "newcomer")
    assert [path for path, _ in removed] == [model_path("broken")]
    managed = await client.call(ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
    assert model_path("newcomer") in managed
    assert model_path("broken") not in managed


# --- how calls end


async def test_a_caller_that_leaves_withdraws_its_demand(
    broker: Broker, fleet: SmallFleet, service: BusService
) -> None:
    fleet.gate.clear()
    process = await broker.start(
        "busctl", "--user", "--timeout=infinity", "call", BUS_NAME, ROOT, MANAGER, "Hold", "s", "vision"
    )
    await broker.until(lambda: fleet.demands.get("vision") == 1)
    process.send_signal(signal.SIGINT)
    await broker.until(lambda: fleet.demands["vision"] == 0)
    fleet.gate.set()
    assert not fleet.models["vision"].held


async def test_callers_are_told_that_the_daemon_goes(client: Client, fleet: SmallFleet, service: BusService) -> None:
    fleet.gate.clear()
    waiting = asyncio.create_task(client.manager("Start", "s", "vision"))
    await Broker.until(lambda: fleet.demands.get("vision") == 1)
    await service.stop()
    with pytest.raises(BusError, match="aitherd is going away; try again") as error:
        await waiting
    assert error.value.name == f"{BUS_NAME}.Error.ShuttingDown"
    with pytest.raises(BusError) as nobody:
        await client.manager("ListModels")
    assert nobody.value.name == "org.freedesktop.DBus.Error.ServiceUnknown"


async def test_the_caller_of_a_model_that_is_removed_is_told(
    client: Client, fleet: SmallFleet, service: BusService
) -> None:
    fleet.gate.clear()
    waiting = asyncio.create_task(client.call(VISION, MODEL, "Start"))
    await Broker.until(lambda: fleet.demands.get("vision") == 1)
    fleet.configure({"orchestrator": fleet.models["orchestrator"], "vision-2": model("vision-2")})
    with pytest.raises(BusError, match="vision is no longer configured") as error:
        await waiting
    assert error.value.name == f"{BUS_NAME}.Error.Stopped"
    assert fleet.demands["vision"] == 0


async def test_a_taken_name_is_refused_clearly(service: BusService, fleet: SmallFleet) -> None:
    bus = sd_bus_open_user()

    async def reload() -> None:
        raise AssertionError("nobody asked for it")

    second = BusService(
        bus, fleet, SmallLeasing(fleet), fleet.records, Routing(fleet), reload, Authority(bus, user=True), log
    )
    with pytest.raises(HostFailure, match=f"the name {BUS_NAME} is taken on this bus: another aitherd runs"):
        await second.start()


async def test_the_end_of_the_bus_is_noticed(broker: Broker, fleet: SmallFleet, connection: SdBus) -> None:
    async def reload() -> None:
        raise AssertionError("nobody asked for it")

    service = BusService(
        connection,
        fleet,
        SmallLeasing(fleet),
        fleet.records,
        Routing(fleet),
        reload,
        Authority(connection, user=True),
        log,
    )
    await service.start()
    noticed = asyncio.create_task(service.disconnected())
    await broker.end_bus()
    await asyncio.wait_for(noticed, 20)
    fleet.change("vision", residency=Residency.READY)
    await service.stop()
