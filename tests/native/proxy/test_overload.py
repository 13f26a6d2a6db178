"""More clients than there is room for: each is told or closed, and those who are in are served as before."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import httpx

from aitherd.core.words import Residency
from aitherd.proxy.limits import Limits
from tests.native.proxy.conftest import House
from tests.native.proxy.wires import Client, until

DESCRIPTORS = 48
SMALL = f"""
import asyncio, resource, socket, sys, uvloop
from aitherd.proxy.server import Proxy
from tests.native.proxy.fleet import Fleet

async def main():
    plug = socket.socket()
    plug.bind(("127.0.0.1", 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS}))
    await Proxy(Fleet()).serve([plug])
    print(plug.getsockname()[1], flush=True)
    await asyncio.get_running_loop().create_future()

uvloop.run(main())
"""


async def test_one_too_many_is_told_to_come_again_and_room_that_is_made_is_given(house: House) -> None:
    await house.model("vision")
    await house.open(Limits(tick=0.05, connections=8))
    clients = [await house.client(tcp=True) for _ in range(8)]
    for client in clients:
        client.get("/health")
        assert (await client.reply()).status == 200
    async with await house.client(tcp=True) as late:
        late.post("/v1/completions", b'{"model":"vision"}')
        reply = await late.reply()
        assert (reply.status, reply.json()["error"]["code"]) == (503, "too_many_clients")
        assert (reply.fields["retry-after"], reply.fields["connection"]) == ("1", "close")
        assert await late.closed() == b""
    assert house.engines["vision"].connections == 0
    clients.pop().writer.close()
    await until(lambda: house.proxy.metrics.connections == 7)
    async with await house.client() as next_one:
        next_one.post("/v1/completions", b'{"model":"vision"}')
        assert (await next_one.reply()).status == 200
    for client in clients:
        client.writer.close()
    assert house.proxy.metrics.refused == 1


async def test_many_requests_for_a_cold_model_wait_and_those_for_a_warm_one_do_not(house: House) -> None:
    await house.model("cold", residency=Residency.ABSENT)
    await house.model("warm")
    start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    house.fleet.starts["cold"] = lambda: start
    waiting: list[Client] = []
    for _ in range(200):
        client = await house.client()
        client.post("/v1/completions", b'{"model":"cold"}')
        waiting.append(client)
    await until(lambda: house.fleet.models["cold"].waiting == 200)
    async with await house.client() as client:
        for _ in range(20):
            client.post("/v1/completions", b'{"model":"warm"}')
            assert (await client.reply()).status == 200
    start.set_result(None)
    for client in waiting:
        assert (await client.reply()).status == 200
        client.writer.close()


def small() -> subprocess.Popen[str]:
    """A proxy that may open few descriptors, on the event loop that the daemon has."""
    return subprocess.Popen(
        [sys.executable, "-c", SMALL], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip


def test_without_a_descriptor_left_clients_are_turned_away_and_later_ones_served() -> None:
    with small() as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            plugs = [socket.create_connection(("127.0.0.1", port)) for _ in range(DESCRIPTORS * 4)]
            for plug in plugs:
                plug.close()
            with httpx.Client(transport=httpx.HTTPTransport(retries=5), timeout=30) as client:
                for _ in range(100):
                    try:
                        if client.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                            break
                    except httpx.TransportError:
                        continue
                else:
                    raise AssertionError("it never served again")
        finally:
            process.kill()
