"""Waiting for a model: how a demand joins a book's line, is served, refused, times out or is withdrawn.

Every waiter ends exactly once. Who is brought in and when is not decided here.
"""

from __future__ import annotations

import asyncio

from aitherd.conductor.books import Book
from aitherd.conductor.claims import Claim, Waiter
from aitherd.core.callers import ANYBODY, Caller
from aitherd.core.forecast import doubted, hopeless
from aitherd.core.policy import Policy
from aitherd.core.queue import Line, displaced, turns
from aitherd.core.words import Priority, Seconds, format_seconds
from aitherd.errors import AitherError, Hopeless, QueueFull, WaitedTooLong


async def wait(
    book: Book,
    *,
    claim: bool,
    timeout: Seconds | None,
    limit: int | None,
    caller: Caller = ANYBODY,
) -> Claim | None:
    """Waits until `book` is ready; returns the claim if one is wanted.

    `timeout` in seconds, None for ever; `limit` is the number of waiters at which one more is refused, or in its place
    one that has less right to wait (`queue.displaced`). Raises QueueFull, WaitedTooLong or whatever the line was
    refused with. Cancelling withdraws the demand.
    """
    if limit is not None and len(book.waiters) >= limit:
        _make_way(book, caller)
    loop = asyncio.get_running_loop()
    now = book.clock.monotonic()
    waiter = Waiter(loop.create_future(), now, None if timeout is None else now + timeout, claim, caller)
    book.waiters.append(waiter)
    if book.unserved_since is None:
        book.unserved_since = now
    book.changed(book.name)
    timer = None if timeout is None else loop.call_later(timeout, _expire, book, waiter, timeout)
    try:
        return await waiter.future
    except asyncio.CancelledError:
        # Served and cancelled in the same turn of the loop: nobody will use the claim.
        if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
            unused = waiter.future.result()
            if unused is not None:
                unused.release()
        if not set(book.waiters) - {waiter}:
            # Nobody waits any more, and nobody waited in vain.
            book.unserved_since = None
        raise
    finally:
        if timer is not None:
            timer.cancel()
        if waiter in book.waiters:
            book.waiters.remove(waiter)
            book.changed(book.name)


def line(book: Book, now: Seconds) -> Line:
    """Those who wait for `book`, as the order of the lines is decided by."""
    return Line(
        model=book.name,
        waiting=len(book.waiters),
        oldest_since=min((waiter.since for waiter in book.waiters), default=now),
        seconds=book.rise(),
        batch=sum(waiter.caller.priority is Priority.BATCH for waiter in book.waiters),
    )


def serve(book: Book, why: str) -> None:
    """Ends the whole line with success; the model must be ready. `why` says how it came to be.

    While its engine is doubted the line goes on waiting.
    """
    if book.vitals.doubt.withholds:
        return
    now = book.clock.monotonic()
    waiters = list(book.waiters)
    book.waiters.clear()
    book.unserved_since = None
    for waiter in (waiters[at] for at in turns([waiter.caller for waiter in waiters])):
        if not waiter.future.done():
            waiter.future.set_result(book.begin_use(now - waiter.since, why) if waiter.wants_claim else None)


def give_up(book: Book, best: Seconds, now: Seconds, policy: Policy) -> Seconds | None:
    """Ends the wait of those for whom `book` cannot be ready in time, although it be so in `best` seconds.

    Returns the monotonic instant at which the next one could be given up; None when none ever will.
    """
    due: list[Seconds] = []
    for waiter in list(book.waiters):
        waiter.doubted = doubted(now + best, waiter.deadline, waiter.doubted, now)
        if waiter.deadline is None or waiter.future.done():
            continue
        if waiter.doubted is None:
            due.append(waiter.deadline - best)
        elif not hopeless(waiter.doubted, now, policy):
            due.append(waiter.doubted + policy.doubt)
        else:
            # Where the load alone takes longer than anybody would wait, it goes on for those who come back.
            book.wanted = book.wanted or waiter.deadline - waiter.since < book.rise(best=True)
            book.waiters.remove(waiter)
            book.changed(book.name)
            left = format_seconds(max(waiter.deadline - now, 0.0))
            waiter.future.set_exception(
                Hopeless(
                    f"{book.name} cannot be ready within the {left} left: it takes {format_seconds(best)} at best",
                    remedy="try again later, or raise wait in aitherd.toml",
                    retry_after=max(best, 1.0),
                )
            )
    return min(due, default=None)


def refuse(book: Book, error: AitherError) -> None:
    """Ends the whole line with `error`."""
    book.unserved_since = None
    while book.waiters:
        waiter = book.waiters.popleft()
        if not waiter.future.done():
            waiter.future.set_exception(error)


def _make_way(book: Book, newcomer: Caller) -> None:
    """Sends somebody away who waits in a full line. Raises QueueFull when that is the newcomer."""
    # Holds and preloads have no bound, and are nobody's to displace.
    waiters = [waiter for waiter in book.waiters if waiter.wants_claim]
    at = displaced([waiter.caller for waiter in waiters], newcomer)
    error = QueueFull(
        f"{len(book.waiters)} requests wait for {book.name} already"
        + (", and they come first" if at is not None else ""),
        remedy="try again later, or raise max-waiting in its model file",
        retry_after=max(book.learned.start_seconds(), 1.0),
    )
    if at is None:
        raise error
    book.waiters.remove(waiters[at])
    if not waiters[at].future.done():
        waiters[at].future.set_exception(error)


def _expire(book: Book, waiter: Waiter, timeout: Seconds) -> None:
    if waiter in book.waiters:
        book.waiters.remove(waiter)
        book.unserved_until = book.clock.monotonic()
        book.changed(book.name)
    if not waiter.future.done():
        doing = book.stage or book.refusal or f"it is {book.residency}"
        waiter.future.set_exception(
            WaitedTooLong(
                f"{book.name} was not ready within {format_seconds(timeout)}: {doing}",
                remedy="try again later, or raise wait in aitherd.toml",
                retry_after=max(book.learned.start_seconds(), 1.0),
            )
        )
