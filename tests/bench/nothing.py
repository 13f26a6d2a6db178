"""A D-Bus service with one empty method, and its client: `python -m tests.bench.nothing NAME`, or `--call` and whom."""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter

import sdbus


async def serve(name: str) -> None:
    """Serves until it is killed."""

    class Nothing(sdbus.DbusInterfaceCommonAsync, interface_name=name):
        @sdbus.dbus_method_async(result_signature="b", flags=sdbus.DbusUnprivilegedFlag)
        async def ask(self) -> bool:
            return True

    bus = sdbus.sd_bus_open_user()
    service = Nothing()
    handle = service.export_to_dbus("/", bus)
    await bus.request_name_async(name, 0)
    await asyncio.get_running_loop().create_future()
    handle.stop()


def call(destination: str, path: str, interface: str, member: str) -> float:
    """Milliseconds until a call without arguments is answered."""
    bus = sdbus.sd_bus_open_user()
    greeting = bus.new_method_call_message("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "GetId")
    bus.call(greeting)
    message = bus.new_method_call_message(destination, path, interface, member)
    began = perf_counter()
    bus.call(message)
    return (perf_counter() - began) * 1000


if __name__ == "__main__":
    if sys.argv[1] == "--call":
        sys.stdout.write(f"{call(*sys.argv[2:])}\n")
    else:
        asyncio.run(serve(sys.argv[1]))
