"""What an engine wrote last, from the journal. For error messages: what cannot be read is empty, never an error."""

from __future__ import annotations

import asyncio
import json
import re
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from typing import Any

from aitherd.core.words import Seconds

TIMEOUT: Seconds = 3.0
"""Journals can be large and disks slow; an error message does not wait for them longer than this."""
LONGEST_LINE = 1000
"""Characters; the rest of a line is cut off."""
ATTEMPTS = 3
PAUSE: Seconds = 0.05
"""The journal may not have read yet what a process wrote the moment before it died."""
NO_REASON = "Failed to start "
"""How the manager ends what it says about a unit that failed: that it did, and not why."""
BLANKS = 20
"""Lines that are read beyond those wanted, for blank ones to be passed over."""

CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f]")
"""Colours and other orders to a terminal, and control characters."""


async def last_line(unit: str, invocation: str, count: int = 1, *, timeout: Seconds = TIMEOUT) -> str:
    """The last `count` lines that are not blank of what `unit` wrote while it ran as `invocation`, joined by newlines.

    Where it wrote nothing, what the manager had to say about it (`Failed to execute …`). Empty if neither is found, may
    be read, or comes within `timeout` seconds.
    """
    if not invocation:
        return ""
    # The system manager's units and a user manager's bear different fields. (systemd.journal-fields(7))
    wrote = [f"_SYSTEMD_INVOCATION_ID={invocation}", f"_SYSTEMD_UNIT={unit}"]
    wrote += ["+", f"_SYSTEMD_INVOCATION_ID={invocation}", f"_SYSTEMD_USER_UNIT={unit}"]
    about = [f"INVOCATION_ID={invocation}", f"UNIT={unit}"]
    about += ["+", f"USER_INVOCATION_ID={invocation}", f"USER_UNIT={unit}"]
    try:
        async with asyncio.timeout(timeout):
            for attempt in range(ATTEMPTS):
                if attempt:
                    await asyncio.sleep(PAUSE)
                lines = await _read(count, wrote)
                if not lines:
                    said = await _read(BLANKS, ["--priority=err", *about])
                    lines = [line for line in said if not line.startswith(NO_REASON)][-count:]
                if lines:
                    return "\n".join(lines)
    except (TimeoutError, OSError):
        return ""
    return ""


async def _read(count: int, matches: Sequence[str]) -> list[str]:
    """Not restricted to the user's journal: volatile journals have none, and the invocation says whose lines it are."""
    options = ["--quiet", "--no-pager", "--output=json", "--output-fields=MESSAGE", f"--lines={count + BLANKS}"]
    process = await asyncio.create_subprocess_exec(
        "journalctl", *options, *matches, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
    )
    try:
        written, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = (_text(line) for line in written.splitlines())
    return [line for line in lines if line][-count:]


def _text(entry: bytes) -> str:
    """The message of an entry, clean enough for a terminal."""
    try:
        message: Any = json.loads(entry)["MESSAGE"]
    except (ValueError, TypeError, KeyError):
        return ""
    if isinstance(message, list):
        # Bytes that are not text, colours for example, come as a list of numbers; of several messages each is an item.
        try:
            message = bytes(message).decode(errors="replace")
        except (TypeError, ValueError):
            message = next((one for one in message if isinstance(one, str)), None)
    return CONTROL.sub("", message).strip()[:LONGEST_LINE] if isinstance(message, str) else ""
