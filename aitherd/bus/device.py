"""One device on the bus."""

from __future__ import annotations

from sdbus import DbusPropertyConstFlag, DbusPropertyEmitsChangeFlag, dbus_property_async

from aitherd.bus.announced import Announced
from aitherd.bus.names import DEVICE
from aitherd.bus.values import claims, text
from aitherd.core.words import DeviceView


class DeviceObject(Announced, interface_name=DEVICE):
    """A device as measured last. Sizes are bytes."""

    INTERFACE = DEVICE

    def __init__(self, view: DeviceView) -> None:
        super().__init__()
        self.view = view

    @dbus_property_async("s", flags=DbusPropertyConstFlag, property_name="Id")
    def id(self) -> str:
        """`gpu0`, `gpu1`…, as model files name it."""
        return text(self.view.id)

    @dbus_property_async("s", flags=DbusPropertyEmitsChangeFlag, property_name="Name")
    def name(self) -> str:
        """What its driver calls it."""
        return text(self.view.name)

    @dbus_property_async("t", flags=DbusPropertyEmitsChangeFlag, property_name="Total")
    def total(self) -> int:
        """Its memory."""
        return max(self.view.total, 0)

    @dbus_property_async("t", flags=DbusPropertyEmitsChangeFlag, property_name="Free")
    def free(self) -> int:
        """Measured free memory, the reserve included."""
        return max(self.view.free, 0)

    @dbus_property_async("t", flags=DbusPropertyEmitsChangeFlag, property_name="Reserve")
    def reserve(self) -> int:
        """What no plan may use."""
        return max(self.view.reserve, 0)

    @dbus_property_async("t", flags=DbusPropertyEmitsChangeFlag, property_name="Quarantined")
    def quarantined(self) -> int:
        """What stopped models left behind."""
        return max(self.view.quarantined, 0)

    @dbus_property_async("a(sut)", flags=DbusPropertyEmitsChangeFlag, property_name="Foreign")
    def foreign(self) -> list[tuple[str, int, int]]:
        """Who holds memory without being one of our units or having a lease: name, PID, bytes; the largest first."""
        return claims(self.view)

    @dbus_property_async("b", flags=DbusPropertyEmitsChangeFlag, property_name="Fresh")
    def fresh(self) -> bool:
        """False while it cannot be measured: nothing is loaded on it then."""
        return self.view.fresh

    @dbus_property_async("s", flags=DbusPropertyEmitsChangeFlag, property_name="Problem")
    def problem(self) -> str:
        """Why it cannot be measured and what to do about it; empty when it can."""
        return text(self.view.problem)

    @dbus_property_async("d", property_name="Watts")
    def watts(self) -> float:
        """Power that it draws, as last measured; negative where that is not known. Its changes are not announced."""
        return -1.0 if self.view.watts is None else self.view.watts

    @dbus_property_async("d", property_name="Busy")
    def busy(self) -> float:
        """Part of the time in which it computed lately, 0 to 1; negative where that is not known. Likewise."""
        return -1.0 if self.view.busy is None else self.view.busy
