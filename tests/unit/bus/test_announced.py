"""What is announced when, on a clock that the test holds."""

from __future__ import annotations

from typing import Any

import pytest
from sdbus import DbusPropertyEmitsChangeFlag, dbus_property_async

from aitherd.bus.announced import TRAFFIC, TRAFFIC_INTERVAL, Announced, announced_properties
from aitherd.bus.device import DeviceObject
from aitherd.bus.manager import ManagerObject
from aitherd.bus.model import ModelObject
from aitherd.bus.upstream import UpstreamObject


class Meter(Announced, interface_name="org.example.Meter"):
    """An object with a property of each kind."""

    INTERFACE = "org.example.Meter"

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {"Residency": "absent", "InFlight": 0, "StopsAt": 0}

    @dbus_property_async("s", flags=DbusPropertyEmitsChangeFlag, property_name="Residency")
    def residency(self) -> str:
        return str(self.values["Residency"])

    @dbus_property_async("u", flags=DbusPropertyEmitsChangeFlag, property_name="InFlight")
    def in_flight(self) -> int:
        return int(self.values["InFlight"])

    @dbus_property_async("t", flags=DbusPropertyEmitsChangeFlag, property_name="StopsAt")
    def stops_at(self) -> int:
        return int(self.values["StopsAt"])


class Signals:
    """Takes the place of the signal: it is emitted to."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def emit(self, arguments: tuple[str, dict[str, tuple[str, Any]], list[str]]) -> None:
        """Keeps the values."""
        interface, changes, invalidated = arguments
        assert (interface, invalidated) == (Meter.INTERFACE, [])
        self.seen.append({name: value for name, (_, value) in changes.items()})


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Signals:
    """What is announced."""
    signals = Signals()
    monkeypatch.setattr(Meter, "properties_changed", signals)
    return signals


def test_only_what_differs_is_announced(signals: Signals) -> None:
    meter = Meter()
    meter.remember()
    assert meter.announce(0.0)
    meter.values["Residency"] = "ready"
    assert meter.announce(1.0)
    assert meter.announce(2.0)
    assert signals.seen == [{"Residency": "ready"}]


def test_traffic_waits_for_its_interval_and_nothing_else_does(signals: Signals) -> None:
    meter = Meter()
    meter.remember()
    meter.values["InFlight"] = 1
    assert meter.announce(10.0)
    meter.values |= {"InFlight": 2, "Residency": "stopping"}
    assert not meter.announce(10.1)
    meter.values["InFlight"] = 3
    assert not meter.announce(10.0 + TRAFFIC_INTERVAL * 0.9)
    assert meter.announce(10.0 + TRAFFIC_INTERVAL)
    assert signals.seen == [{"InFlight": 1}, {"Residency": "stopping"}, {"InFlight": 3}]


def test_a_count_that_came_back_is_no_change(signals: Signals) -> None:
    meter = Meter()
    meter.remember()
    meter.values["InFlight"] = 1
    meter.announce(10.0)
    meter.values["InFlight"] = 2
    assert not meter.announce(10.1)
    meter.values["InFlight"] = 1
    assert meter.announce(10.2)
    assert signals.seen == [{"InFlight": 1}]


def test_the_noise_of_two_clocks_is_no_change(signals: Signals) -> None:
    meter = Meter()
    meter.values["StopsAt"] = 1_700_000_000_000_000
    meter.remember()
    meter.values["StopsAt"] += 400_000
    meter.announce(10.0)
    assert signals.seen == []
    meter.values["StopsAt"] += 200_000
    meter.announce(20.0)
    meter.values["StopsAt"] = 0
    meter.announce(30.0)
    assert signals.seen == [{"StopsAt": 1_700_000_000_600_000}, {"StopsAt": 0}]


def test_traffic_names_are_names_of_properties() -> None:
    names = {
        entry.property_name
        for kind in (ManagerObject, ModelObject, DeviceObject, UpstreamObject)
        for entry in announced_properties(kind)
    }
    assert names >= TRAFFIC
