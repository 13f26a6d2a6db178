"""Where requests go: `upstreams`, `route`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aitherd.core.words import format_seconds
from aitherd.ctl.client import Client, Values, run
from aitherd.ctl.failure import Exit, Failure
from aitherd.ctl.terminal import print_json, printable, style, table

STATES = {"up": "green", "degraded": "yellow", "down": "red", "capped": "yellow", "unusable": "red"}
HEAD = ("UPSTREAM", "KIND", "STATE", "REQUESTS", "FIRST BYTE", "SPENT TODAY", "MODELS")
ACTIONS = {"use": "answers now", "wait": "is brought in first", "send": "is sent it"}
"""What comes of a route, as Manager.Route names it."""


def upstreams(arguments: argparse.Namespace) -> int:
    """All upstreams, a line each, and what is wrong with their addresses."""

    async def command(client: Client) -> int:
        found = await client.upstreams()
        if arguments.json:
            print_json(found)
        else:
            print("\n".join(upstream_lines(found)))
        return Exit.OK

    return run(arguments, command)


def route(arguments: argparse.Namespace) -> int:
    """Where a request would go. Fails when it would go nowhere."""
    if not (arguments.name or arguments.tier or arguments.effort):
        raise Failure("it is not said what the request asks for", "give NAME, --tier or --effort", status=Exit.USAGE)
    hints = {
        name: (signature, value)
        for name, signature, value in (
            ("tier", "s", arguments.tier),
            ("effort", "s", arguments.effort),
            ("local-only", "b", arguments.local_only),
            ("needs", "as", arguments.needs),
        )
        if value
    }

    async def command(client: Client) -> int:
        found = json.loads(await client.manager("Route", "sa{sv}", arguments.name or "", hints))
        if arguments.json:
            print_json(found)
        else:
            print("\n".join(route_lines(found)))
        return Exit.OK if found["possible"] else Exit.FAILED

    return run(arguments, command)


def upstream_lines(found: Sequence[Values]) -> Iterator[str]:
    """A line for each upstream, and one for each address that does not do well."""
    if not found:
        yield "no upstream is configured"
        return
    rows = [
        (
            one["name"],
            one["kind"],
            one["state"],
            str(one["in_flight"] or "-"),
            format_seconds(one["latency"]) if one["latency"] else "-",
            f"{one['spent']:.2f}" + ("" if one["daily_cap"] is None else f" of {one['daily_cap']:.2f}"),
            ", ".join(one["models"]) or "not known",
        )
        for one in found
    ]
    yield table(HEAD, rows, STATES)
    for one in found:
        if one["problem"]:
            yield f"{one['name']}: {style(printable(one['problem']), STATES.get(one['state'], ''))}"
        for node in one["nodes"]:
            if node["failure"]:
                yield f"  {node['url']} ({node['circuit']}): {printable(node['failure'])}"


def route_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Where a request would go, and what follows if that fails."""
    asked = found["asked"] or "it"
    about = f"{asked} (tier {found['tier']})" if found["tier"] and found["tier"] != asked else asked
    if not found["possible"]:
        yield f"{style('×', 'red')} {about} goes nowhere: {printable(found['why'])}"
        return
    yield f"{style('●', 'green')} {about}: {printable(found['why'])}"
    rows = []
    for number, one in enumerate(found["routes"], 1):
        does = ACTIONS.get(one["action"], one["action"])
        if one["bound"]:
            does += f", for up to {format_seconds(one['bound'])}"
        rows.append((f"{number}.", one["route"], does, one["place"] or "this machine", one["why"]))
    yield table(("", "ROUTE", "WHAT", "WHERE", "BECAUSE"), rows, indent=2)
    if found["load"]:
        yield f"  meanwhile {found['load']} is brought in"
    for one in found["skipped"]:
        yield f"  left out: {printable(one)}"
