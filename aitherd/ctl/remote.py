"""Another machine: commands that need more than its bus run there, over ssh, as `aitherctl` of that machine.

What only talks over D-Bus does so from here, through ssh as `systemctl -H` does: see client.py.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from aitherd.ctl.failure import Failure


def become(host: str, words: Sequence[str]) -> NoReturn:
    """Runs this command line on `host` in place of this program. Raises Failure when there is no ssh."""
    # A terminal here is one there: progress, colours, and an interruption that reaches the command.
    terminal = ["-t"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    command = ["ssh", *terminal, "--", host, shlex.join(["aitherctl", *without_host(words)])]
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise Failure(f"cannot run ssh: {error.strerror}", "install openssh-client") from error


def without_host(words: Sequence[str]) -> list[str]:
    """The command line without the option that names the machine. What follows `--` is not looked at."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            return [*kept, word, *rest]
        if word in ("-H", "--host"):
            next(rest, None)
        elif not word.startswith("--host=") and not (word.startswith("-H") and len(word) > 2):
            kept.append(word)
    return kept
