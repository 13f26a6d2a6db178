"""The proxies that aitherd is held against, each in its ordinary configuration, and aitherd: started, on one core.

nginx and HAProxy keep an access log and connections to the engine, and pass streams on at once (HAProxy:
`http-no-delay`). LiteLLM's proxy and uvicorn with httpx, which is how such proxies are written in Python, come from an
environment of their own with hashed packages.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from tests.bench.interpreter import REPOSITORY, SUITES

ENVIRONMENT = REPOSITORY / "build" / "bench-peers"
LOCK = Path(__file__).with_name("peers.lock")
START_S = 120.0

NGINX = """
daemon off; master_process off; pid {directory}/pid; error_log {directory}/error;
events {{ worker_connections 4096; }}
http {{
  access_log {directory}/access;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  tcp_nodelay on; keepalive_requests 10000000;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 1024; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 4096
  log {directory}/log local0
defaults
  mode http
  log global
  option httplog
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend clients
  bind 127.0.0.1:{port}
  default_backend engine
backend engine
  server engine 127.0.0.1:{engine}
"""
LITELLM = """
model_list:
  - model_name: bench
    litellm_params:
      model: text-completion-openai/bench
      api_base: http://127.0.0.1:{engine}/v1
      api_key: none
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that listens."""

    port: int
    pid: int


def free_port() -> int:
    """A loopback port that nobody has."""
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        port: int = plug.getsockname()[1]
        return port


@contextmanager
def running(core: int, port: int, *command: str, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Runs a server on one core until it is done with; yields once it listens on `port`."""
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = monotonic() + START_S
        while True:
            with socket.socket() as plug:
                if plug.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not listen")
            sleep(0.05)
        yield Running(port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def sink(path: Path) -> None:
    """A datagram socket that takes records as the journal or syslog does, and forgets them."""
    plug = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    plug.bind(str(path))

    def read() -> None:
        while plug.recv(65536):
            """Nobody looks at them."""

    threading.Thread(target=read, daemon=True).start()


def environment() -> Path:
    """The Python of the peers' environment, which is made first if it is not there yet. Takes a minute or two then."""
    python = ENVIRONMENT / "bin" / "python"
    complete = ENVIRONMENT / "complete"
    if not complete.exists() or complete.read_bytes() != LOCK.read_bytes():
        sys.stderr.write("installing LiteLLM and uvicorn into build/bench-peers …\n")
        # Debian's interpreter may lack what makes environments; then it is made with whatever made ours.
        able: list[str | Path] = [SUITES, "-c", "import ensurepip"]
        maker = REPOSITORY / ".venv" / "bin" / "python"
        if SUITES.exists() and subprocess.run(able, env=_plain(), check=False).returncode == 0:
            maker = SUITES
        subprocess.run([maker, "-m", "venv", "--clear", ENVIRONMENT], check=True, env=_plain())
        pip: list[str | Path] = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "--require-hashes", "-r", LOCK], check=True, env=_plain())
        complete.write_bytes(LOCK.read_bytes())
    return python


def _plain() -> dict[str, str]:
    """The environment without what would mix our packages with the peers'."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@contextmanager
def engine(core: int) -> Iterator[Running]:
    """The engine behind them all."""
    port = free_port()
    with running(core, port, sys.executable, "-m", "tests.bench.engine", str(port)) as found:
        yield found


@contextmanager
def proxies(core: int, directory: Path, target: int) -> Iterator[dict[str, Running]]:
    """All of them but LiteLLM, in front of the engine at the port `target`."""
    sink(directory / "log")
    python = str(environment())
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory, engine=target, port=(nginx := free_port())))
    (directory / "haproxy.cfg").write_text(
        HAPROXY.format(directory=directory, engine=target, port=(haproxy := free_port()))
    )
    ours, uvicorn = free_port(), free_port()
    with ExitStack() as stack:
        enter = stack.enter_context
        found = {
            "aitherd": enter(
                running(
                    core, ours, sys.executable, "-m", "tests.bench.aither", str(ours), str(target), f"{directory}/log"
                )
            ),
            "nginx": enter(running(core, nginx, "nginx", "-c", f"{directory}/nginx.conf", "-e", f"{directory}/error")),
            "haproxy": enter(running(core, haproxy, "haproxy", "-db", "-f", f"{directory}/haproxy.cfg")),
        }
        found["uvicorn+httpx"] = enter(
            running(
                core, uvicorn, python, "-m", "uvicorn", "--port", str(uvicorn), "--no-access-log",
                "--app-dir", str(Path(__file__).with_name("asgi")), "proxy:app",
                environment={"PYTHONPATH": "", "BENCH_ENGINE": f"http://127.0.0.1:{target}"},
            )
        )  # fmt: skip
        yield found


@contextmanager
def litellm(core: int, directory: Path, target: int) -> Iterator[Running]:
    """LiteLLM's proxy, which has its own idea of what it passes on and is given models, not addresses."""
    port = free_port()
    configuration = directory / "litellm.yaml"
    configuration.write_text(LITELLM.format(engine=target))
    command = (str(environment().with_name("litellm")), "--config", str(configuration), "--host", "127.0.0.1")
    plain = {
        "PYTHONPATH": "",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # Without keys, as everybody else here.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    with running(core, port, *command, "--port", str(port), environment=plain) as found:
        yield found
