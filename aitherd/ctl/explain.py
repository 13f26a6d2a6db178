"""What would happen, what happened, and what happens: `plan`, `why`, `events`."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aitherd.core.words import format_bytes, format_seconds
from aitherd.ctl.client import Client, Values, run
from aitherd.ctl.failure import Exit, Failure
from aitherd.ctl.terminal import RESIDENCIES, instant, print_json, printable, style, table

EVENTS = {"failed": "red", "quarantined": "red", "lagging": "yellow", "refused": "yellow", "ready": "green"}
"""Styles of records."""
EVENT_WIDTH = len("configuration")
"""Of the column of events: the longest has room, and sentences stand below each other."""


def plan(arguments: argparse.Namespace) -> int:
    """What bringing a model in would do. Fails when it cannot be done."""

    async def command(client: Client) -> int:
        outcome = json.loads(await client.manager("Plan", "s", arguments.name))
        if arguments.json:
            print_json(outcome)
        else:
            print("\n".join(plan_lines(outcome)))
        return Exit.OK if outcome["possible"] else Exit.FAILED

    return run(arguments, command)


def why(arguments: argparse.Namespace) -> int:
    """What happened to a model, or to all."""

    async def command(client: Client) -> int:
        if arguments.name is None:
            records = await client.history("", arguments.lines)
            if arguments.json:
                print_json(records)
            else:
                print("\n".join(record_lines(records)) or "nothing has happened since aitherd started")
            return Exit.OK
        records = await client.history(arguments.name, arguments.lines)
        if arguments.json:
            print_json(records)
            return Exit.OK
        try:
            model = await client.model(arguments.name)
        except Failure as failure:
            if failure.status != Exit.UNKNOWN:
                raise
            # A service that is not aitherd's, or a model that is configured no more.
            print("\n".join(record_lines(records)))
            return Exit.OK
        _, colour = RESIDENCIES.get(model["residency"], ("", ""))
        since = f" since {instant(model['since'])}" if model["since"] else ""
        print(f"{model['name']} is {style(model['residency'], colour)}{since}")
        for text in filter(None, (model["stage"], model["error"])):
            print(f"  {printable(text)}")
        print("\n".join(record_lines(records)) or "nothing has happened to it since aitherd started")
        return Exit.OK

    return run(arguments, command)


def events(arguments: argparse.Namespace) -> int:
    """What happens from now on, of some models or of all, until it is interrupted or the daemon goes away."""

    async def command(client: Client) -> int:
        names = {(await client.model(name))["name"] for name in arguments.names}
        # Starts the daemon, and is here before anything that happens next.
        await client.daemon()
        ended = asyncio.Event()

        def show(one: Values) -> None:
            if names and one["model"] not in names:
                return
            # A pipe gets each line as it comes.
            print(json.dumps(one) if arguments.json else next(record_lines([one])), flush=True)

        slots = [await client.watch_records(show), await client.watch_end(ended.set)]
        await ended.wait()
        for slot in slots:
            slot.close()
        raise Failure("aitherd has ended", f"see journalctl{' --user' if arguments.user else ''} -u aitherd")

    return run(arguments, command)


def plan_lines(outcome: Mapping[str, Any]) -> Iterator[str]:
    """A plan, or why there is none."""
    name, reason = outcome["model"], printable(outcome["why"])
    if not outcome["possible"]:
        never = {"never": "can never be brought in", "blind": "cannot be brought in: the device cannot be measured"}
        yield f"{style('×', 'red')} {name} {never.get(outcome['kind'], 'cannot be brought in now')}: {reason}"
        if outcome["missing"]:
            yield f"  {format_bytes(outcome['missing'])} are missing"
        holders = [(one["name"], format_bytes(one["bytes"]), one["device"], one["why"]) for one in outcome["holders"]]
        if holders:
            yield table(("HOLDER", "HOLDS", "ON", "STAYS BECAUSE"), holders, indent=2)
        return
    if not outcome["steps"]:
        yield f"{style('●', 'green')} {name} is ready: {reason}"
        return
    on = f" on {', '.join(outcome['placement'])}" if outcome["placement"] else ""
    yield f"{style('●', 'green')} {name} can be brought in{on} in about {format_seconds(outcome['seconds'])}: {reason}"
    rows = []
    for number, step in enumerate(outcome["steps"], 1):
        does = f"{step['verb']} {step['model']}" + (f" to level {step['level']}" if step["level"] else "")
        moves = ", ".join(_moves(step["takes"]))
        # What it takes is reason enough to bring something in, and is said already.
        because = "" if step["why"] == moves else step["why"]
        rows.append((f"{number}.", does, moves or "-", format_seconds(step["seconds"]), because))
    yield table(("", "STEP", "MEMORY", "TIME", "BECAUSE"), rows, indent=2)
    if outcome["spare"]:
        spare = ", ".join(f"{format_bytes(count)} on {device}" for device, count in outcome["spare"].items())
        yield f"  above the reserve afterwards: {spare}"


def record_lines(records: Sequence[Values]) -> Iterator[str]:
    """Records as a journal shows them."""
    for record in records:
        stamp = time.strftime("%b %d %H:%M:%S", time.localtime(record["time"]))
        event = style(f"{record['event']:<{EVENT_WIDTH}}", EVENTS.get(record["event"], ""))
        yield f"{stamp} {event} {printable(record['message'])}"


def _moves(takes: Mapping[str, int]) -> Iterator[str]:
    for device, count in takes.items():
        if count:
            yield f"{'takes' if count > 0 else 'gives'} {format_bytes(abs(count))} on {device}"
