"""The data path beside its peers: added latency, requests a second, cost and delay of a streamed chunk, memory.

`python -m tests.bench.proxy [FILE.json]`. Everything is measured in short turns within one run, the proxies on one
core, engine and clients on the other. Figures drift from machine to machine, ratios much less; of many turns the
quieter half counts, for everybody, since a machine that does other things as well only ever makes figures worse.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles

import uvloop

from tests.bench import load
from tests.bench.engine import EVENTS
from tests.bench.peers import Running, engine, litellm, proxies
from tests.bench.rows import Row, at_most, beside, save, table

TURNS = 14
STREAM_TURNS = 5
SINGLE, CONNECTIONS, EACH = 400, 16, 125
"""Requests on one connection, and on several, in one turn."""
STREAMS, MANY = 128, 512
FAST = b"/v1/responses"
"""Where events come 50 times a second."""
SLOW = {"uvicorn+httpx": 8, "litellm": 20}
"""Who gets so many times fewer requests in a turn."""
OURS = "aitherd"

Figures = Mapping[str, Mapping[str, float]]
"""By what is measured and of whom."""


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, from the scheduler's own account in nanoseconds."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def p99(values: Sequence[float]) -> float:
    """The 99th percentile."""
    return quantiles(values, n=100)[98]


def quiet(values: Iterable[float], *, most: bool = False) -> float:
    """The median of the better half: of the lower values, or the higher if `most`."""
    ranked = sorted(values, reverse=most)
    return median(ranked[: (len(ranked) + 1) // 2])


class Turns:
    """Measures everybody in turns, and keeps what was measured."""

    def __init__(self, direct: Running, servers: Mapping[str, Running]) -> None:
        self.servers = {"direct": direct, **servers}
        self.values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def keep(self, what: str, name: str, value: float) -> None:
        """One value of one turn."""
        self.values[what][name].append(value)

    async def requests(self, names: Iterable[str]) -> None:
        """One turn of plain requests."""
        for name in names:
            server, fewer, careful = self.servers[name], SLOW.get(name, 1), name in SLOW
            times = await load.latency(server.port, SINGLE // fewer, careful=careful)
            self.keep("p50", name, median(times) / 1e3)
            self.keep("p99", name, p99(times) / 1e3)
            before = cpu_seconds(server.pid)
            each = max(EACH // fewer, 2)
            self.keep("rate", name, await load.throughput(server.port, CONNECTIONS, each, careful=careful))
            self.keep("request", name, (cpu_seconds(server.pid) - before) / (CONNECTIONS * each) * 1e6)

    async def streams(self, names: Iterable[str], count: int, path: bytes, what: str) -> None:
        """One turn of streams. Keeps their delays, costs and losses under names that begin with `what`."""
        for name in names:
            server = self.servers[name]
            before = cpu_seconds(server.pid)
            delays = await load.streams(server.port, count, path)
            self.keep(f"{what} cost", name, (cpu_seconds(server.pid) - before) / max(len(delays), 1) * 1e6)
            self.keep(f"{what} p99", name, p99(delays) / 1e6)
            self.keep(f"{what} lost", name, count * EVENTS - len(delays))
            self.keep("memory", name, resident_bytes(server.pid) / 1e6)

    def figure(self, what: str, name: str) -> float:
        """What counts of all turns."""
        return quiet(self.values[what][name], most=what == "rate")


async def measure(turns: Turns) -> None:
    """Takes all turns."""
    everybody = tuple(turns.servers)
    streaming = ("direct", "nginx", OURS, "haproxy", "uvicorn+httpx")
    await turns.requests(everybody)
    turns.values.clear()
    for _ in range(TURNS):
        await turns.requests(everybody)
    for turn in range(STREAM_TURNS):
        await turns.streams(streaming if turn < 2 else streaming[:4], STREAMS, b"/v1/chat/completions", "chunk")
    await turns.streams(("nginx", OURS, "haproxy"), MANY, FAST, "many")


async def measure_slow(turns: Turns) -> None:
    """The turns of one who would be in the way of the others if it only idled beside them."""
    await turns.requests(("litellm",))
    for _ in range(4):
        await turns.requests(("litellm",))
    turns.keep("memory", "litellm", resident_bytes(turns.servers["litellm"].pid) / 1e6)


def rows(turns: Turns) -> list[Row]:
    """The figures, each beside nginx, which the budgets are about, and then beside the others."""
    figure = turns.figure

    def added(what: str, name: str) -> float:
        return figure(what, name) - figure(what, "direct")

    def lost(name: str) -> float:
        return sum(turns.values["chunk lost"][name]) + sum(turns.values["many lost"][name])

    ours, rate, delay = added("p50", OURS), figure("rate", OURS), added("chunk p99", OURS)
    cost = figure("chunk cost", OURS)
    memory = {name: max(values) for name, values in turns.values["memory"].items()}
    found = [
        at_most("proxy: added latency p50, one connection", ours, "us", "nginx", added("p50", "nginx"), 1.3),
        beside("proxy: added latency p99, one connection", added("p99", OURS), "us", "nginx", added("p99", "nginx")),
        beside("proxy: requests a second, one core", rate, "1/s", "nginx", figure("rate", "nginx"), at_least=20_000),
        beside("proxy: CPU a request", figure("request", OURS), "us", "nginx", figure("request", "nginx")),
        at_most("proxy: CPU a streamed chunk", cost, "us", "nginx", figure("chunk cost", "nginx"), 1.3),
        beside("proxy: added delay p99 of a chunk", delay, "ms", "nginx", added("chunk p99", "nginx"), up_to=0.5),
        beside(f"proxy: chunks lost, {MANY} streams at 50/s", lost(OURS), "", "nginx", lost("nginx"), up_to=0),
        beside(
            f"proxy: chunk delay p99, {MANY} streams at 50/s", figure("many p99", OURS), "ms", "nginx",
            figure("many p99", "nginx"),
        ),
        beside("proxy: memory under that", memory[OURS], "MB", "nginx", memory["nginx"], up_to=80),
    ]  # fmt: skip
    for peer in ("haproxy", "uvicorn+httpx", "litellm"):
        if peer not in turns.servers:
            continue
        found += [
            beside("proxy: added latency p50", ours, "us", peer, added("p50", peer)),
            beside("proxy: added latency p99", added("p99", OURS), "us", peer, added("p99", peer)),
            beside("proxy: requests a second", rate, "1/s", peer, figure("rate", peer)),
            beside("proxy: memory", memory[OURS], "MB", peer, memory[peer]),
        ]
        if turns.values["chunk cost"][peer]:
            found += [
                beside("proxy: CPU a streamed chunk", cost, "us", peer, figure("chunk cost", peer)),
                beside("proxy: added delay p99 of a chunk", delay, "ms", peer, added("chunk p99", peer)),
            ]
    return found


def main() -> list[Row]:
    """Sets everything up, measures, and takes it down."""
    for program in ("nginx", "haproxy"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is a reference and is not installed")
    clients, core = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {clients})
    with tempfile.TemporaryDirectory() as name, engine(clients) as target:
        directory = Path(name)
        with proxies(core, directory, target.port) as servers:
            turns = Turns(target, servers)
            uvloop.run(measure(turns))
        with litellm(core, directory, target.port) as slow:
            turns.servers["litellm"] = slow
            uvloop.run(measure_slow(turns))
    return rows(turns)


if __name__ == "__main__":
    found = main()
    sys.stdout.write(table(found) + "\n")
    if len(sys.argv) > 1:
        save(found, Path(sys.argv[1]))
