"""`logs`: becomes journalctl with what is about one model."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator

from aitherd.ctl.failure import Failure

DAEMON_UNIT = "aitherd.service"


def logs(arguments: argparse.Namespace) -> int:
    """Does not return, unless journalctl cannot be run."""
    arguments.name = asyncio.run(_model(arguments.name, user=arguments.user))
    command = journalctl(arguments)
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise Failure(f"cannot run journalctl: {error.strerror}", "install systemd") from error


async def _model(name: str, *, user: bool) -> str:
    """The model that `name` stands for, if the daemon runs and can tell. Its log can be read without it."""
    from aitherd.ctl.client import Client

    try:
        client = Client(user=user)
        if not await client.running():
            return name
    except Failure:
        return name
    return str((await client.model(name))["name"])


def journalctl(arguments: argparse.Namespace) -> list[str]:
    """The command. Its matches are those of `journalctl -u` for both units, and what the daemon says of the model.

    A glob such as `aither-vision*` would show `vision-2` too.
    """
    command = ["journalctl", "--user" if arguments.user else "--system"]
    if arguments.follow:
        command.append("--follow")
    if arguments.lines is not None:
        command.append(f"--lines={arguments.lines}")
    if arguments.json:
        command.append("--output=json")
    if not sys.stdout.isatty():
        command.append("--no-pager")
    alternatives = list(matches(arguments.name, user=arguments.user))
    for number, fields in enumerate(alternatives):
        command += ["+", *fields] if number else fields
    return command


def matches(model: str, *, user: bool) -> Iterator[list[str]]:
    """Alternatives, each a conjunction of fields. systemd.journal-fields(7): those with an underscore are trusted."""
    of_unit, about_unit = ("_SYSTEMD_USER_UNIT", "USER_UNIT") if user else ("_SYSTEMD_UNIT", "UNIT")
    by_manager = f"_UID={os.getuid()}" if user else "_PID=1"
    by_owner = [by_manager] if user else []
    for unit in (f"aither-{model}-engine.service", f"aither-{model}.service"):
        yield [f"{of_unit}={unit}", *by_owner]
        yield [f"{about_unit}={unit}", by_manager]
    yield [f"{of_unit}={DAEMON_UNIT}", *by_owner, f"AITHER_MODEL={model}"]
