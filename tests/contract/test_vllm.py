"""How vLLM fails, held against servers of the test's own: what `aitherd/engines/vllm.py` takes it to do."""

from __future__ import annotations

import os
import signal

import httpx
import pytest

from aitherd.engines.base import EngineRefused, Health
from tests.contract.asking import GIB, PATIENCE_S, holds, until, working
from tests.contract.servers import Start


async def test_vllm_without_its_development_mode_refuses_to_sleep_and_stays_ready(start: Start) -> None:
    server = start("vllm", VLLM_SERVER_DEV_MODE="0")
    await server.until(Health.READY)
    async with server.control() as control:
        with pytest.raises(EngineRefused, match="/sleep answered 404"):
            await server.engine.sleep(control, 1, PATIENCE_S)
        assert await server.engine.health(control) is Health.READY


async def test_vllm_drains_before_it_sleeps_because_it_is_asked_to(start: Start) -> None:
    server = start("vllm", "--x-token-seconds", "0.01")
    await server.until(Health.READY)
    async with server.control() as control, working(server, tokens=50):
        await server.engine.sleep(control, 1, PATIENCE_S)
        assert await server.engine.busy(control) is False
    assert server.process is not None
    assert server.process.poll() is None


async def test_vllm_sleeps_in_the_query_and_frees_all_but_its_context(start: Start) -> None:
    server = start("vllm")
    await server.until(Health.READY)
    async with server.control() as control:
        for level in (1, 2):
            await server.engine.sleep(control, level, PATIENCE_S)
            assert server.used == int(1.4 * GIB)
            assert server.used <= server.engine.ladder(("--enable-sleep-mode",), {})[level - 1].residue
            await server.engine.wake(control, level, PATIENCE_S)
            assert server.used == 10 * GIB + int(1.4 * GIB)


async def test_vllm_may_answer_200_to_a_sleep_that_kills_it(start: Start) -> None:
    """Why nothing may be in flight, whatever `mode` says: here, what an old release makes of it."""
    server = start("vllm", "--x-token-seconds", "0.01")
    await server.until(Health.READY)
    async with server.control() as control:
        with pytest.raises(httpx.TransportError):
            async with working(server):
                answer = await control.post("/sleep", params={"level": "1"})
                assert answer is not None
                assert answer.status_code == 200
                await server.until(Health.UNREACHABLE)
                raise httpx.RemoteProtocolError("gone")
    assert server.process is not None
    server.process.wait()
    assert server.used == 0


async def test_vllm_killed_alone_leaves_a_child_that_holds_its_memory(start: Start) -> None:
    """Why its unit is ended as a whole control group."""
    server = start("vllm", "--x-core")
    await server.until(Health.READY)
    held = server.used
    assert server.process is not None
    assert server.gpu is not None
    server.process.kill()
    server.process.wait()
    (child,) = server.gpu.card.processes
    try:
        assert child != server.process.pid
        assert server.used == held > 0
    finally:
        os.kill(child, signal.SIGKILL)
    await until("the bytes are back", lambda: holds(server, 0))


async def test_vllm_may_keep_what_it_should_give(start: Start) -> None:
    server = start("vllm", "--x-sleep-keeps", "5GiB")
    await server.until(Health.READY)
    async with server.control() as control:
        await server.engine.sleep(control, 1, PATIENCE_S)
        assert await server.engine.health(control) is Health.ASLEEP
    assert server.used == 5 * GIB + int(1.4 * GIB)


@pytest.mark.parametrize("level", [1, 2])
async def test_vllm_refuses_to_wake_without_room_and_leaks(start: Start, level: int) -> None:
    server = start("vllm")
    await server.until(Health.READY)
    assert server.gpu is not None
    async with server.control() as control:
        await server.engine.sleep(control, level, PATIENCE_S)
        asleep = server.used
        game = server.gpu.card.foreign(server.gpu.card.free - GIB)
        try:
            with pytest.raises(EngineRefused, match="/wake_up answered 500"):
                await server.engine.wake(control, level, PATIENCE_S)
            assert await server.engine.health(control) is Health.ASLEEP
            assert server.used > asleep + server.gpu.card.processes[game.pid]
        finally:
            game.kill()
            game.communicate()
