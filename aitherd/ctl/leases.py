"""Device memory for other programs: `lease`, `leases`."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aitherd.bus.names import MANAGER, ROOT
from aitherd.core.words import format_bytes, format_seconds
from aitherd.ctl.client import Client, Values, lease_values, run
from aitherd.ctl.control import CLEAR_LINE
from aitherd.ctl.failure import Exit, Failure
from aitherd.ctl.terminal import cut, print_json, printable, table

HEAD = ("LEASE", "DEVICE", "PROMISED", "USED", "PID", "ENDS", "PURPOSE")


@dataclass(frozen=True)
class Granted:
    """A lease, and the descriptor that it lives as long as."""

    descriptor: int
    id: str
    device: str


def lease(arguments: argparse.Namespace) -> int:
    """Claims device memory, then becomes the command, which inherits the descriptor; without one, holds it."""
    granted = asyncio.run(acquire(arguments))
    if arguments.argv:
        become(arguments.argv, granted)
    size = format_bytes(arguments.vram)
    if arguments.json:
        print_json({"id": granted.id, "device": granted.device, "bytes": arguments.vram})
    else:
        print(f"lease {granted.id}: {size} on {granted.device}, until interrupted", flush=True)
    with socket.socket(fileno=granted.descriptor) as ours:
        while ours.recv(1):
            # The daemon has nothing to say but that it is over.
            continue
    raise Failure(f"lease {granted.id} has ended", "see aitherctl why")


def leases(arguments: argparse.Namespace) -> int:
    """All leases, or the end of some."""

    async def command(client: Client) -> int:
        for id in arguments.release or ():
            await client.manager("ReleaseLease", "s", id)
        found = lease_values(await client.manager("ListLeases"))
        if arguments.json:
            print_json(found)
        else:
            print(lease_table(found))
        return Exit.OK

    return run(arguments, command)


def lease_table(found: Sequence[Values]) -> str:
    """A line for each lease."""
    if not found:
        return "there is no lease"
    rows = [
        (
            one["id"],
            one["device"] or "any",
            format_bytes(one["bytes"]),
            "-" if one["waiting"] else format_bytes(one["used"]),
            str(one["pid"]),
            ends(one),
            one["purpose"] + (f": {one['stage']}" if one["stage"] else ""),
        )
        for one in found
    ]
    return table(HEAD, rows)


def ends(one: Values) -> str:
    """When a lease ends."""
    if one["waiting"]:
        return "waiting"
    return f"in {format_seconds(max(one['ends'] - time.time(), 0.0))}" if one["ends"] else "with its holder"


async def acquire(arguments: argparse.Namespace) -> Granted:
    """Waits for the lease. Raises Failure. Leaving the bus, as by an interruption, withdraws the demand."""
    client = Client(user=arguments.user)
    purpose = arguments.purpose or (Path(arguments.argv[0]).name if arguments.argv else "")
    with progress() as show:
        slot = None
        if show is not None:
            slot = await client.watch_properties(ROOT, MANAGER, lambda changes: show(changes.get("Leases", ())))
        descriptor, id, device = await client.manager(
            "AcquireLease",
            "tssu",
            arguments.vram,
            arguments.device or "",
            purpose,
            math.ceil(arguments.duration or 0),
            timeout=arguments.timeout,
        )
        if slot is not None:
            slot.close()
    return Granted(descriptor, id, device)


@contextmanager
def progress() -> Iterator[Any]:
    """On a terminal: what is called with the leases and shows what is done for ours, in one line that is rewritten."""
    if not sys.stderr.isatty():
        yield None
        return

    def show(rows: Sequence[Any]) -> None:
        for one in lease_values(rows):
            if one["waiting"] and one["pid"] == os.getpid():
                text = cut(printable(one["stage"] or "waiting"), shutil.get_terminal_size().columns - 1)
                print(f"{CLEAR_LINE}{text}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print(CLEAR_LINE, end="", file=sys.stderr, flush=True)


def become(argv: Sequence[str], granted: Granted) -> None:
    """Runs the command in place of this program. Raises Failure if it cannot be run."""
    os.set_inheritable(granted.descriptor, True)
    # Python ignores it, and programs expect otherwise.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.stdout.flush()
    environment: Mapping[str, str] = {
        **os.environ,
        "AITHER_LEASE": granted.id,
        "AITHER_LEASE_DEVICE": granted.device,
        "AITHER_LEASE_FD": str(granted.descriptor),
    }
    try:
        os.execvpe(argv[0], list(argv), environment)
    except FileNotFoundError as error:
        raise Failure(f"cannot run {argv[0]}: {error.strerror}", "is it installed?", status=Exit.NOT_FOUND) from error
    except OSError as error:
        raise Failure(f"cannot run {argv[0]}: {error.strerror}", status=Exit.CANNOT_RUN) from error
