"""local -> LAN -> cloud, all real servers, broken link by link while requests come: none is refused, none fails.

What happened when, and who answered how many, is written to `build/transcripts/chain.txt`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

from aitherd.core.upstreams import Node, Reach, RemoteModel, Upstream
from aitherd.core.words import Endpoint, Residency
from aitherd.errors import StartFailed
from tests.native.proxy.conftest import House
from tests.native.proxy.fleet import failing
from tests.native.proxy.test_cloud import cloud
from tests.native.proxy.test_tiers import CHAT
from tests.native.proxy.tiers import Roads
from tests.native.proxy.wires import Client
from tests.native.routing.link import Link

__all__ = ["cloud"]

TRANSCRIPT = Path(__file__).parents[3] / "build" / "transcripts" / "chain.txt"
CLIENTS = 8
"""Every second one asks for streams."""
SETTLED = 24
"""So many answers in a row by one route: it is in charge."""
PATIENCE_S = 120.0
ASKED = {"model": "standard", "max_tokens": 24, "messages": [{"role": "user", "content": "hi"}]}
BODIES = tuple(json.dumps({**ASKED, "stream": stream}, separators=(",", ":")).encode() for stream in (False, True))


class Load:
    """Clients that ask one request after another, and what became of each."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._began = monotonic()
        self.answered: list[str] = []
        """Routes, in the order of their whole answers."""
        self.cut: list[str] = []
        """Routes whose stream broke off after its first byte."""
        self.failed: list[str] = []
        """Everything else: what must not be."""
        self._progress = asyncio.Event()
        self._ending = False
        self._lines: list[str] = []
        self._noted = (0, 0, 0)

    async def ask(self, number: int) -> None:
        """One client."""
        while not self._ending:
            async with await Client.connect(self._house.path) as client:
                while not self._ending:
                    client.post(CHAT, BODIES[number % 2], "Content-Type: application/json")
                    reply = await client.reply()
                    who = reply.fields.get("x-aither-upstream", "nobody")
                    if reply.status == 200 and reply.whole and b"choices" in reply.body:
                        self.answered.append(who)
                        self._progress.set()
                        continue
                    began = reply.status == 200 and number % 2 and b"data:" in reply.body
                    (self.cut if began else self.failed).append(f"{who} {reply.status} {reply.body[-300:]!r}")
                    break

    async def settle(self, route: str) -> None:
        """Returns when that route answers everything."""
        start = len(self.answered)
        async with asyncio.timeout(PATIENCE_S):
            while len(self.answered) < start + SETTLED or set(self.answered[-SETTLED:]) != {route}:
                self._progress.clear()
                await self._progress.wait()
        self._note(f"{route} answers", counted=True)

    def note(self, event: str) -> None:
        """Something was done to the chain."""
        self._note(event, counted=False)

    def end(self) -> None:
        """No further requests."""
        self._ending = True

    def timeline(self) -> str:
        """All of it, for people."""
        total = (
            f"total: {len(self.answered)} answered, {len(self.failed)} failed, {len(self.cut)} streams cut mid-way;"
            f" {CLIENTS} clients\n"
        )
        return "\n".join([*self._lines, total])

    def _note(self, event: str, *, counted: bool) -> None:
        line = f"{monotonic() - self._began:7.2f} s  {event}"
        if counted:
            answered, failed, cut = self._noted
            self._noted = (len(self.answered), len(self.failed), len(self.cut))
            by = ", ".join(f"{count} by {who}" for who, count in sorted(Counter(self.answered[answered:]).items()))
            line += f": since the last line {by}; failed {len(self.failed) - failed}, cut {len(self.cut) - cut}"
        self._lines.append(line)


async def test_the_chain_breaks_link_by_link_under_load_and_no_request_fails(
    house: House, roads: Roads, server: Path, cloud: Upstream
) -> None:
    path = house.directory / "local.sock"
    local, lan = Link(server), Link(server)
    async with AsyncExitStack() as stack:
        for link in (local, lan):
            stack.push_async_callback(link.close)
        await local.open(path)
        await lan.open()
        house.fleet.add("local", Endpoint(socket=str(path)), serves=("qwen2.5-vl",))
        roads.upstreams = {
            "spark": Upstream(
                "spark",
                Reach.LAN,
                (Node(False, "127.0.0.1", lan.port, "/v1"),),
                probe_interval=0.5,
                models={"reasoning": RemoteModel("qwen2.5-vl")},
            ),
            "cloud": cloud,
        }
        await roads.open("local", "spark/reasoning", "cloud/gpt-x")
        load = Load(house)
        clients = [asyncio.create_task(load.ask(number)) for number in range(CLIENTS)]
        await load.settle("local")

        load.note("the local engine refuses connections; answers under way end")
        local.refuse()
        await load.settle("spark/reasoning")
        load.note("its unit has failed, and does not start again")
        house.fleet.change("local", residency=Residency.FAILED, error="local died")
        house.fleet.starts["local"] = failing(StartFailed("local does not start"))
        await load.settle("spark/reasoning")
        load.note("the LAN refuses connections; answers under way end")
        lan.refuse()
        await load.settle("cloud/gpt-x")
        load.note("the LAN is back")
        await lan.open()
        await load.settle("spark/reasoning")
        load.note("the local model is back")
        await local.open(path)
        house.fleet.change("local", residency=Residency.READY, error="")
        await load.settle("local")
        assert (load.failed, load.cut) == ([], [])

        await local.streams.wait()
        broken = local.cut()
        load.note(f"the local engine is killed, with {broken} streams under way")
        house.fleet.change("local", residency=Residency.FAILED, error="local died")
        await load.settle("spark/reasoning")
        assert len(load.cut) == broken
        await lan.streams.wait()
        streams = lan.cut()
        broken += streams
        load.note(f"the LAN is unplugged, with {streams} streams under way")
        await load.settle("cloud/gpt-x")
        assert len(load.cut) == broken
        load.note("all are back")
        await lan.open()
        await local.open(path)
        house.fleet.change("local", residency=Residency.READY, error="")
        await load.settle("local")
        load.end()
        await asyncio.gather(*clients)
    TRANSCRIPT.parent.mkdir(parents=True, exist_ok=True)
    TRANSCRIPT.write_text(load.timeline())
    print(load.timeline())
    # A stream that has begun cannot be taken up by another: these, and no others, were cut.
    assert load.failed == []
    assert len(load.cut) == broken >= 2
