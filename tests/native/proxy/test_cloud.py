"""A cloud that is a real llama-server behind a real TLS proxy with a private CA, and a chain that breaks under load."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import openai
import pytest

from aitherd.core.upstreams import Node, Reach, RemoteModel, Upstream
from aitherd.core.words import Endpoint, Residency
from aitherd.errors import StartFailed
from tests.native.proxy.conftest import House
from tests.native.proxy.fleet import failing
from tests.native.proxy.test_tiers import CHAT, ask, roads, who
from tests.native.proxy.tiers import KEY, Roads, authority, saying
from tests.native.proxy.wires import Client, until

__all__ = ["roads"]

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;
events {{ worker_connections 512; }}
http {{
  access_log {folder}/access;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_max_body_size 0;
  upstream engine {{ server unix:{engine}; }}
  server {{
    listen 127.0.0.1:{port} ssl; server_name localhost;
    ssl_certificate {cert}; ssl_certificate_key {key};
    location / {{
      set $shown "$http_authorization|$http_x_api_key";
      if ($shown !~ "^(Bearer {secret}[|]|[|]{secret})$") {{ return 401; }}
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_set_header Host localhost;
    }}
  }}
}}
"""


@pytest.fixture(scope="module")
def cloud(server: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """nginx with TLS before the llama-server; it wants the key."""
    if shutil.which("nginx") is None or shutil.which("openssl") is None:
        pytest.skip("nginx and openssl are needed: apt-get install nginx-light openssl")
    folder = tmp_path_factory.mktemp("cloud")
    ca, cert, key = authority(folder)
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        port = plug.getsockname()[1]
    text = NGINX.format(folder=folder, engine=server, port=port, cert=cert, key=key, secret=KEY)
    (folder / "conf").write_text(text)
    process = subprocess.Popen(["nginx", "-c", folder / "conf", "-e", folder / "error"])
    try:
        for _ in range(200):
            with socket.socket() as plug:
                if plug.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "error").read_text()
        yield Upstream(
            "cloud", Reach.CLOUD, (Node(True, "localhost", port, "/v1"),), key="cloud-key", authority=str(ca),
            models={"gpt-x": RemoteModel("qwen2.5-vl", frozenset({"chat", "completions", "tools"}), 10.0, 30.0)},
        )  # fmt: skip
    finally:
        process.terminate()
        process.wait()


async def test_the_official_client_reaches_the_cloud_through_a_tier(
    house: House, roads: Roads, cloud: Upstream
) -> None:
    roads.upstreams["cloud"] = cloud
    routing = await roads.open("cloud/gpt-x")
    transport = httpx2.AsyncHTTPTransport(uds=str(house.path))
    async with openai.AsyncOpenAI(
        api_key="client",
        base_url="http://aither/v1",
        http_client=httpx2.AsyncClient(transport=transport),
        max_retries=0,
    ) as client:
        whole = await client.chat.completions.with_raw_response.create(
            model="standard", max_tokens=4, messages=[{"role": "user", "content": "hi"}]
        )
        assert whole.headers["x-aither-upstream"] == "cloud/gpt-x"
        answer = whole.parse()
        assert answer.usage is not None
        paid = (answer.usage.prompt_tokens * 10.0 + answer.usage.completion_tokens * 30.0) / 1e6
        await until(lambda: routing.spend.today("cloud") > 0)
        assert routing.spend.today("cloud") == pytest.approx(paid)
        stream = await client.chat.completions.create(
            model="standard", max_tokens=4, stream=True, messages=[{"role": "user", "content": "hi"}]
        )
        pieces = [piece async for piece in stream]
        assert len(pieces) > 2
        # Without an account of tokens a stream is counted by its events.
        await until(lambda: routing.spend.today("cloud") > paid)
    assert house.proxy.metrics.in_flight == 0


@pytest.mark.parametrize("other", ["authority", "name"])
async def test_a_certificate_of_somebody_else_is_not_accepted(
    house: House, roads: Roads, cloud: Upstream, other: str
) -> None:
    node = replace(cloud.nodes[0], host="127.0.0.1")
    roads.upstreams["cloud"] = replace(cloud, authority="") if other == "authority" else replace(cloud, nodes=(node,))
    await roads.upstream("spark", saying("spark"))
    await roads.open("cloud/gpt-x", "spark/x")
    reply = await ask(house, messages=[])
    assert who(reply) == "spark"
    assert "certificate verify failed" in reply.fields["x-aither-reason"].lower().replace("_", " ")


async def test_probes_list_the_models_of_the_cloud(house: House, roads: Roads, cloud: Upstream) -> None:
    roads.upstreams["cloud"] = cloud
    routing = await roads.open("cloud/gpt-x")
    (peer,) = routing.remotes.by_name["cloud"].peers
    await until(lambda: bool(peer.models))
    assert "qwen2.5-vl" in peer.models


async def test_the_chain_breaks_link_by_link_under_load_and_no_request_is_refused(
    house: House, roads: Roads, server: Path, cloud: Upstream
) -> None:
    """local -> LAN -> cloud, all real servers: first the local model goes, then the LAN's, and then they come back."""
    front: list[asyncio.Server] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A wire to the llama-server that can be cut."""
        back_reader, back_writer = await asyncio.open_unix_connection(server)
        wires.update((writer, back_writer))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            except ConnectionError:
                return
            finally:
                sink.close()

        await asyncio.gather(pump(reader, back_writer), pump(back_reader, writer))
        wires.difference_update((writer, back_writer))

    wires: set[asyncio.StreamWriter] = set()
    lan = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = lan.sockets[0].getsockname()[1]
    local_path = house.directory / "local.sock"
    local = await asyncio.start_unix_server(relay, local_path)
    front += [lan, local]
    house.fleet.add("local", Endpoint(socket=str(local_path)))
    roads.upstreams = {
        "spark": Upstream(
            "spark",
            Reach.LAN,
            (Node(False, "127.0.0.1", port, "/v1"),),
            probe_interval=3600.0,
            models={"reasoning": RemoteModel("qwen2.5-vl")},
        ),
        "cloud": cloud,
    }
    routing = await roads.open("local", "spark/reasoning", "cloud/gpt-x")
    answered: list[tuple[int, str]] = []
    ending = asyncio.Event()
    body = json.dumps({"model": "standard", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}).encode()
    stream = body.replace(b'"max_tokens"', b'"stream": true, "max_tokens"')

    async def load(number: int) -> None:
        async with await Client.connect(house.path) as client:
            while not ending.is_set():
                client.post(CHAT, stream if number % 2 else body, "Content-Type: application/json")
                reply = await client.reply()
                good = reply.status == 200 and reply.whole and b"choices" in reply.body
                answered.append((reply.status if good else -1, reply.fields.get("x-aither-upstream", "")))

    async def phase(expected: str) -> None:
        """Until ten answers in a row came from there."""
        await until(lambda: len(answered) >= 10 and {upstream for _, upstream in answered[-10:]} == {expected})

    loads = [asyncio.create_task(load(number)) for number in range(4)]
    await phase("local")
    # The local model dies in the middle of its work: what has not begun goes on elsewhere.
    local.close()
    local_path.unlink(missing_ok=True)
    house.fleet.change("local", residency=Residency.FAILED, error="local died")
    house.fleet.starts["local"] = failing(StartFailed("local does not start"))
    await phase("spark/reasoning")
    # The LAN is unplugged: nobody listens any more. Its connections end between requests.
    lan.close()
    for wire in tuple(wires):
        wire.close()
    await phase("cloud/gpt-x")
    # All come back.
    lan = await asyncio.start_server(relay, "127.0.0.1", port)
    front.append(lan)
    (peer,) = routing.remotes.by_name["spark"].peers
    peer.circuit.until = 0.0
    await phase("spark/reasoning")
    front.append(await asyncio.start_unix_server(relay, local_path))
    house.fleet.change("local", residency=Residency.READY, error="")
    routing.circuit("local").until = 0.0
    await phase("local")
    ending.set()
    await asyncio.gather(*loads)
    failed = Counter(entry for entry in answered if entry[0] != 200)
    # Cutting a wire in the middle of an answer is the one thing that nobody can hide: streams that had begun.
    assert [entry for entry in failed if entry[0] != -1] == []
    assert sum(failed.values()) <= CUT_STREAMS, (failed, len(answered))
    for one in front:
        one.close()
    for wire in tuple(wires):
        wire.close()


CUT_STREAMS = 2
"""Of the clients, so many have a stream open; each of them may be hit once, by the unplugging."""
