"""`top`: devices, models and the last decisions on one screen, looked at again and again.

The screen is made in `screen.py`; here it is fed and shown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from aitherd.core.words import Seconds
from aitherd.ctl.client import Client, run
from aitherd.ctl.failure import Exit, Failure
from aitherd.ctl.screen import View, screen
from aitherd.ctl.terminal import print_json

RECORDS = 50
"""More than any screen shows below the models."""
LEAVE = frozenset({b"q", b"Q", b"\x1b", b"\x03", b"\x04"})
"""Keys that end it: q, Escape, and what would interrupt or end the input."""
SMALLEST: Seconds = 0.2
"""Looking more often would be work for the daemon and nothing for the eye."""


def top(arguments: argparse.Namespace) -> int:
    """Shows it until a key ends it, or once."""
    if arguments.json or arguments.once:
        return run(arguments, lambda client: _once(client, as_json=arguments.json))
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure("this is no terminal", "aitherctl top --once, or --json", status=Exit.USAGE)
    interval = max(arguments.interval, SMALLEST)
    with _keys() as leave:
        return run(arguments, lambda client: _live(client, interval, leave))


async def look(client: Client) -> View:
    """Everything that is shown, as it is now. Asking neither starts a model nor keeps one."""
    daemon, (models, devices), records = await asyncio.gather(
        client.daemon(), client.fleet(), client.history("", RECORDS)
    )
    return View(daemon, devices, models, records)


class Rates:
    """Tokens a second of each model, from one look to the next."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self._at: Seconds = 0.0

    def put_into(self, view: View) -> View:
        """The view, whose models have `token_rate` where it is known."""
        now = time.monotonic()
        for model in view.models:
            before = self._before.get(model["name"])
            # A daemon that is new counts from 0 again.
            if before is not None and model["tokens"] >= before and now > self._at:
                model["token_rate"] = (model["tokens"] - before) / (now - self._at)
        self._before = {model["name"]: model["tokens"] for model in view.models}
        self._at = now
        return view


async def _once(client: Client, *, as_json: bool) -> int:
    from rich.console import Console

    view = await look(client)
    if as_json:
        print_json({"daemon": view.daemon, "devices": view.devices, "models": view.models, "records": view.records})
        return Exit.OK
    console = Console(highlight=False)
    console.print(screen(view, console.width, None), end="")
    return Exit.OK


async def _live(client: Client, interval: Seconds, leave: asyncio.Event) -> int:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    loop = asyncio.get_running_loop()
    rates = Rates()
    loop.add_reader(sys.stdin.fileno(), _pressed, leave)
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while not leave.is_set():
                view = rates.put_into(await look(client))
                live.update(screen(view, console.width, console.height), refresh=True)
                try:
                    async with asyncio.timeout(interval):
                        await leave.wait()
                except TimeoutError:
                    continue
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return Exit.OK


def _pressed(leave: asyncio.Event) -> None:
    key = os.read(sys.stdin.fileno(), 16)
    # A terminal that went away reads as ended.
    if not key or (key[:1] in LEAVE and len(key) == 1):
        leave.set()


@contextmanager
def _keys() -> Iterator[asyncio.Event]:
    """While it lasts, keys come at once and are not shown."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield asyncio.Event()
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
