"""`new`: writes model files, each checked together with the rest of the configuration before it is saved."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from aitherd import config
from aitherd.config import Problem
from aitherd.core.words import Bytes
from aitherd.ctl.configuration import measured
from aitherd.ctl.drafts import TEMPLATES, Draft, draft, model_file, split, template
from aitherd.ctl.enable import administrators, announce, cannot
from aitherd.ctl.failure import Exit, Failure
from aitherd.ctl.terminal import print_json


def new(arguments: argparse.Namespace) -> int:
    """Writes the files, or prints them."""
    texts = {made.name: model_file(made) for made in _drafts(arguments)}
    if not texts:
        raise Failure("there is no model server in it", "aitherctl new NAME --command LINE takes any")
    if arguments.show:
        if arguments.json:
            print_json(texts)
        else:
            print("\n".join(f"# {name}.toml\n{text}" for name, text in texts.items()), end="")
        return Exit.OK
    directory = administrators(arguments)
    for name in texts:
        if os.path.lexists(directory / f"{name}.toml"):
            raise Failure(f"{directory / f'{name}.toml'} exists already", "give another name, or edit that file")
    bad = _check(texts, directory, user=arguments.user)
    good = [name for name in texts if name not in bad]
    for name in good:
        _save(directory / f"{name}.toml", texts[name])
    announce(arguments, "wrote", good, changed=bool(good))
    if bad:
        raise Failure(
            "not saved: " + ", ".join(sorted(bad)),
            "the lines above say why; --print shows the files, to be corrected and put into " + str(directory),
        )
    return Exit.OK


def _drafts(arguments: argparse.Namespace) -> list[Draft]:
    names = list(dict.fromkeys(arguments.names))
    if arguments.source:
        from aitherd.ctl.imports import imported

        drafts = imported(arguments.source)
        unknown = sorted(set(names) - {made.name for made in drafts})
        if unknown:
            there = ", ".join(made.name for made in drafts) or "none"
            raise Failure(f"{arguments.source} has no {', '.join(unknown)}", f"it has {there}", status=Exit.UNKNOWN)
        drafts = [made for made in drafts if not names or made.name in names]
    else:
        if len(names) != 1:
            raise Failure("one NAME is needed", "aitherctl new NAME --engine KIND", status=Exit.USAGE)
        drafts = [_draft(names[0], arguments)]
    if arguments.vram:
        for made in drafts:
            made.vram, made.vram_from = arguments.vram, "as given"
    return drafts


def _draft(name: str, arguments: argparse.Namespace) -> Draft:
    if arguments.line:
        return draft(name, split(arguments.line, name))
    if arguments.pid:
        return _running(name, arguments.pid)
    if arguments.engine:
        return template(name, arguments.engine)
    raise Failure(
        f"it is not said what {name} is to be made of",
        f"give --command LINE, --pid PID, --from FILE, or --engine KIND ({', '.join(sorted(TEMPLATES))})",
        status=Exit.USAGE,
    )


def _running(name: str, pid: int) -> Draft:
    """The draft of a server that runs. Its environment is not read: there may be secrets in it."""
    import psutil

    try:
        process = psutil.Process(pid)
        words = process.cmdline()
        directory = process.cwd()
        pids = {pid, *(child.pid for child in process.children(recursive=True))}
    except psutil.NoSuchProcess as error:
        raise Failure(f"there is no process {pid}", "ps shows them", status=Exit.UNKNOWN) from error
    except psutil.AccessDenied as error:
        raise Failure(f"process {pid} is not yours to look at", "run it as root") from error
    held = asyncio.run(_held(pids))
    made = draft(name, words, held, f"what process {pid} holds of it" if held else "")
    program = made.command[0]
    if "/" in program and not program.startswith("/"):
        made.command = (str((Path(directory) / program).resolve()), *made.command[1:])
    made.notes = (
        f"Taken over from the running process {pid}, without its environment.",
        "End that process before this model is started: both would want the same memory.",
    )
    return made


async def _held(pids: set[int]) -> Bytes:
    """Device bytes that the processes hold, 0 where nothing can be measured."""
    sample = await measured()
    return sum(one.bytes or 0 for device in sample.devices for one in device.processes if one.pid in pids)


def _check(texts: Mapping[str, str], directory: Path, *, user: bool) -> set[str]:
    """The names of the files that do not pass; says why. The others' own mistakes are not looked at."""
    with tempfile.TemporaryDirectory(prefix="aitherctl-new-") as temporary:
        models = Path(temporary) / "models.d"
        models.mkdir()
        for name, text in texts.items():
            (models / f"{name}.toml").write_text(text, encoding="utf-8")
        _, problems = config.load([Path(temporary), *config.directories(user)], user=user)
        found: Sequence[Problem] = [problem for problem in problems if problem.path.parent == models]
        for problem in found:
            # As it will be called: the temporary place means nothing to anybody.
            said = replace(problem, path=directory / problem.path.name)
            if problem.key == "vram" and not problem.value:
                said = replace(said, remedy="say it with --vram, as in --vram 5.2GiB")
            print(f"aitherctl: {str(said).replace(str(models), str(directory))}", file=sys.stderr)
        return {problem.path.stem for problem in found if problem.error}


def _save(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise cannot(path, error) from error
