"""Who asks: credentials of a socket, API keys, quotas, and what one caller's crowd means for another."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import structlog

from aitherd.conductor.records import Records
from aitherd.core.callers import Caller, Peer, Rule
from aitherd.core.words import Priority, Residency
from aitherd.proxy.callers import KEPT, Callers
from aitherd.proxy.limits import Limits
from aitherd.proxy.refusals import OverQuota
from tests.native.proxy.conftest import House
from tests.native.proxy.wires import Client, Engine, Reply, read_request, until

KEYS = {"laptop-key": "sk-laptop-0123456789", "bot-key": "sk-bot-9876543210"}
ME, NOBODY = os.getuid(), 65534
CHAT = "/v1/chat/completions"
BODY = b'{"model":"vision","messages":[]}'


def key(name: str) -> str:
    return f"Authorization: Bearer {KEYS[name]}"


async def opened(house: House, rules: Mapping[str, Rule], records: Records | None = None, **more: Any) -> Callers:
    """A proxy that knows these callers."""
    callers = Callers(records, secret=KEYS.__getitem__, **more)
    callers.apply(rules)
    await house.open(Limits(tick=0.05), callers=callers)
    return callers


async def ask(client: Client, *fields: str) -> Reply:
    client.post(CHAT, BODY, *fields)
    return await client.reply()


async def once(house: House, *fields: str, path: str = CHAT, tcp: bool = True) -> Reply:
    """One request on a connection of its own, which a refusal may end."""
    async with await house.client(tcp=tcp) as client:
        if path != CHAT:
            client.get(path, *fields)
            return await client.reply()
        return await ask(client, *fields)


LAPTOP = {"laptop": Rule(Caller("laptop"), key="laptop-key"), "bot": Rule(Caller("bot"), key="bot-key")}


async def test_over_tcp_a_request_without_a_valid_key_is_refused_in_openais_shape(house: House) -> None:
    engine = await house.model("vision")
    await opened(house, LAPTOP)
    wrong = ("Authorization: Bearer sk-laptop-012345678", "Authorization: Basic abc", "x-api-key: no")
    for fields in ((), *((one,) for one in wrong)):
        reply = await once(house, *fields)
        assert reply.status == 401
        assert reply.fields["www-authenticate"] == "Bearer"
        error = reply.json()["error"]
        assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")
        assert "sk-laptop" not in reply.body.decode()
    for path in ("/v1/models", "/running", "/metrics", "/nowhere"):
        assert (await once(house, path=path)).status == 401
    assert (await once(house, path="/health")).status == 200
    assert not engine.requests


async def test_a_key_lets_in_and_is_never_passed_on_or_written_down(house: House) -> None:
    engine = await house.model("vision")
    callers = await opened(house, LAPTOP)
    with structlog.testing.capture_logs() as logs:
        async with await house.client(tcp=True) as client:
            for fields in ([key("laptop-key")], [f"X-Api-Key: {KEYS['bot-key']}"], [key("laptop-key")]):
                assert (await ask(client, *fields)).status == 200
            assert (await ask(client)).status == 401
        await until(lambda: len([log for log in logs if log.get("aither_event") == "request"]) == 4)
    assert [log["caller"] for log in logs if log.get("aither_event") == "request"] == ["laptop", "bot", "laptop", ""]
    assert "sk-" not in repr(logs) + repr(callers.__dict__)
    assert all("sk-" not in repr(request) for request in engine.requests)


async def test_two_keys_in_one_request_are_none(house: House) -> None:
    await house.model("vision")
    await opened(house, LAPTOP)
    async with await house.client(tcp=True) as client:
        assert (await ask(client, key("laptop-key"), f"x-api-key: {KEYS['bot-key']}")).status == 400


async def test_without_keys_tcp_is_as_open_as_it_was(house: House) -> None:
    await house.model("vision")
    await opened(house, {"me": Rule(Caller("me"), uid=ME)})
    async with await house.client(tcp=True) as client:
        assert (await ask(client, "Authorization: Bearer anything")).status == 200


async def test_on_the_unix_socket_the_kernel_says_who_it_is_unless_a_key_does(house: House) -> None:
    await house.model("vision")
    await opened(house, {**LAPTOP, "me": Rule(Caller("me"), uid=ME), "other": Rule(Caller("other"), uid=ME + 1)})
    with structlog.testing.capture_logs() as logs:
        async with await house.client() as client:
            for fields in ([], ["Authorization: Bearer whatever a client has to send"], [key("bot-key")]):
                assert (await ask(client, *fields)).status == 200
        await until(lambda: len([log for log in logs if log.get("aither_event") == "request"]) == 3)
    assert [log["caller"] for log in logs if log.get("aither_event") == "request"] == ["me", "me", "bot"]


def open_to_all(folder: Path, path: Path) -> None:
    """Lets every user connect to a socket."""
    folder.chmod(0o755)
    path.chmod(0o666)


@pytest.mark.skipif(ME != 0, reason="only root can call as another user")
async def test_two_users_on_one_socket_are_two_callers(house: House) -> None:
    await house.model("vision")
    callers = Callers()
    callers.apply({"captions": Rule(Caller("captions", concurrency=1), uid=NOBODY)})
    folder = Path(tempfile.mkdtemp(prefix="aither-callers-", dir="/tmp"))
    try:
        house.directory = folder
        await house.open(Limits(tick=0.05), callers=callers)
        open_to_all(folder, house.path)
        command = ("curl", "-s", "--unix-socket", str(house.path), f"http://aither{CHAT}", "-d", BODY.decode())
        with structlog.testing.capture_logs() as logs:
            for user in (NOBODY, NOBODY + 1, ME):
                process = await asyncio.create_subprocess_exec(
                    *("setpriv", "--reuid", str(user), "--clear-groups"), *command, stdout=asyncio.subprocess.PIPE
                )
                said, _ = await process.communicate()
                assert (process.returncode, said) == (0, BODY)
            await until(lambda: len([log for log in logs if log.get("aither_event") == "request"]) == 3)
    finally:
        shutil.rmtree(folder)
    told = [log["caller"] for log in logs if log.get("aither_event") == "request"]
    assert told == ["captions", f"uid:{NOBODY + 1}", f"uid:{ME}"]


async def test_a_key_that_cannot_be_read_lets_nobody_in(house: House) -> None:
    await house.model("vision")
    records = Records(lambda: 0.0)

    def unreadable(name: str) -> str:
        raise FileNotFoundError(2, "No such file or directory")

    callers = Callers(records, secret=unreadable)
    callers.apply({"laptop": Rule(Caller("laptop"), key="laptop-key")})
    await house.open(Limits(tick=0.05), callers=callers)
    assert (await once(house)).status == 401
    assert (await once(house, "Authorization: Bearer ")).status == 401
    (record,) = records.latest()
    assert record.message == "the credential laptop-key of the caller laptop cannot be read: No such file or directory"


async def test_a_key_that_is_taken_away_ends_to_let_in_on_open_connections_too(house: House) -> None:
    await house.model("vision")
    callers = await opened(house, LAPTOP)
    async with await house.client(tcp=True) as client:
        assert (await ask(client, key("laptop-key"))).status == 200
        callers.apply({"bot": LAPTOP["bot"]})
        assert (await ask(client, key("laptop-key"))).status == 401


async def held(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An engine that never answers."""
    engine.requests.append(await read_request(reader))
    await reader.read()


async def test_over_its_concurrency_a_caller_is_told_to_come_back_and_others_are_not(house: House) -> None:
    engine = await house.model("vision", held)
    await opened(house, {**LAPTOP, "me": Rule(Caller("me", concurrency=2), uid=ME)})
    async with await house.client() as one, await house.client() as two, await house.client() as three:
        one.post(CHAT, BODY)
        two.post(CHAT, BODY)
        await until(lambda: len(engine.requests) == 2)
        reply = await ask(three)
        assert (reply.status, reply.fields["retry-after"]) == (429, "1")
        assert reply.json()["error"]["code"] == "rate_limit_exceeded"
        assert reply.json()["error"]["type"] == "rate_limit_error"
        assert (await once(house, path="/v1/models", tcp=False)).status == 200
        async with await house.client() as bot, await house.client() as four:
            bot.post(CHAT, BODY, key("bot-key"))
            await until(lambda: len(engine.requests) == 3)
            one.writer.close()
            await until(lambda: house.proxy.metrics.in_flight == 2)
            four.post(CHAT, BODY)
            await until(lambda: len(engine.requests) == 4)


async def test_over_its_rate_a_caller_is_told_when_to_come_back(house: House) -> None:
    await house.model("vision")
    now = 100.0
    await opened(house, {"me": Rule(Caller("me", rate=3), uid=ME)}, clock=lambda: now)
    assert [(await once(house, tcp=False)).status for _ in range(4)] == [200, 200, 200, 429]
    reply = await once(house, tcp=False)
    assert (reply.status, reply.fields["retry-after"]) == (429, "20")
    now += 20.0
    assert [(await once(house, tcp=False)).status for _ in range(2)] == [200, 429]


async def test_who_asks_is_told_to_the_waiting_line(house: House) -> None:
    await house.model("vision", residency=Residency.ABSENT)
    batch = Caller("captions", Priority.BATCH, weight=2)
    await opened(house, {"captions": Rule(batch, uid=ME)})
    async with await house.client() as client:
        assert (await ask(client)).status == 200
    assert house.fleet.asked == [("vision", batch)]


async def test_callers_of_whom_nothing_has_to_be_known_are_forgotten() -> None:
    callers = Callers()
    callers.apply({"captions": Rule(Caller("captions", rate=1), uid=1)})
    busy = callers.standing(Peer(2, 2), b"")
    callers.enter(busy)
    callers.enter(callers.standing(Peer(1, 1), b""))
    for uid in range(1000, 1000 + 2 * KEPT):
        callers.standing(Peer(uid, uid), b"")
    assert len(callers.standings()) <= KEPT
    assert callers.standing(Peer(2, 2), b"") is busy
    with pytest.raises(OverQuota):
        callers.enter(callers.standing(Peer(1, 1), b""))


async def test_a_request_may_say_that_nobody_waits_for_it_but_not_that_somebody_does(house: House) -> None:
    await house.model("vision", residency=Residency.ABSENT)
    person, job = Caller("person"), Caller("job", Priority.BATCH)
    await opened(house, {"person": Rule(person, key="laptop-key"), "job": Rule(job, key="bot-key")})
    for shown, said, asks in (
        ("laptop-key", "batch", replace(person, priority=Priority.BATCH)),
        ("laptop-key", "interactive", person),
        ("bot-key", "interactive", job),
    ):
        house.fleet.change("vision", residency=Residency.ABSENT)
        reply = await once(house, key(shown), f"X-Aither-Priority: {said}")
        assert reply.status == 200
        assert house.fleet.asked[-1] == ("vision", asks)
    assert (await once(house, key("laptop-key"), "X-Aither-Priority: urgent")).status == 400


async def test_the_official_client_is_let_in_by_its_key_and_shown_the_door_without(house: House) -> None:
    await house.model("vision")
    await opened(house, LAPTOP)
    url = f"http://127.0.0.1:{house.port}/v1"
    async with openai.AsyncOpenAI(api_key=KEYS["laptop-key"], base_url=url, max_retries=0) as client:
        assert [one.id async for one in await client.models.list()] == ["vision"]
    async with openai.AsyncOpenAI(api_key="sk-wrong", base_url=url, max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.models.list()
        assert refused.value.code == "invalid_api_key"
