"""Every engine is as its file in `aitherd/engines/` takes it to be: in shape, in manners, and in how it fails.

Against everything that can be started here, and with `make contract ENGINE=vllm URL=http://127.0.0.1:8000` against a
server that runs already, which is asked, put to sleep and woken, and not harmed.
"""

from __future__ import annotations

import asyncio
from functools import partial

import httpx
import pytest

from aitherd.engines import ENGINES, engine
from aitherd.engines.base import EngineRefused, Health
from tests.contract.asking import CHAT, GIB, LLAMA, MIB, PATIENCE_S, WHISPER, holds, question, says, until, working
from tests.contract.servers import Running, Start, only
from tests.contract.shapes import EMPTY, NUMBER, TEXT, UNKNOWN_MODEL, Call, mismatches
from tests.testbed import speech

# --- what is documented, of any server --------------------------------------------------------------------------------


async def test_an_answer_has_the_documented_shape(ready: Running, call: Call) -> None:
    async with ready.client() as client:
        answer = await client.request(call.method, call.path, params=call.params, json=call.json)
    if answer.status_code in call.absent:
        pytest.skip(f"this server was started without {call.path}")
    assert answer.status_code == call.status, answer.text
    if call.shape is EMPTY:
        assert answer.content == b""
    elif call.shape is TEXT:
        assert answer.content
    else:
        assert list(mismatches(call.shape, answer.json())) == []


async def test_it_is_ready_and_idle(ready: Running) -> None:
    async with ready.control() as control:
        assert await ready.engine.health(control) is Health.READY
        assert await ready.engine.busy(control) is False


async def test_what_only_looks_makes_it_do_nothing(ready: Running) -> None:
    async with ready.client() as client, ready.control() as control:
        for path in sorted(ready.engine.watched):
            await client.get(path)
        assert await ready.engine.busy(control) is False


@only("vllm", "llama-server")
async def test_it_says_that_it_is_busy_while_it_works(ready: Running) -> None:
    async def busy() -> bool:
        async with ready.control() as control:
            return await ready.engine.busy(control)

    async def idle() -> bool:
        return not await busy()

    async with working(ready):
        await until("busy", busy)
    # A client that has gone is noticed, and its answer given up.
    await until("idle", idle)


@only(*(kind for kind in ENGINES if engine(kind).frees))
async def test_it_frees_what_it_is_not_using(ready: Running) -> None:
    async with ready.control() as control:
        await ready.engine.free(control)
    await ready.until(Health.READY)


@only("vllm")
@pytest.mark.parametrize("level", [1, 2])
async def test_it_sleeps_and_wakes_at_every_level(ready: Running, level: int) -> None:
    async with ready.control() as control:
        if (await control.get("/is_sleeping") or httpx.Response(404)).status_code == 404:
            pytest.skip("this server was started without sleep mode")
        before = await says(ready)
        await ready.engine.sleep(control, level, PATIENCE_S)
        assert await ready.engine.health(control) is Health.ASLEEP
        await ready.engine.wake(control, level, PATIENCE_S)
        assert await ready.engine.health(control) is Health.READY
    # Level 2 dropped the weights: they must have been read again, or it would answer nonsense.
    assert bool(before) == bool(await says(ready))
    if ready.ours:
        assert await says(ready) == before


# --- how they fail: servers of the test's own -----------------------------------------------------------------------


async def test_nothing_there_is_unreachable_and_not_busy_with_our_requests(start: Start, kind: str) -> None:
    server = start(kind)
    await server.until(Health.READY)
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    async with server.control() as control:
        assert await server.engine.health(control) is Health.UNREACHABLE
        # One whose queue only it knows is left alone: units that are gone are told by systemd.
        assert await server.engine.busy(control) is (kind == "comfyui")


@pytest.mark.parametrize(
    ("manner", "left"), [("works", 400 * MIB), ("slow", 400 * MIB), ("part", 2 * GIB + 400 * MIB), ("ignored", None)]
)
async def test_comfyui_frees_after_it_said_yes_or_never(start: Start, manner: str, left: int | None) -> None:
    server = start("comfyui", "--warm", "--free", manner)
    await server.until(Health.READY)
    async with server.control() as control, server.client() as client:
        await client.post("/prompt", json={"prompt": {"seconds": 0.3}})
        await until("renders", lambda: server.engine.busy(control))
        await server.engine.free(control)
        # The yes came while it rendered, and nothing has come back.
        assert server.used == 4 * GIB + 400 * MIB
        if left is None:
            await client.post("/prompt", json={"prompt": {"seconds": 0}})
            await until("both are done", lambda: _history(client, 2))
            assert server.used == 4 * GIB + 400 * MIB
        else:
            await until("the bytes are back", lambda: holds(server, left))


async def test_comfyui_finds_freed_weights_in_host_memory(start: Start) -> None:
    server = start("comfyui")
    await server.until(Health.READY)
    async with server.control() as control, server.client() as client:
        for count in (1, 2):
            await client.post("/prompt", json={"prompt": {"seconds": 0}})
            await until("it is done", partial(_history, client, count))
            await server.engine.free(control)
            await until("the bytes are back", lambda: holds(server, 400 * MIB))
        assert (await client.get("/system_stats")).json()["system"]["x_weights_read"] == 1


async def test_speaches_unloads_what_it_is_not_using(start: Start) -> None:
    server = start("speaches", "--x-work-seconds", "0.5")
    await server.until(Health.READY)
    async with server.control() as control, server.client() as client:
        assert (await client.post(f"/api/ps/{WHISPER}")).status_code == 201
        assert (await client.post(f"/api/ps/{WHISPER}")).status_code == 409
        files = {"file": ("a.wav", speech.sound(0.1), "audio/wav")}
        hears = asyncio.create_task(client.post("/v1/audio/transcriptions", data={"model": WHISPER}, files=files))
        await until("in use", lambda: _refuses(server))
        assert (await hears).json() == {"text": "words"}
        await server.engine.free(control)
        assert (await client.get("/api/ps")).json() == {"models": []}
        assert server.used == 400 * MIB
        # It has gone by itself since: nothing to do is no failure.
        await server.engine.free(control)


async def test_ollama_unloads_after_what_it_is_working_on_and_is_never_killed(start: Start) -> None:
    server = start("ollama", "--x-work-seconds", "0.5")
    await server.until(Health.READY)
    async with server.control() as control, server.client() as client:
        writes = asyncio.create_task(client.post("/api/generate", json={"model": LLAMA, "prompt": "x"}))
        await until("loaded", lambda: holds(server, 5 * GIB))
        await server.engine.free(control)
        assert server.used == 5 * GIB
        assert (await writes).json()["done_reason"] == "stop"
        await until("the bytes are back", lambda: holds(server, 0))
        assert (await client.get("/api/ps")).json() == {"models": []}
    assert server.process is not None
    assert server.process.poll() is None


async def test_ollama_tells_that_it_works_as_far_as_it_can(start: Start) -> None:
    server = start("ollama", "--x-work-seconds", "1", "--x-keep-alive-seconds", "0.3")
    await server.until(Health.READY)
    async with server.control() as control, server.client() as client:
        for _ in range(2):
            # Before its first answer, and then beyond the time at which the model should have gone.
            writes = asyncio.create_task(client.post("/api/generate", json={"model": LLAMA, "prompt": "x"}))
            await until("it says that it works", lambda: server.engine.busy(control))
            assert not writes.done()
            await writes
            assert await server.engine.busy(control) is False


async def test_ollama_may_keep_what_it_should_unload(start: Start) -> None:
    server = start("ollama", "--x-keeps")
    await server.until(Health.READY)
    async with server.control() as control, server.client() as client:
        await client.post("/api/generate", json={"model": LLAMA})
        await server.engine.free(control)
        assert (await client.get("/api/ps")).json()["models"][0]["name"] == LLAMA
    assert server.used == 5 * GIB


async def test_llama_server_finds_its_caches_again_in_another_life(start: Start) -> None:
    server = start("llama-server", "--slot-save-path", ".", "--parallel", "1")
    await server.until(Health.READY)
    async with server.control() as control:
        await says(server)
        assert await server.engine.save_slots(control, "kept", PATIENCE_S) == 1
    assert server.process is not None
    server.process.terminate()
    server.process.wait()
    again = start("llama-server", "--slot-save-path", ".", "--parallel", "1")
    await again.until(Health.READY)
    async with again.control() as control, again.client() as client:
        assert await again.engine.restore_slots(control, "others", PATIENCE_S) == 0
        assert await again.engine.restore_slots(control, "kept", PATIENCE_S) == 1
        answer = await client.post(CHAT, json={**question("", 2), "cache_prompt": True})
        # All of the prompt but its last token, which has to be looked at to go on.
        assert answer.json()["timings"]["cache_n"] >= answer.json()["usage"]["prompt_tokens"] - 1


async def test_llama_server_without_a_place_for_its_caches_keeps_none(start: Start) -> None:
    server = start("llama-server", "--parallel", "1")
    await server.until(Health.READY)
    await says(server)
    async with server.control() as control:
        assert await server.engine.save_slots(control, "kept", PATIENCE_S) == 0


async def test_llama_server_that_hides_its_slots_is_not_known_to_be_busy(start: Start) -> None:
    server = start("llama-server", "--no-slots")
    await server.until(Health.READY)
    async with server.control() as control, working(server):
        assert await server.engine.busy(control) is False


async def test_llama_server_embeds_where_it_is_started_for_it(start: Start) -> None:
    server = start("llama-server", "--embedding", "--pooling", "mean")
    await server.until(Health.READY)
    async with server.client() as client, server.control() as control:
        answer = await client.post("/v1/embeddings", json={"input": ["a red house", "the sea"]})
        assert list(mismatches({"data": [{"embedding": [NUMBER]}]}, answer.json())) == []
        assert len(answer.json()["data"]) == 2
        assert await server.engine.busy(control) is False


async def test_whisper_server_writes_down_what_it_hears(start: Start) -> None:
    server = start("whisper-server")
    await server.until(Health.READY)
    async with server.client() as client:
        files = {"file": ("a.wav", speech.sound(), "audio/wav")}
        answer = await client.post("/inference", files=files, data={"response_format": "json"})
    assert list(mismatches({"text": str}, answer.json())) == []


async def test_xtts_is_not_there_before_it_has_loaded(start: Start) -> None:
    server = start("xtts", "--x-load-seconds", "0.3")
    async with server.control() as control, server.client() as client:
        assert await server.engine.health(control) is Health.UNREACHABLE
        await server.until(Health.READY)
        words = {"text": "hello", "speaker_wav": "female", "language": "en"}
        assert (await client.post("/tts_to_audio/", json=words)).content.startswith(b"RIFF")
        assert (await client.post("/v1/audio/speech", json={"model": UNKNOWN_MODEL})).status_code == 404


async def _history(client: httpx.AsyncClient, count: int) -> bool:
    return len((await client.get("/history")).json()) == count


async def _refuses(server: Running) -> bool:
    async with server.control() as control:
        try:
            await server.engine.free(control)
        except EngineRefused as error:
            return "409" in str(error)
        return False
