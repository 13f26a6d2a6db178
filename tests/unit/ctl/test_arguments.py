"""The command line: what is accepted, and what is said about what is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aitherd import __version__
from aitherd.ctl.__main__ import main
from aitherd.ctl.arguments import parse

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "there is no command frobnicate; see aitherctl --help"),
        (["stats"], "there is no command stats; did you mean status?"),
        ([], "the following arguments are required: COMMAND; see aitherctl --help"),
        (["stop"], "the following arguments are required: NAME; see aitherctl stop --help"),
        (["run"], "the following arguments are required: NAME; see aitherctl run --help"),
        (["start", "../etc"], "argument NAME: '../etc' is not a model's name; see aitherctl start --help"),
        (["start", "a\nb"], r"argument NAME: 'a\nb' is not a model's name; see aitherctl start --help"),
        (["start", "%n"], "argument NAME: '%n' is not a model's name; see aitherctl start --help"),
        (["plan", "--", "-x"], "argument NAME: '-x' is not a model's name; see aitherctl plan --help"),
        (["start", "x", "--timeout", "soon"], "argument --timeout: 'soon' is not a number of seconds above 0;"),
        (["why", "x", "-n", "0"], "argument -n/--lines: '0' is not a number above 0; see aitherctl why --help"),
        (["list", "--jsn"], "unrecognized arguments: --jsn; see aitherctl --help"),
        (["schema", "models"], "see aitherctl schema --help"),
        (["--user", "--system", "list"], "argument --system: not allowed with argument --user; see aitherctl --help"),
        (["lease", "true"], "the following arguments are required: --vram; see aitherctl lease --help"),
        (["lease", "--vram", "0"], "argument --vram: '0' is nothing to claim; see aitherctl lease --help"),
        (["lease", "--vram", "8GB"], "argument --vram: '8GB': GB may mean two sizes; write \"8 GiB\""),
        (["lease", "--vram", "8G", "--for", "soon"], "argument --for: 'soon': not a duration; write a duration"),
        (["lease", "--vram", "8G", "ls", "-l"], "unrecognized arguments: -l; see aitherctl --help"),
        (["route"], "it is not said what the request asks for; give NAME, --tier or --effort"),
        (["check-config", "--device", "gpu0"], "--device gpu0: "),
        (["check-config", "--device", "=8G"], "--device =8G: not a device and its size; write gpu0=32606MiB"),
        (["check-config", "/nonexistent"], "/nonexistent is not a directory; name the one that holds aitherd.toml"),
        (["check-config", "--device", "gpu0=much"], "--device gpu0=much: "),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_status_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("aitherctl: ")
    assert said in line


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        ([], []),
        (["game"], ["game"]),
        (["--", "ls", "-l", "--json"], ["ls", "-l", "--json"]),
        (["--for", "2h", "--", "sh", "-c", "--", "true"], ["sh", "-c", "--", "true"]),
    ],
)
def test_a_command_is_taken_as_it_is(words: list[str], argv: list[str]) -> None:
    arguments = parse(["lease", "--vram", "8G", *words])
    assert (arguments.argv, arguments.vram, arguments.json) == (argv, 8 << 30, False)


@pytest.mark.parametrize(
    ("words", "user", "as_json"),
    [
        (["list"], False, False),
        (["--user", "list"], True, False),
        (["list", "--user", "--json"], True, True),
        (["--user", "--json", "status", "vision"], True, True),
        (["--json", "list", "--system"], False, True),
        (["--user", "list", "--system"], False, False),
    ],
)
def test_common_options_stand_before_or_after_the_command(words: list[str], user: bool, as_json: bool) -> None:
    arguments = parse(words)
    assert (arguments.user, arguments.json) == (user, as_json)


def test_help_tells_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "0 success; 1 refused or failed; 2 the command line is wrong; 3 (status NAME) a model is not ready; 4" in told
    )


@pytest.mark.parametrize(("where", "status"), [(">/dev/full", 1), (">&-", 0), (">/dev/full 2>&-", 1)])
def test_output_that_cannot_be_written_is_one_line_too(where: str, status: int) -> None:
    ran = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m aitherd.ctl schema settings {where}"],
        capture_output=True, text=True, cwd=REPOSITORY, check=False,
    )  # fmt: skip
    full = "" if status == 0 or "2>" in where else "aitherctl: cannot write the output: no space left on device\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (status, "", full)


def test_the_version_is_told_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"aitherctl {__version__}\n"


def test_help_and_mistakes_import_nothing_slow() -> None:
    probe = (
        "import sys; from aitherd.ctl.__main__ import main; main(['nonsense']); "
        "print(*sorted({'sdbus', 'asyncio', 'pydantic', 'structlog', 'httpx'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert ran.stdout == "\n"
