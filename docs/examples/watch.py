#!/usr/bin/env python3
"""Prints where each model stands, and each change of it: what an applet in a panel would do. Needs python3-sdbus."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from sdbus.sd_bus_internals import SdBusMessage, sd_bus_open_system, sd_bus_open_user

NAME = "org.aitheros.Aither1"
ROOT = "/org/aitheros/Aither1"
MODEL = f"{NAME}.Model"


async def main() -> None:
    bus = sd_bus_open_user() if os.environ.get("AITHER_BUS") == "--user" else sd_bus_open_system()
    names: dict[str, str] = {}

    def show(path: str, properties: dict[str, tuple[str, Any]]) -> None:
        if "Name" in properties:
            names[path] = properties["Name"][1]
        if "Residency" in properties and path in names:
            print(f"{names[path]} is {properties['Residency'][1]}", flush=True)

    def changed(message: SdBusMessage) -> None:
        interface, properties, _ = message.parse_to_tuple()
        if interface == MODEL and message.path is not None:
            show(message.path, properties)

    # Before the objects are read, so that no change falls between the two.
    slot = await bus.match_signal_async(NAME, None, "org.freedesktop.DBus.Properties", "PropertiesChanged", changed)
    call = bus.new_method_call_message(NAME, ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
    objects = (await bus.call_async(call)).get_contents()
    for path, interfaces in sorted(objects.items()):
        if MODEL in interfaces:
            show(path, interfaces[MODEL])
    if "--once" not in sys.argv:
        await asyncio.Event().wait()
    slot.close()


asyncio.run(main())
