"""A cloud that is a real llama-server behind a real TLS proxy with a private CA, reached through a tier."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import openai
import pytest

from aitherd.core.upstreams import Node, Reach, RemoteModel, Upstream
from tests.native.proxy.conftest import House
from tests.native.proxy.test_tiers import ask, roads, who
from tests.native.proxy.tiers import KEY, Roads, authority, saying
from tests.native.proxy.wires import until

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
