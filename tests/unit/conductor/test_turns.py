"""A loop proves that it goes round, and one that hangs does not."""

import asyncio

from aitherd.conductor.turns import Turns


async def loop(turns: Turns, done: list[int], gate: asyncio.Event) -> None:
    while True:
        turns.begin()
        done.append(len(done))
        await gate.wait()
        await turns.wait()


async def test_a_loop_that_waits_for_work_is_woken_to_prove_itself() -> None:
    turns, gate = Turns(), asyncio.Event()
    done: list[int] = []
    gate.set()
    task = asyncio.create_task(loop(turns, done, gate))
    await asyncio.sleep(0)
    for expected in (2, 3):
        await turns.prove()
        assert len(done) == expected
    task.cancel()


async def test_a_loop_that_hangs_proves_nothing_until_it_goes_on() -> None:
    turns, gate = Turns(), asyncio.Event()
    done: list[int] = []
    task = asyncio.create_task(loop(turns, done, gate))
    await asyncio.sleep(0)
    proof = asyncio.create_task(turns.prove())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not proof.done() and len(done) == 1
    gate.set()
    await proof
    assert len(done) == 2
    task.cancel()


async def test_what_is_wanted_during_a_turn_makes_another() -> None:
    turns = Turns()
    turns.begin()
    turns.want()
    await turns.wait()
