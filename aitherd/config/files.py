"""Where configuration files are and which of them count: overrides by file name, masks, and reading them safely.

What is in the files is not looked at here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from aitherd.config.problem import Problem

ETC = Path("/etc/aither")
RUN = Path("/run/aither")
VENDOR = Path("/usr/lib/aither")
SETTINGS_FILE = "aitherd.toml"
MODELS_DIRECTORY = "models.d"
MAX_FILE = 2**20
"""Bytes; a larger file is not a configuration file."""


def directories(user: bool) -> tuple[Path, ...]:
    """The configuration directories, strongest first, for the system or for the user's own daemon.

    AITHER_CONFIG_DIR, a list of paths separated by colons, replaces them.
    """
    override = os.environ.get("AITHER_CONFIG_DIR", "")
    if override:
        return tuple(Path(part) for part in override.split(":") if part)
    if not user:
        return (ETC, RUN, VENDOR)
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return (Path(home) / "aither", Path(runtime) / "aither", VENDOR)


@dataclass(frozen=True, slots=True)
class Source:
    """One configuration file that counts, and those of the same name that do not because of it."""

    path: Path
    masked: bool = False
    """A link to /dev/null: as if the file did not exist anywhere."""
    overrides: tuple[Path, ...] = ()


class Unreadable(Exception):
    """A file that cannot be read as text; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def settings_source(directories: Sequence[Path]) -> Source | None:
    """The `aitherd.toml` that counts, or None when there is none."""
    return _strongest([directory / SETTINGS_FILE for directory in directories])


def model_sources(directories: Sequence[Path]) -> tuple[tuple[Source, ...], tuple[Problem, ...]]:
    """The model files that count, masks among them, by file name; and directories that cannot be listed.

    Hidden files and those that do not end in `.toml` are not model files.
    """
    found: dict[str, list[Path]] = {}
    problems = []
    for directory in directories:
        models = directory / MODELS_DIRECTORY
        try:
            names = [entry.name for entry in models.iterdir()]
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(_unreadable(models, error))
            continue
        for name in names:
            if name.endswith(".toml") and not name.startswith("."):
                found.setdefault(name, []).append(models / name)
    sources = [_strongest(found[name]) for name in sorted(found)]
    return tuple(source for source in sources if source is not None), tuple(problems)


def read(path: Path) -> str:
    """The text of a configuration file. Raises Unreadable."""
    try:
        # Not blocking: a named pipe in the directory must not hang the daemon.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with ExitStack() as stack:
            stack.callback(os.close, descriptor)
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
                raise Unreadable(Problem(path, "", "", f"it is {kind}", "move it away, or put a file in its place"))
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise Unreadable(_unreadable(path, error)) from error
    if len(data) > MAX_FILE:
        raise Unreadable(Problem(path, "", "", "it is larger than 1 MiB", "move it away: it is no configuration file"))
    try:
        # A byte order mark, and ends of lines, as an editor on another system may have left them.
        return data.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise Unreadable(
            Problem(path, "", "", "it is not UTF-8", "save it as UTF-8", line=line, column=column)
        ) from error


def _strongest(paths: Sequence[Path]) -> Source | None:
    present = [path for path in paths if os.path.lexists(path)]
    if not present:
        return None
    return Source(present[0], os.path.realpath(present[0]) == os.devnull, tuple(present[1:]))


def _unreadable(path: Path, error: OSError) -> Problem:
    reason = (error.strerror or str(error)).lower()
    remedy = "let the user that the daemon runs as read it"
    if isinstance(error, FileNotFoundError):
        reason, remedy = "it is a link to nothing", "remove the link, or link to /dev/null to mask the file"
    return Problem(path, "", "", f"cannot be read: {reason}", remedy)
