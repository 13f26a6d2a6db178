"""The data path beside nginx: added latency, requests a second, cost and delay of a streamed chunk.

`python -m tests.bench.proxy [FILE.json]`. Everything is measured in turns within one run, the proxies on one core,
engine and clients on the other; figures drift from machine to machine, ratios much less. nginx runs in its ordinary
configuration: access log on, buffering off where it would hold streams back, connections to the engine kept. The
figures of an interpreter that was built without optimisation are a third worse than those of a distribution's.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from time import sleep

import uvloop

from tests.bench import load
from tests.bench.engine import EVENTS
from tests.bench.rows import Row, at_most, save, table

ROUNDS = 7
STREAMS = 128

NGINX = """
daemon off; master_process off; pid {directory}/pid; error_log {directory}/error;
events {{ worker_connections 4096; }}
http {{
  access_log {directory}/access;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  tcp_nodelay on; keepalive_requests 10000000;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 256; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


def free_port() -> int:
    """A loopback port that nobody has."""
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        port: int = plug.getsockname()[1]
        return port


@contextmanager
def running(core: int, port: int, *command: str) -> Iterator[int]:
    """Runs a server on one core until it is done with; yields its PID once it listens on `port`."""
    process = subprocess.Popen(["taskset", "-c", str(core), *command])
    try:
        for _ in range(200):
            with socket.socket() as plug:
                if plug.connect_ex(("127.0.0.1", port)) == 0:
                    break
            sleep(0.05)
        else:
            raise RuntimeError(f"{command[0]} does not listen")
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, from the scheduler's own account in nanoseconds."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def p50(values: Sequence[float]) -> float:
    """The median, in µs from ns."""
    return median(values) / 1000


def p99(values: Sequence[float]) -> float:
    """The 99th percentile, in µs from ns."""
    return quantiles(values, n=100)[98] / 1000


async def measure(engine: int, nginx: tuple[int, int], aither: tuple[int, int]) -> list[Row]:
    """Takes turns; ports, and PIDs of the proxies."""
    ports = {"direct": engine, "nginx": nginx[0], "aitherd": aither[0]}
    pids = {"nginx": nginx[1], "aitherd": aither[1]}
    single: dict[str, list[float]] = {name: [] for name in ports}
    rate: dict[str, list[float]] = {name: [] for name in ports}
    cost: dict[str, list[float]] = {name: [] for name in pids}
    delay: dict[str, list[float]] = {name: [] for name in ports}
    chunk: dict[str, list[float]] = {name: [] for name in pids}
    for port in ports.values():
        await load.throughput(port, 16, 200)
    for turn in range(ROUNDS):
        for name, port in ports.items():
            single[name].append(p50(await load.latency(port, 2000)))
        for name, port in ports.items():
            before = cpu_seconds(pids[name]) if name in pids else 0.0
            rate[name].append(await load.throughput(port, 16, 1000))
            if name in pids:
                cost[name].append((cpu_seconds(pids[name]) - before) / 16000 * 1e6)
        if turn % 3 == 0:
            for name, port in ports.items():
                before = cpu_seconds(pids[name]) if name in pids else 0.0
                delays = await load.streams(port, STREAMS)
                if len(delays) != STREAMS * EVENTS:
                    raise RuntimeError(f"{name} lost {STREAMS * EVENTS - len(delays)} events")
                delay[name].append(p99(delays))
                if name in pids:
                    chunk[name].append((cpu_seconds(pids[name]) - before) / len(delays) * 1e6)
    direct = median(single["direct"])
    per_second = median(rate["aitherd"])
    added_delay = (median(delay["aitherd"]) - median(delay["direct"])) / 1000
    nginx_delay = (median(delay["nginx"]) - median(delay["direct"])) / 1000
    return [
        at_most(
            "proxy: added latency p50, one connection", median(single["aitherd"]) - direct, "us",
            "nginx", median(single["nginx"]) - direct, 1.3,
        ),
        Row(
            "proxy: requests a second, one core", per_second, "1/s", "nginx", median(rate["nginx"]),
            per_second / median(rate["nginx"]), ">= 20000", per_second >= 20000,
        ),
        Row(
            "proxy: CPU a request", median(cost["aitherd"]), "us", "nginx", median(cost["nginx"]),
            median(cost["aitherd"]) / median(cost["nginx"]),
        ),
        at_most("proxy: CPU a streamed chunk", median(chunk["aitherd"]), "us", "nginx", median(chunk["nginx"]), 1.3),
        Row(
            "proxy: added delay p99 of a streamed chunk", added_delay, "ms", "nginx", nginx_delay,
            added_delay / nginx_delay if nginx_delay > 0 else None, "<= 0.5 ms", added_delay <= 0.5,
        ),
        Row(
            "proxy: resident memory", resident_bytes(pids["aitherd"]) / 1e6, "MB", "nginx",
            resident_bytes(pids["nginx"]) / 1e6, None, "<= 80 MB", resident_bytes(pids["aitherd"]) <= 80e6,
        ),
    ]  # fmt: skip


def main() -> list[Row]:
    """Sets everything up, measures, and takes it down."""
    if shutil.which("nginx") is None:
        raise SystemExit("nginx is the reference and is not installed: apt-get install nginx-light")
    clients, proxies = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {clients})
    engine, nginx, aither = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        configuration = Path(directory) / "nginx.conf"
        configuration.write_text(NGINX.format(directory=directory, engine=engine, port=nginx))
        stack.enter_context(running(clients, engine, sys.executable, "-m", "tests.bench.engine", str(engine)))
        nginx_pid = stack.enter_context(
            running(proxies, nginx, "nginx", "-c", str(configuration), "-e", f"{directory}/error")
        )
        aither_pid = stack.enter_context(
            running(proxies, aither, sys.executable, "-m", "tests.bench.aither", str(aither), str(engine))
        )
        return uvloop.run(measure(engine, (nginx, nginx_pid), (aither, aither_pid)))


if __name__ == "__main__":
    found = main()
    sys.stdout.write(table(found) + "\n")
    if len(sys.argv) > 1:
        save(found, Path(sys.argv[1]))
