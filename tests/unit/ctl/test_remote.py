"""`-H`: what needs another machine's files runs there; the rest reaches its bus."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aitherd.ctl.__main__ import main
from aitherd.ctl.arguments import parse
from aitherd.ctl.failure import Failure
from aitherd.ctl.remote import without_host


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A directory with an `ssh` that says what it was told, a word a line."""
    program = tmp_path / "ssh"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    return tmp_path


def run(told: Path, *words: str) -> list[str]:
    environment = {**os.environ, "PATH": f"{told}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "aitherd.ctl", *words]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    return done.stdout.splitlines()


def test_logs_are_read_where_they_are(told: Path) -> None:
    assert run(told, "-H", "ops@box", "logs", "-n", "3", "vision") == ["--", "ops@box", "aitherctl logs -n 3 vision"]


def test_words_reach_the_other_shell_as_they_are(told: Path) -> None:
    (command,) = run(told, "run", "--host=box", "vision", "what's; rm -rf $HOME?")[2:]
    shell = ["sh", "-c", f'aitherctl() {{ printf "%s\\n" "$@"; }}; {command}']
    heard = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    assert heard.splitlines() == ["run", "vision", "what's; rm -rf $HOME?"]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["-H", "a", "logs", "x"], ["logs", "x"]),
        (["-Ha", "logs", "x"], ["logs", "x"]),
        (["logs", "--host", "a", "x"], ["logs", "x"]),
        (
            ["--host=a", "lease", "--vram", "1G", "--", "cmd", "-H", "b"],
            ["lease", "--vram", "1G", "--", "cmd", "-H", "b"],
        ),
    ],
)
def test_only_the_machine_is_taken_out(words: list[str], kept: list[str]) -> None:
    assert without_host(words) == kept
    assert parse(words).host == "a"


@pytest.mark.parametrize("host", ["-oProxyCommand=reboot", "", "a b", "a;b"])
def test_what_ssh_would_take_for_something_else_is_no_machine(host: str) -> None:
    with pytest.raises(Failure, match="is not a machine"):
        parse(["--host", host, "list"] if not host.startswith("-") else [f"--host={host}", "list"])


def test_a_users_daemon_elsewhere_is_not_reached(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--user", "-H", "box", "list"]) == 2
    assert "ssh box aitherctl --user" in capsys.readouterr().err
