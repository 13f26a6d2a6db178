"""What changes something: `start`, `hold`, `release`, `stop`, `reload`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from aitherd.ctl.client import Client, run
from aitherd.ctl.failure import Exit
from aitherd.ctl.terminal import print_json, printable

CLEAR_LINE = "\r\033[K"


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


def _each(arguments: argparse.Namespace, member: str) -> int:
    """Calls a method for one model after the other; the first failure ends it. Interrupting withdraws a start."""

    async def command(client: Client) -> int:
        done = []
        for name in dict.fromkeys(arguments.names):
            model = (await client.model(name))["name"]
            with Progress(model) as progress:
                slot = await client.watch(model, progress.changed) if progress.shown else None
                await client.manager(member, "s", model, timeout=arguments.timeout)
                if slot is not None:
                    slot.close()
            done.append(model)
        if arguments.json:
            print_json([await client.model(model) for model in done])
        return Exit.OK

    return run(arguments, command)


class Progress:
    """What happens while one waits: one line that is rewritten, on a terminal; nothing elsewhere."""

    def __init__(self, model: str) -> None:
        self.shown = sys.stderr.isatty()
        self._model = model
        self._state: dict[str, Any] = {}

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._state:
            print(CLEAR_LINE, end="", file=sys.stderr, flush=True)

    def changed(self, values: Mapping[str, Any]) -> None:
        """Properties of the model have changed."""
        self._state.update((name, value) for name, value in values.items() if name in ("Residency", "Stage"))
        text = ": ".join(filter(None, [self._model, self._state.get("Residency"), self._state.get("Stage")]))
        print(f"{CLEAR_LINE}{printable(text)}", end="", file=sys.stderr, flush=True)
