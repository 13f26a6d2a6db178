"""What changes something: `start`, `hold`, `release`, `stop`, `sleep`, `wake`, `reload`."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from aitherd.core.words import Seconds, format_bytes, format_seconds
from aitherd.ctl.client import Client, Values, plain, run
from aitherd.ctl.failure import Exit
from aitherd.ctl.terminal import cut, print_json, printable

CLEAR_LINE = "\r\033[K"
TICK: Seconds = 0.5
"""How often the time in the line of progress moves."""


def start(arguments: argparse.Namespace) -> int:
    """Brings models in."""
    return _each(arguments, "Start")


def hold(arguments: argparse.Namespace) -> int:
    """Brings models in and keeps them."""
    return _each(arguments, "Hold")


def release(arguments: argparse.Namespace) -> int:
    """Ends holds."""
    return _each(arguments, "Release")


def stop(arguments: argparse.Namespace) -> int:
    """Stops models."""
    return _each(arguments, "ForceStop" if arguments.force else "Stop")


def reload(arguments: argparse.Namespace) -> int:
    """Has the configuration taken over."""

    async def command(client: Client) -> int:
        await client.manager("Reload")
        if arguments.json:
            print_json({"models": [row[0] for row in await client.manager("ListModels")]})
        return Exit.OK

    return run(arguments, command)


def sleep(arguments: argparse.Namespace) -> int:
    """Puts models to sleep."""
    return _each(arguments, "Sleep", "su", arguments.level)


def wake(arguments: argparse.Namespace) -> int:
    """Wakes models that sleep, and says so of others."""
    return _each(arguments, "Wake")


def _each(arguments: argparse.Namespace, member: str, signature: str = "s", *more: object) -> int:
    """Calls a method for one model after the other; the first failure ends it. Interrupting withdraws a start."""

    async def command(client: Client) -> int:
        done = []
        for name in dict.fromkeys(arguments.names):
            model = await client.model(name)
            with Progress(model) as progress:
                slot = await client.watch(model["name"], progress.changed) if progress.shown else None
                await client.manager(member, signature, model["name"], *more, timeout=arguments.timeout)
                if slot is not None:
                    slot.close()
            done.append(model["name"])
        if arguments.json:
            print_json([await client.model(model) for model in done])
        return Exit.OK

    return run(arguments, command)


class Progress:
    """What happens to a model while one waits for it: one line that is rewritten, on a terminal; nothing elsewhere.

    Use it inside a running event loop.
    """

    def __init__(self, model: Values) -> None:
        """`model` as it is now."""
        self.shown = sys.stderr.isatty()
        self._model = dict(model)
        self._began = time.monotonic()
        self._tick: asyncio.TimerHandle | None = None

    def __enter__(self) -> Progress:
        if self.shown:
            self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def changed(self, values: Mapping[str, Any]) -> None:
        """Properties of the model have changed, under their names on the bus."""
        before = self._model["residency"]
        self._model.update(plain({name: ("", value) for name, value in values.items()}))
        if self._model["residency"] != before:
            self._began = time.monotonic()
        if self._tick is not None:
            self._show()

    def close(self) -> None:
        """Clears the line. Nothing is shown from now on."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
            print(CLEAR_LINE, end="", file=sys.stderr, flush=True)

    def _show(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
        text = printable(progress_text(self._model, time.monotonic() - self._began))
        shown = cut(text, shutil.get_terminal_size().columns - 1)
        print(f"{CLEAR_LINE}{shown}", end="", file=sys.stderr, flush=True)
        self._tick = asyncio.get_running_loop().call_later(TICK, self._show)


def progress_text(model: Values, elapsed: Seconds) -> str:
    """Where a model stands on its way, `elapsed` seconds after it entered this residency."""
    text = f"{model['name']}: {model['residency']}"
    if model["residency"] == "starting":
        spent = format_seconds(round(elapsed)) if elapsed >= 1 else "0 s"
        text += f", {spent} of about {format_seconds(max(round(model['start_seconds']), 1))}"
        held, expected = sum(model["measured_bytes"].values()), model["expected_bytes"]
        if expected:
            text += f", {format_bytes(held)} of {format_bytes(expected)}"
    # Last, because it is what a narrow terminal cuts.
    return f"{text}: {model['stage']}" if model["stage"] else text
