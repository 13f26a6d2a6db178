"""The live page as it is served, the past that it asks for, and what web pages of others may not do."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess

import pytest

from aitherd.core.words import Residency, Seconds
from aitherd.proxy.limits import Limits
from aitherd.proxy.pages import DIRECTORY, FILES
from tests.native.proxy.conftest import House
from tests.native.proxy.test_callers import LAPTOP, key, once, opened
from tests.native.proxy.test_local import get
from tests.native.proxy.wires import until

NOBODY = 65534
STRANGER = """
import sys, urllib.request, urllib.error
for method, path in (("GET", "/v1/models"), ("POST", "/swap/request-vision"), ("POST", "/api/models/unload")):
    asked = urllib.request.Request(f"http://127.0.0.1:{sys.argv[1]}{path}", method=method)
    try:
        print(urllib.request.urlopen(asked).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""
"""What another user of this machine runs."""


class Notes:
    """A past that only takes note."""

    def __init__(self) -> None:
        self.waits: list[tuple[str, Seconds]] = []

    def waited(self, model: str, seconds: Seconds) -> None:
        self.waits.append((model, seconds))

    def since(self, instant: Seconds) -> dict[str, object]:
        return {"from": instant, "waits": self.waits}


async def test_every_file_of_the_page_is_served_and_nothing_from_elsewhere_is_allowed(house: House) -> None:
    async with await house.client() as client:
        for path, (name, kind) in FILES.items():
            reply = await get(client, path)
            assert (reply.status, reply.body) == (200, (DIRECTORY / name).read_bytes())
            assert reply.fields["content-type"] == kind.decode()
            assert reply.fields["x-content-type-options"] == "nosniff"
            policy = dict(entry.split(" ", 1) for entry in reply.fields["content-security-policy"].split("; "))
            assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"


def test_the_page_refers_to_its_own_files_only_and_has_nothing_written_into_it() -> None:
    assert {path.name for path in DIRECTORY.iterdir()} == {name for name, _ in FILES.values()}
    html = (DIRECTORY / "index.html").read_text()
    assert set(re.findall(r'(?:src|href)="([^"#]+)"', html)) <= {
        *FILES,
        "/running",
        "/api/history",
        "/metrics",
        "/v1/models",
    }
    assert not re.search(r"<style|<script(?![^>]*src=)|\sstyle=|\son[a-z]+=", html)
    for path in DIRECTORY.glob("*.js"):
        script = path.read_text()
        assert {f"/page/{name}" for name in re.findall(r'from "\./([a-z]+\.js)"', script)} <= set(FILES)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


async def test_a_file_that_did_not_change_is_not_sent_again(house: House) -> None:
    async with await house.client() as client:
        tag = (await get(client, "/")).fields["etag"]
        client.get("/", f"If-None-Match: {tag}")
        again = await client.reply()
        assert (again.status, again.body, again.fields["etag"]) == (304, b"", tag)
        client.get("/", 'If-None-Match: "other"')
        assert (await client.reply()).status == 200


async def test_the_past_is_told_and_waits_become_part_of_it(house: House) -> None:
    notes = Notes()
    await house.open(Limits(tick=0.05), past=notes)
    await house.model("vision", residency=Residency.ABSENT)
    start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    house.fleet.starts["vision"] = lambda: start
    async with await house.client() as client:
        client.post("/v1/completions", b'{"model":"vision"}', "Content-Type: application/json")
        await until(lambda: house.fleet.models["vision"].waiting == 1)
        await asyncio.sleep(0.02)
        start.set_result(None)
        assert (await client.reply()).status == 200
        # What has ended is taken note of a moment later, or when it is asked for.
        await get(client, "/metrics")
        past = (await get(client, "/api/history?hours=2")).json()
        assert [model for model, _ in past["waits"]] == ["vision"]
        for hours in ("0", "-1", "25", "nan", "many", "1e99"):
            assert (await get(client, f"/api/history?hours={hours}")).status == 400


CROSS = "Origin: http://evil.example"


@pytest.mark.parametrize("origin", [CROSS, "Origin: null", "Origin: http://test:81", "Origin: test", "Origin: //test"])
async def test_a_web_page_of_another_origin_changes_nothing(house: House, origin: str) -> None:
    await house.model("vision")
    for path in ("/api/models/unload", "/swap/request-vision", "/v1/completions", "/upstream/vision/x"):
        async with await house.client() as client:
            client.post(path, b"", origin)
            assert (await client.reply()).status == 403
    async with await house.client() as client:
        client.get("/upstream/vision/ws", "Connection: Upgrade", "Upgrade: websocket", origin)
        assert (await client.reply()).status == 403
    async with await house.client() as client:
        client.get("/v1/models", origin)
        reply = await client.reply()
        # It is sent, and no browser shows it to that page.
        assert reply.status == 200 and "access-control-allow-origin" not in reply.fields
    assert house.fleet.models["vision"].residency is Residency.READY


async def test_our_own_page_does(house: House) -> None:
    await house.model("vision")
    async with await house.client() as client:
        client.post("/api/models/unload/vision", b"", "Origin: http://test")
        assert (await client.reply()).status == 200
    assert house.fleet.models["vision"].residency is Residency.ABSENT


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8150", 200),
        ("LOCALHOST", 200),
        ("a.localhost", 200),
        ("127.0.0.1:8150", 200),
        ("[::1]:8150", 200),
        (socket.gethostname(), 200),
        ("box.example", 200),
        ("evil.example", 403),
        ("evil.example:8150", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
    ],
)
async def test_over_tcp_only_names_of_this_machine_are_answered(house: House, host: str, status: int) -> None:
    await house.open(Limits(tick=0.05, hosts=frozenset({"box.example"})))
    for tcp, expected in ((True, status), (False, 200)):
        async with await house.client(tcp=tcp) as client:
            client.send(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n")
            assert (await client.reply()).status == expected


async def test_whoever_may_use_the_unix_socket_may_stop_models_over_tcp(house: House) -> None:
    await house.model("vision")
    async with await house.client(tcp=True) as client:
        assert (await get(client, "/api/page")).json()["may_stop"] is True
        assert (await get(client, "/api/models/unload/vision", "POST")).status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_somebody_else_over_tcp_may_look_and_ask_but_not_stop(house: House) -> None:
    await house.model("vision")
    program = ["/usr/bin/python3", "-", str(house.port)]
    done = await asyncio.to_thread(
        subprocess.run, program, user=NOBODY, cwd="/", input=STRANGER, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["200", "200", "403"], done.stderr
    assert house.fleet.models["vision"].residency is Residency.READY


async def test_where_keys_are_needed_the_page_comes_without_and_a_key_may_stop(house: House) -> None:
    await house.model("vision")
    await opened(house, LAPTOP)
    for path, status in (
        ("/", 200),
        ("/page/main.js", 200),
        ("/api/page", 401),
        ("/api/history", 401),
        ("/events", 401),
    ):
        assert (await once(house, path=path)).status == status, path
    about = await once(house, key("laptop-key"), path="/api/page")
    assert about.json()["may_stop"] is True


async def test_a_web_socket_of_our_own_page_is_let_through(house: House) -> None:
    async with await house.client() as client:
        client.get("/upstream/nobody/ws", "Connection: Upgrade", "Upgrade: websocket", "Origin: http://test")
        assert (await client.reply()).status == 404
