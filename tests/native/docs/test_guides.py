"""The commands of README and docs/ are run as they stand, one after the other, and print what the page says they print.

A `console` block holds commands (`$ `) and their output, in which `…` stands for anything; `[N]` at its end is the exit
status, if it is not 0. A `toml` or `yaml` block whose first line is a path is written there. What differs from a user's
machine: the daemon is the user's own, `llama-server` runs a tiny model that holds 4 GiB of a card without silicon, and
other machines are a server on loopback.
"""

from __future__ import annotations

import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.native.daemon.conftest import gpu, start_rig
from tests.testbed import llama, models
from tests.testbed.rig import Rig

__all__ = ["gpu", "start_rig"]

REPOSITORY = Path(__file__).parents[3]
DOCS = REPOSITORY / "docs"
TRANSCRIPTS = REPOSITORY / "build" / "transcripts" / "docs"
"""What the commands really printed."""
PAGES = sorted([REPOSITORY / "README.md", *DOCS.glob("*.md")])
BLOCK = re.compile(r"^```(console|toml|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACES = ("/etc/aither/aitherd.toml", "llama-swap.yaml", "compose.yaml")
"""Files that pages write."""

AROUND = {"AITHER_BUS": "--user", "AITHER_SHIPPED_DIR": str(REPOSITORY / "etc" / "models.d")}
"""What the user's own daemon is reached by, and where the shipped files are."""

LLAMA = """#!{python}
import os, sys
if "--list-devices" in sys.argv:
    print("Available devices:\\n  CUDA0: NVIDIA GeForce RTX 5090 (32606 MiB, 32000 MiB free)")
    sys.exit()
takes, kept, words = {{"-hf", "-ngl", "-m", "--mmproj"}}, [], iter(sys.argv[1:])
for word in words:
    if word in takes:
        next(words, None)
    elif word != "--jinja":
        kept.append(word)
os.execvp("with-vram", ["with-vram", "4GiB", "--", {program!r}, *{flags!r}, *kept])
"""
USERS = '#!/bin/sh\nexec {program} --user "$@"\n'


@dataclass
class Command:
    """One command of a page."""

    line: str
    output: list[str] = field(default_factory=list)


def parts(page: Path) -> Iterator[tuple[str, str] | Command]:
    """Files (path, content) and commands of a page, in their order."""
    for kind, text in BLOCK.findall(page.read_text()):
        if kind == "console":
            yield from commands(text)
        elif text.partition("\n")[0].removeprefix("# ") in PLACES:
            yield text.partition("\n")[0].removeprefix("# "), text


def commands(text: str) -> list[Command]:
    """The commands of one block."""
    found: list[Command] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line.removeprefix("$ ")))
        else:
            found[-1].output.append(line)
    return found


def matches(expected: str, said: str) -> bool:
    """Whether `said` is what the page says; blanks at the ends of lines do not matter."""

    def tidy(text: str) -> str:
        return "\n".join(line.rstrip() for line in text.strip().splitlines())

    pattern = ".*?".join(re.escape(piece) for piece in tidy(expected).split("…"))
    return re.fullmatch(pattern, tidy(said), re.DOTALL) is not None


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the programs that the pages use."""
    place = tmp_path_factory.mktemp("programs")
    scripts = {name: USERS.format(program=shutil.which(name)) for name in ("systemctl", "busctl")}
    scripts["sudo"] = '#!/bin/sh\nexec "$@"\n'
    scripts["aitherctl"] = USERS.format(program=f"{sys.executable} -m aitherd.ctl")
    scripts["python3"] = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    real = str(llama.programs() / llama.PROGRAM)
    scripts["llama-server"] = LLAMA.format(
        python=sys.executable, program=real, flags=[*models.llama_flags(vision=True)]
    )
    scripts["whisper-server"] = "#!/bin/sh\nexit 1\n"
    for name, text in scripts.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    return place


@pytest.fixture
def rig(start_rig: Callable[..., Rig], programs: Path) -> Rig:
    """A rig whose engines and commands find those programs first."""
    return start_rig(path=[programs])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_says_happens(page: Path, rig: Rig, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(DOCS / "examples", work)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    elsewhere = rig.manager.popen(["engine", "--port", str(port), "--name", "reasoning"])
    (rig.etc / "aitherd.toml").unlink()
    here = {
        "/run/aither/aither.sock": str(rig.socket),
        "/etc/aither/": f"{rig.etc}/",
        "spark.local:8120": f"127.0.0.1:{port}",
        "api.example.com": f"127.0.0.1:{port}",
        "127.0.0.1:8150": f"127.0.0.1:{rig.offer_tcp()}",
    }

    def local(text: str) -> str:
        for there, place in here.items():
            text = text.replace(there, place)
        return text

    TRANSCRIPTS.mkdir(parents=True, exist_ok=True)
    transcript = TRANSCRIPTS / f"{page.stem}.txt"
    transcript.unlink(missing_ok=True)
    for part in parts(page):
        if isinstance(part, Command):
            ran = rig.manager.run(["sh", "-c", f"cd {work} && {local(part.line)}"], check=False, env=AROUND)
            status = f"\n[{ran.returncode}]" if ran.returncode else ""
            said = ran.stdout + ran.stderr + status
            with transcript.open("a") as file:
                file.write(f"$ {part.line}\n{said}")
            assert matches(local("\n".join(part.output)), said), f"$ {part.line}\n{said}"
        else:
            name, text = part
            target = Path(local(name)) if name.startswith("/") else work / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(local(text))
    assert elsewhere.poll() is None


def test_a_page_is_refused_that_does_not_tell_the_truth() -> None:
    assert matches("one …\nthree", "one two\nthree  \n")
    assert not matches("one …\nthree", "one two\nfour")
    assert [command.line for command in commands("$ a\nb\n$ c\n")] == ["a", "c"]
    assert commands("$ a\nb\n")[0].output == ["b"]
