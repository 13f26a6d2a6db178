"""What a model's command says: its program, where it would listen, how much it would take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aitherd.config.commands import SYSTEM_PATH, find_executable, listening, option, search_path
from aitherd.config.problem import BadValue
from tests.unit.config.conftest import Etc

EAGER_OR_NOT = '["{0}", "--gpu-memory-utilization", "{1}"]'


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("llama-server", ("--host", "0.0.0.0")),
        ("llama-server", ("--port=8080",)),
        ("vllm", ("--uds", "/tmp/x.sock")),
        ("vllm", ("--por", "80")),
        ("vllm", ("--host=::",)),
        ("comfyui", ("--listen",)),
        ("xtts", ("-hs", "0.0.0.0")),
        ("xtts", ("-p", "80")),
        ("xtts", ("--listen",)),
        ("whisper-server", ("--port", "80")),
        ("speaches", ("--fd", "3")),
    ],
)
def test_a_command_that_says_where_to_listen_is_refused(etc: Etc, engine: str, words: tuple[str, ...]) -> None:
    command = [str(etc.program), *words]
    etc.model(engine=f'"{engine}"', command=str(command), vram='"1G"')
    fleet, problems = etc.load()
    assert fleet is None
    (problem,) = [problem for problem in problems if problem.error]
    assert problem.value == f'"{words[0].partition("=")[0]}"'
    assert "port" in problem.remedy


@pytest.mark.parametrize(
    "words", [("--hf-repo", "x"), ("--portal",), ("-p", "hello"), ("--prompt", "--x"), ("--help",)]
)
def test_options_that_only_look_alike_are_left_alone(words: tuple[str, ...]) -> None:
    assert listening(("llama-server", *words), ("--host", "--port")) is None


@pytest.mark.parametrize(
    ("engine", "variable"),
    [
        ("llama-server", "LLAMA_ARG_HOST"),
        ("speaches", "UVICORN_UDS"),
        ("speaches", "UVICORN_PORT"),
        ("ollama", "OLLAMA_HOST"),
    ],
)
def test_an_environment_that_says_where_to_listen_is_refused(etc: Etc, engine: str, variable: str) -> None:
    etc.model("vision", f'[service]\nEnvironment = ["{variable}=x"]\n', engine=f'"{engine}"')
    assert etc.problem().value == f'"{variable}"'


@pytest.mark.parametrize(
    ("words", "keys", "wrong"),
    [
        ((), {}, "does not say where"),
        (("--at", "{socket}", "--or", "{port}"), {}, "both"),
        (("--at={socket}",), {"port": "9000"}, "on a port"),
        (("--at={socket}",), {"listen": '"port"'}, "on a port"),
        (("--at={port}",), {"listen": '"unix"'}, "on a socket"),
        (("--at={socket}",), {}, None),
        (("--at={port}",), {}, None),
        (("--at={port}",), {"port": "9000"}, None),
        ((), {"port": "9000"}, None),
    ],
)
def test_an_exec_says_itself_where_it_listens(
    etc: Etc, words: tuple[str, ...], keys: dict[str, str], wrong: str | None
) -> None:
    etc.model(engine='"exec"', command=str([str(etc.program), *words]), health='"/ping"', **keys)
    if wrong is not None:
        assert wrong in etc.problem().message
        return
    model = etc.loaded()
    assert model.unix == any("{socket}" in word for word in words)
    assert model.health == "/ping"


@pytest.mark.parametrize(
    ("keys", "unix"),
    [({}, None), ({"port": "9000"}, False), ({"listen": '"port"'}, False), ({"listen": '"unix"'}, True)],
)
def test_listen_and_port_decide_on_the_socket(etc: Etc, keys: dict[str, str], unix: bool | None) -> None:
    etc.model(**keys)
    assert etc.loaded().unix is unix


@pytest.mark.parametrize("part", ["0.60", "0.6", "0.7"])
def test_a_utilization_at_or_above_its_minimum_is_taken(etc: Etc, part: str) -> None:
    etc.model(
        engine='"vllm"', vram="", command=EAGER_OR_NOT.format(etc.program, part), min_gpu_memory_utilization="0.6"
    )
    assert etc.loaded().utilization == float(part)


@pytest.mark.parametrize(
    "words",
    [
        ("--gpu-memory-utilization", "0.27"),
        ("--gpu-memory-utilization=0.59",),
        ("--gpu_memory_utilization", "0.5"),
        ("--gpu-memory-utilization", "0.8", "--gpu-memory-utilization", "0.5"),
    ],
)
def test_a_utilization_below_its_minimum_is_refused(etc: Etc, words: tuple[str, ...]) -> None:
    etc.model(engine='"vllm"', command=str([str(etc.program), *words]), min_gpu_memory_utilization="0.60")
    problem = etc.problem()
    assert (problem.key, problem.value) == ("min-gpu-memory-utilization", "0.6")
    assert "0.60 or more" in problem.remedy


def test_a_minimum_without_the_option_is_refused(etc: Etc) -> None:
    etc.model(engine='"vllm"', min_gpu_memory_utilization="0.60")
    _, problems = etc.load()
    assert [problem.key for problem in problems if problem.error] == ["min-gpu-memory-utilization"]


@pytest.mark.parametrize("part", ["0,6", "0", "60", "nan", ""])
def test_a_utilization_that_is_no_part_is_refused(etc: Etc, part: str) -> None:
    etc.model(engine='"vllm"', command=EAGER_OR_NOT.format(etc.program, part))
    assert "no part of a device" in etc.problem().message


def test_a_vllm_that_would_take_the_whole_device_draws_a_note(etc: Etc) -> None:
    etc.model(engine='"vllm"')
    assert "nine tenths" in etc.note().message


def test_eager_execution_draws_a_note(etc: Etc) -> None:
    etc.model(engine='"vllm"', command=f'["{etc.program}", "--gpu-memory-utilization", "0.5", "--enforce-eager"]')
    assert etc.note().value == '"--enforce-eager"'


@pytest.mark.parametrize(
    ("engine", "words", "wrong"),
    [
        ("llama-server", ("--slot-save-path", "/var/cache/aither-engine"), None),
        ("llama-server", (), "does not say where to"),
        ("whisper-server", ("--slot-save-path", "/tmp"), "cannot write its caches down"),
    ],
)
def test_caches_are_kept_only_by_an_engine_that_can_and_knows_where(
    etc: Etc, engine: str, words: tuple[str, ...], wrong: str | None
) -> None:
    etc.model(engine=f'"{engine}"', command=str([str(etc.program), *words]), keep_slots="true")
    if wrong is None:
        assert etc.loaded().keep_slots
    else:
        assert wrong in etc.problem().message


def test_the_last_of_repeated_options_counts() -> None:
    assert option(("x", "--a", "1", "--a=2"), "--a") == "2"
    assert option(("x", "--a"), "--a") == ""
    assert option(("x", "--b"), "--a") is None


def test_programs_are_looked_up_in_order_and_a_folder_is_none(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
    (first / "engine").mkdir()
    (second / "engine").write_text("")
    (second / "engine").chmod(0o755)
    assert find_executable("engine", (str(first), str(second))) == str(second / "engine")


def test_a_program_that_is_not_executable_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "engine").write_text("")
    for word in ("engine", str(tmp_path / "engine")):
        with pytest.raises(BadValue, match=re.escape(f"{tmp_path}/engine is not executable")):
            find_executable(word, (str(tmp_path),))


def test_only_a_users_own_daemon_looks_where_the_user_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/tools:relative:/usr/bin")
    assert search_path(user=False) == SYSTEM_PATH
    own = search_path(user=True)
    assert own[:3] == (f"{tmp_path}/.local/bin", f"{tmp_path}/tools", "/usr/bin")
    assert set(SYSTEM_PATH) <= set(own)
    assert "relative" not in own
