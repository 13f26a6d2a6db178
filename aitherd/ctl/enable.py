"""`enable` and `disable`: shipped model files are copied to where they count, and taken out of force again.

A copy belongs to the administrator: it is kept, as NAME.toml.disabled, when it is taken out of force or does not pass
its check, and that copy is what the next `enable` takes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from aitherd import config
from aitherd.config import Problem
from aitherd.ctl import configuration
from aitherd.ctl.client import Client, run
from aitherd.ctl.failure import Exit, Failure
from aitherd.ctl.terminal import print_json

SHIPPED = Path("/usr/share/aitherd/models.d")
SHIPPED_VARIABLE = "AITHER_SHIPPED_DIR"
"""Another place of the shipped files, for tests and for running from a source tree."""


def enable(arguments: argparse.Namespace) -> int:
    """Puts model files in force, and the daemon in the picture."""
    available = shipped()
    names = list(dict.fromkeys(arguments.names)) or (sorted(available) if arguments.all else [])
    if not names:
        raise Failure("no model is named", f"name some of {', '.join(sorted(available))}, or --all", status=Exit.USAGE)
    placed = [path for name in names if (path := _place(name, available, arguments)) is not None]
    problems = _check(placed, arguments)
    bad = {problem.path for problem in problems if problem.error}
    for path in bad:
        path.rename(_aside(path))
    for problem in problems:
        print(f"aitherctl: {problem}", file=sys.stderr)
    good = [path for path in placed if path not in bad]
    announce(arguments, "enabled", [path.stem for path in good], changed=bool(good))
    if bad:
        corrected = ", ".join(str(_aside(path)) for path in sorted(bad))
        raise Failure("not enabled: " + ", ".join(sorted(path.stem for path in bad)), f"correct {corrected} and retry")
    return Exit.OK


def disable(arguments: argparse.Namespace) -> int:
    """Takes model files out of force, and the daemon in the picture."""
    names = list(dict.fromkeys(arguments.names))
    paths = [administrators(arguments) / f"{name}.toml" for name in names]
    for path in paths:
        if not os.path.lexists(path):
            raise _not_enabled(path, arguments)
    for path in paths:
        try:
            path.rename(_aside(path))
        except OSError as error:
            raise cannot(path, error) from error
    announce(arguments, "disabled", names, changed=True)
    return Exit.OK


def _not_enabled(path: Path, arguments: argparse.Namespace) -> Failure:
    """What there is instead of the file at `path`."""
    elsewhere = [other / "models.d" / path.name for other in config.directories(arguments.user)[1:]]
    if any(map(os.path.lexists, elsewhere)):
        remedy = f"ln -s /dev/null {path} masks the file of that name elsewhere"
    else:
        remedy = f"those enabled are {', '.join(sorted(one.stem for one in path.parent.glob('*.toml'))) or 'none'}"
    return Failure(f"there is no {path}", remedy, status=Exit.UNKNOWN)


def shipped() -> Mapping[str, Path]:
    """The shipped model files by the name of their model."""
    directory = Path(os.environ.get(SHIPPED_VARIABLE) or SHIPPED)
    return {path.stem: path for path in directory.glob("*.toml")}


def _place(name: str, available: Mapping[str, Path], arguments: argparse.Namespace) -> Path | None:
    """Puts one file in force; None when one of that name is."""
    path = administrators(arguments) / f"{name}.toml"
    if os.path.lexists(path):
        return None
    own = _aside(path)
    if not own.exists() and name not in available:
        raise Failure(
            f"no model file called {name} is shipped",
            f"those shipped are {', '.join(sorted(available)) or 'none'}",
            status=Exit.UNKNOWN,
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not own.exists():
            shutil.copyfile(available[name], own)
        own.rename(path)
    except OSError as error:
        raise cannot(path, error) from error
    return path


def _check(placed: Sequence[Path], arguments: argparse.Namespace) -> list[Problem]:
    """What is wrong with what was put in force, or comes of it. Others' mistakes keep nobody out."""
    fleet, problems = config.load(config.directories(arguments.user), user=arguments.user)
    found = [problem for problem in problems if problem.path in placed]
    if fleet is not None and placed:
        found += config.check_devices(fleet, configuration.known(arguments))
    return [problem for problem in found if problem.path in placed]


def announce(arguments: argparse.Namespace, how: str, names: Sequence[str], *, changed: bool) -> None:
    """Has systemd make the units and the daemon read the files; says what was done, and what is left to do."""
    running = changed and not arguments.no_reload and _reload(arguments)
    if arguments.json:
        print_json({how: list(names), "reloaded": running})
        return
    for name in names:
        print(f"{how} {name} ({administrators(arguments) / f'{name}.toml'})")
    manager = "systemctl --user" if arguments.user else "systemctl"
    if changed and arguments.no_reload:
        print(f"to take effect: {manager} daemon-reload && aitherctl reload")
    elif changed and not running:
        print(f"aitherd does not run: {manager} start aitherd, or the first request, starts it")


def _reload(arguments: argparse.Namespace) -> bool:
    """Whether the daemon runs, and has been told."""
    command = ["systemctl", *(("--user",) if arguments.user else ()), "daemon-reload"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise Failure(f"systemd did not make the units: {done.stderr.strip()}", f"run {' '.join(command)}")

    async def tell(client: Client) -> int:
        if not await client.running():
            return Exit.FAILED
        await client.manager("Reload")
        return Exit.OK

    return run(arguments, tell) == Exit.OK


def administrators(arguments: argparse.Namespace) -> Path:
    """Where the administrator's files are."""
    return config.directories(arguments.user)[0] / "models.d"


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.disabled")


def cannot(path: Path, error: OSError) -> Failure:
    remedy = "run it as root" if isinstance(error, PermissionError) else "make room for it"
    return Failure(f"cannot write {path}: {(error.strerror or str(error)).lower()}", remedy)
