"""What shells offer after `aitherctl`: commands, options, and models without starting anything.

bash is asked for real, and so is fish where it is installed; zsh, where it is installed, checks its file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import completions
from tests.manual import commands

ANSWER = json.dumps([{"name": "imagine", "description": 'says "name": "x"'}, {"name": "vision"}])
"""As aitherctl prints it where nobody looks."""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A home with a model file of its user, and programs in place of those that ask the bus."""
    programs = tmp_path / "bin"
    programs.mkdir()
    models = tmp_path / "config" / "aither" / "models.d"
    models.mkdir(parents=True)
    (models / "own.toml").touch()
    return tmp_path


def runs(machine: Path, daemon: str) -> None:
    """`daemon` is the option of the daemon that runs: `--system`, `--user`, or none."""
    write(machine, "busctl", f'[ "$1 $2 $3" = "{daemon} status org.aitheros.Aither1" ]')
    write(machine, "aitherctl", f"echo \"$@\" >>{machine}/called; echo trouble >&2; echo '{ANSWER}'")


def write(machine: Path, name: str, text: str) -> None:
    program = machine / "bin" / name
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def environment(machine: Path) -> dict[str, str]:
    home = {"HOME": str(machine), "XDG_CONFIG_HOME": str(machine / "config"), "LC_ALL": "C.UTF-8"}
    home["AITHER_SHIPPED_DIR"] = str(machine / "shipped")
    return {"PATH": f"{machine / 'bin'}:{os.environ['PATH']}", **home}


def bash(machine: Path, line: str) -> list[str]:
    """What bash offers for the last word of a line. It takes `=` for a word, as bash does."""
    words = line.replace("=", " = ").split(" ")
    script = f'source {completions.BASH}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _aitherctl; ' + (
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-u", "-c", script, "bash", *words],
        capture_output=True,
        text=True,
        cwd=machine,
        env=environment(machine),
        check=True,
    )
    assert done.stderr == ""
    return sorted(done.stdout.split())


def fish(machine: Path, line: str) -> list[str]:
    """What fish offers for the last word of a line."""
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {completions.FISH}; complete -C '{line}'"],
        capture_output=True,
        text=True,
        cwd=machine,
        env=environment(machine),
        check=True,
    )
    assert done.stderr == ""
    return sorted(offered.split("\t")[0] for offered in done.stdout.splitlines())


Shell = Callable[[Path, str], list[str]]
SHELLS = [
    pytest.param(bash, id="bash"),
    pytest.param(fish, id="fish", marks=pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")),
]


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_are_offered_until_there_is_one(machine: Path, shell: Shell) -> None:
    runs(machine, "--system")
    assert shell(machine, "aitherctl ") == sorted(commands())
    assert shell(machine, "aitherctl --json st") == ["start", "status", "stop"]
    assert shell(machine, "aitherctl reload ") == []


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", commands())
def test_the_options_of_a_command_are_offered(machine: Path, shell: Shell, name: str) -> None:
    runs(machine, "--system")
    own = {option for action in commands()[name]._actions for option in action.option_strings}
    offered = {option for option in shell(machine, f"aitherctl {name} -") if option.startswith("-")}
    if shell is fish:
        # It offers one of the names that an option has.
        assert offered <= own
        own, offered = ({one for one in options if one.startswith("--")} for options in (own, offered))
    assert offered == own


@pytest.mark.parametrize("shell", SHELLS)
def test_models_are_those_of_the_daemon_that_is_meant(machine: Path, shell: Shell) -> None:
    runs(machine, "--user")
    assert shell(machine, "aitherctl --user plan ") == ["imagine", "vision"]
    assert shell(machine, "aitherctl start --user vi") == ["vision"]
    assert set((machine / "called").read_text().splitlines()) == {"--user --json list"}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_daemon_that_does_not_run_is_not_started_for_names(machine: Path, shell: Shell) -> None:
    runs(machine, "neither")
    assert "own" in shell(machine, "aitherctl --user plan ")
    assert not (machine / "called").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_values_that_nobody_can_know_are_not_offered(machine: Path, shell: Shell) -> None:
    runs(machine, "--system")
    assert shell(machine, "aitherctl stop --timeout ") == []
    assert shell(machine, "aitherctl why -n ") == []
    assert bash(machine, "aitherctl stop --timeout=") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_files_are_offered_where_an_option_takes_one(machine: Path, shell: Shell) -> None:
    runs(machine, "--system")
    (machine / "swap.yaml").touch()
    assert shell(machine, "aitherctl new --from sw") == ["swap.yaml"]
    assert shell(machine, "aitherctl run vision --image sw") == ["swap.yaml"]
    assert bash(machine, "aitherctl new --from=sw") == ["swap.yaml"]


@pytest.mark.parametrize("shell", SHELLS)
def test_what_can_be_enabled_is_what_is_shipped(machine: Path, shell: Shell) -> None:
    runs(machine, "--system")
    (machine / "shipped").mkdir()
    (machine / "shipped" / "listen.toml").touch()
    assert shell(machine, "aitherctl enable ") == ["listen"]
    assert shell(machine, "aitherctl disable ") == ["imagine", "vision"]
    assert shell(machine, "aitherctl new ") == []


@pytest.mark.parametrize("line", ["-H box st", "--host box st", "--host=box st", "--json -H box st"])
def test_another_machine_is_no_command(machine: Path, line: str) -> None:
    runs(machine, "--system")
    assert bash(machine, f"aitherctl {line}") == ["start", "status", "stop"]


@pytest.mark.parametrize("shell", SHELLS)
def test_directories_and_kinds_are_offered_where_they_belong(machine: Path, shell: Shell) -> None:
    runs(machine, "--system")
    assert [offered.rstrip("/") for offered in shell(machine, "aitherctl check-config co")] == ["config"]
    assert shell(machine, "aitherctl schema ") == ["model", "settings"]


@pytest.mark.parametrize(
    ("shell", "option", "file"), [("zsh", "-n", completions.ZSH), ("fish", "-n", completions.FISH)]
)
def test_a_file_is_of_its_language(shell: str, option: str, file: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, option, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
