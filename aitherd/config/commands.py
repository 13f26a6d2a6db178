"""What a model's command says: which program it is, where it would listen, how much of the device it would take.

Programs are looked up on a fixed path, so that what the daemon starts does not depend on how it was started itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from aitherd.config.problem import BadValue

SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")
"""What systemd itself gives services. systemd.exec(5), "Environment Variables in Spawned Processes"."""


def search_path(user: bool) -> tuple[str, ...]:
    """Directories that commands are looked up in; a user's own come first."""
    if not user:
        return SYSTEM_PATH
    own = [str(Path.home() / ".local/bin"), *os.environ.get("PATH", "").split(":")]
    return tuple(dict.fromkeys(part for part in (*own, *SYSTEM_PATH) if part.startswith("/")))


def find_executable(word: str, path: Sequence[str]) -> str:
    """Absolute path of the program that `word` names. Raises BadValue."""
    if word.startswith("/"):
        _executable(word)
        return word
    if "/" in word:
        raise BadValue("a relative path: the engine has no directory of yours to start from", "write the whole path")
    denied = ""
    for directory in path:
        candidate = f"{directory}/{word}"
        if os.access(candidate, os.X_OK) and Path(candidate).is_file():
            return candidate
        denied = denied or (candidate if Path(candidate).is_file() else "")
    if denied:
        raise BadValue(f"{denied} is not executable", f"chmod +x {denied}")
    raise BadValue(f"no such program in {':'.join(path)}", "install it, or write its whole path")


def options(command: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The options of a command and their values, in order; None where no value follows.

    Underscores count as hyphens, as vLLM and others have it.
    """
    for index, word in enumerate(command[1:], 1):
        if not word.startswith("-"):
            continue
        name, equals, value = word.partition("=")
        following = command[index + 1] if index + 1 < len(command) else None
        yield name.replace("_", "-"), value if equals else following


def option(command: Sequence[str], name: str) -> str | None:
    """The value of the last option of that name, None when there is none; empty when it lacks its value."""
    values = [value or "" for found, value in options(command) if found == name]
    return values[-1] if values else None


def listening(command: Sequence[str], listen_options: Sequence[str]) -> str | None:
    """The first word of the command that says where to listen, abbreviated ones included, or None."""
    for name, _ in options(command):
        for known in listen_options:
            # Python's argparse takes any unambiguous beginning of a long option.
            if name == known or (known.startswith("--") and len(name) >= 4 and known.startswith(name)):
                return name
    return None


def utilization(command: Sequence[str]) -> float | None:
    """vLLM's `--gpu-memory-utilization`, above 0 and at most 1; None when the command has none. Raises BadValue."""
    text = option(command, "--gpu-memory-utilization")
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise BadValue(f"--gpu-memory-utilization {text} is no part of a device", "write one above 0, up to 1: 0.60")
    return value


def _executable(path: str) -> None:
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        raise BadValue(f"{path} does not exist", "install it, or correct the path") from None
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise BadValue(f"{path} cannot be looked at: {reason}", "let the engine's user reach it") from None
    if not stat.S_ISREG(mode):
        raise BadValue(f"{path} is not a file", "name the program itself")
    if not os.access(path, os.X_OK):
        raise BadValue(f"{path} is not executable", f"chmod +x {path}")
