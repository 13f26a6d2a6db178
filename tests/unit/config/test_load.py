"""Files to a checked fleet, or to every problem with file, key, value and remedy."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aitherd.config
from aitherd.config import Settings, load
from aitherd.core.words import ResidencyClass
from tests.unit.config.conftest import GIB, Etc


def test_a_model_file_becomes_a_model(etc: Etc) -> None:
    path = etc.model(
        "vision",
        '[resources]\nMemoryMax = "12G"\nCPUQuota = "150%"\n[service]\nEnvironment = ["A=1"]\n',
        **{"class": '"on-demand"', "serves": '["qwen2.5-vl"]', "can": '["chat", "vision"]', "idle": '"90s"'},
        devices='["gpu0", "gpu1"]',
        span="2",
        swap_slot='"heavy"',
        load_timeout='"2min"',
        max_waiting="3",
        description='"Captions"',
    )
    model = etc.loaded()
    assert (model.name, model.path, model.engine, model.description) == ("vision", path, "llama-server", "Captions")
    assert (model.residency_class, model.swap_slot, model.idle) == (ResidencyClass.ON_DEMAND, "heavy", 90.0)
    assert (model.serves, model.can) == (("qwen2.5-vl",), ("chat", "vision"))
    assert (model.vram, model.devices, model.span) == (int(5.2 * GIB), ("gpu0", "gpu1"), 2)
    assert (model.load_timeout, model.stop_timeout, model.max_waiting) == (120.0, 30.0, 3)
    assert (model.command, model.executable) == ((str(etc.program),), str(etc.program))
    assert model.resources == {"MemoryMax": ("t", 12 * GIB), "CPUQuotaPerSecUSec": ("t", 1_500_000)}
    assert model.service == {"Environment": ("as", ["A=1"])}
    assert etc.fleet().names == {"vision": "vision", "qwen2.5-vl": "vision"}


def test_without_files_there_are_defaults_and_no_models(etc: Etc) -> None:
    fleet = etc.fleet()
    assert (fleet.settings, fleet.models) == (Settings(), {})


def test_settings_are_read_and_hold_for_models_that_say_nothing(etc: Etc) -> None:
    etc.settings(
        '[arbiter]\nreserve = "1 GiB"\n[models]\nidle = "infinity"\nload-timeout = "3min"\n'
        '[proxy]\nmax-body = "1M"\n[log]\nlevel = "debug"\n'
    )
    etc.model()
    found = etc.fleet().settings
    assert (found.reserve, found.max_body, found.log_level) == (GIB, 2**20, "debug")
    assert (etc.loaded().idle, etc.loaded().load_timeout) == (None, 180.0)


@pytest.mark.parametrize("kind", ["essential", "resident"])
def test_what_stays_has_no_idle_time(etc: Etc, kind: str) -> None:
    etc.model(**{"class": f'"{kind}"'})
    assert etc.loaded().idle is None


@pytest.mark.parametrize(
    ("keys", "text", "key", "value", "message", "remedy"),
    [
        ({"engine": '"lama-server"'}, "", "engine", '"lama-server"', "not one of", "did you mean llama-server?"),
        ({"class": '"esential"'}, "", "class", '"esential"', "not one of", "did you mean essential?"),
        ({"class": '"swap-slot"'}, "", "class", '"swap-slot"', "no class", "swap-slot ="),
        ({"colour": '"red"'}, "", "colour", '"red"', "unknown key", "the keys are engine"),
        ({"idel": '"5min"'}, "", "idel", '"5min"', "unknown key", "did you mean idle?"),
        ({"MemoryMax": '"5G"'}, "", "MemoryMax", '"5G"', "unknown key", "move it below [resources]"),
        ({"User": '"me"'}, "", "User", '"me"', "unknown key", "move it below [service]"),
        ({"vram": '"5 apples"'}, "", "vram", '"5 apples"', "not a size", "GiB"),
        ({"vram": "5.2"}, "", "vram", "5.2", "not a size", "GiB"),
        ({"vram": '"5 GB"'}, "", "vram", '"5 GB"', "two sizes", "5 GiB"),
        ({"vram": ""}, "", "vram", "", "missing", "0 B"),
        ({"idle": '"5 fortnights"'}, "", "idle", '"5 fortnights"', "not a duration", "5min"),
        ({"load-timeout": '"infinity"'}, "", "load-timeout", '"infinity"', "must end", "5min"),
        ({"stop-timeout": "0"}, "", "stop-timeout", "0", "no time at all", "5min"),
        ({"engine": ""}, "", "engine", "", "missing", "set it"),
        ({"command": ""}, "", "command", "", "missing", "set it"),
        ({"command": "[]"}, "", "command", "[]", "nothing to run", "command ="),
        ({"command": '"llama-server -ngl 99"'}, "", "command", '"llama-server -ngl 99"', "not a list", "["),
        ({"command": '["llama-server", 99]'}, "", "command[1]", "99", "not text", "quotation marks"),
        ({"command": '["no-such-engine"]'}, "", "command", '"no-such-engine"', "no such program in /", "install"),
        ({"command": '["/nowhere/x"]'}, "", "command", '"/nowhere/x"', "does not exist", "install"),
        ({"command": '["./x"]'}, "", "command", '"./x"', "relative", "whole path"),
        ({"command": '["/usr"]'}, "", "command", '"/usr"', "not a file", "program"),
        ({"serves": '["a b"]'}, "", "serves[0]", '"a b"', "clients could ask", "blanks"),
        ({"serves": '"a"'}, "", "serves", '"a"', "not a list", "["),
        ({"can": '["chatt"]'}, "", "can[0]", '"chatt"', "not one of", "did you mean chat?"),
        ({"devices": '["cuda:0"]'}, "", "devices[0]", '"cuda:0"', "not a device", "gpu0"),
        ({"devices": '["gpu0"]', "span": "2"}, "", "span", "2", "1 devices only", "devices"),
        ({"span": "true"}, "", "span", "true", "whole number", "range"),
        ({"port": "80"}, "", "port", "80", "from 1024", "range"),
        ({"port": "8150"}, "", "port", "8150", "aitherd-tcp.socket", "another"),
        ({"port": "9000", "listen": '"unix"'}, "", "listen", '"unix"', "fixed port", "one of"),
        ({"listen": '"tcp"'}, "", "listen", '"tcp"', "not one of unix, port", "one of"),
        ({"engine": '"whisper-server"', "listen": '"unix"'}, "", "listen", '"unix"', "cannot listen", "port"),
        ({"health": '"/health"'}, "", "health", '"/health"', "knows how", "leave it out"),
        ({"swap-slot": '"-x"'}, "", "swap-slot", '"-x"', "not a name", "a-z"),
        ({"max-waiting": "0"}, "", "max-waiting", "0", "whole number", "range"),
        ({"class": '"essential"', "idle": '"5min"'}, "", "idle", '"300s"', "never stopped", "remove"),
        ({"class": '"essential"', "swap-slot": '"a"'}, "", "swap-slot", '"a"', "gives way", "resident"),
        ({"description": '"a\\nb"'}, "", "description", '"a\\nb"', "control characters", "one line"),
        ({}, "[resources]\nMemoryMaxx = 1\n", "resources.MemoryMaxx", "1", "not a unit property", "MemoryMax?"),
        ({}, "[resources]\nCPUWeight = 0\n", "resources.CPUWeight", "0", "from 1 to 10000", "range"),
        ({}, "[service]\nExecStart = 'x'\n", "service.ExecStart", '"x"', "does not set this", "command"),
        ({}, "[service]\nUser = 'root'\n", "service.User", '"root"', "not run as root", "unprivileged"),
        ({"resources": "5"}, "", "resources", "5", "not a table", "[resources]"),
        ({"min-gpu-memory-utilization": "0.6"}, "", "min-gpu-memory-utilization", "0.6", "only vllm", "leave"),
    ],
)
def test_a_mistake_in_a_model_file_is_told_with_key_value_and_remedy(
    etc: Etc, keys: dict[str, str], text: str, key: str, value: str, message: str, remedy: str
) -> None:
    path = etc.model("vision", text, **keys)
    problem = etc.problem()
    assert (problem.path, problem.key, problem.value.replace("\n", "\\n")) == (path, key, value)
    assert message in problem.message
    assert remedy in problem.remedy
    # What is missing is on no line.
    assert str(problem).startswith(f"{path}:{problem.line}: {key}" if problem.line else f"{path}: {key}")
    name = key.partition("[")[0].rpartition(".")[2]
    assert name in path.read_text().split("\n")[problem.line - 1] if problem.line else name not in path.read_text()
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("text", "key", "remedy"),
    [
        ("[arbiter]\nreserv = 1\n", "arbiter.reserv", "did you mean reserve?"),
        ("[arbitr]\n", "arbitr", "did you mean arbiter?"),
        ("reserve = 1\n", "reserve", "the keys are"),
        ("arbiter = 5\n", "arbiter", "table"),
        ('[proxy]\nmax-body = "big"\n', "proxy.max-body", "GiB"),
        ('[models]\nidle = "soon"\n', "models.idle", "5min"),
        ('[log]\nlevel = "loud"\n', "log.level", "one of"),
    ],
)
def test_a_mistake_in_the_settings_is_told(etc: Etc, text: str, key: str, remedy: str) -> None:
    path = etc.settings(text)
    problem = etc.problem()
    assert (problem.path, problem.key) == (path, key)
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    "name",
    [
        "Vision",
        "-vision",
        ".-x",
        "a..b",
        "a%b",
        "a\nb",
        "a b",
        "vision-engine",
        "a.",
        "é",
        "x" * 64,
        "a@b",
        "_a",
        "\udcff",
    ],
)
def test_a_file_name_that_cannot_be_a_model_is_refused_on_one_line(etc: Etc, name: str) -> None:
    if name.startswith("."):
        name = name[1:]  # hidden files are not looked at
    path = etc.model(name)
    problem = etc.problem()
    assert problem.path == path
    assert "rename the file" in problem.remedy
    assert str(problem).isprintable()


@pytest.mark.parametrize("name", ["vision", "qwen2.5-vl", "a", "0", "x" * 63, "a_b-c.d", "engine"])
def test_a_plain_file_name_is_a_model(etc: Etc, name: str) -> None:
    etc.model(name)
    assert list(etc.fleet().models) == [name]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('engine = "vllm"\nvram = 5.2 GiB\n', 2, 12),
        ("engine = \n", 1, 10),
        ('engine = "vllm"\nengine = "vllm"\n', 2, 16),
        ("[resources", 1, 11),
        ('a = """', 1, 8),
    ],
)
def test_a_syntax_error_is_told_with_line_and_column(etc: Etc, text: str, line: int, column: int) -> None:
    path = etc.models / "vision.toml"
    path.write_text(text)
    problem = etc.problem()
    assert (problem.line, problem.column) == (line, column)
    assert str(problem).startswith(f"{path}:{line}:{column}: not TOML: ")
    assert problem.detail[1].index("^") == column - 1


@pytest.mark.parametrize(
    "text",
    [
        *("a = " + "[" * depth + "]" * depth for depth in (10, 300, 450, 5000)),
        "a" + ".a" * 100_000 + " = 1",
        "a" + ".a" * 2000 + " = 1",
        "[resources]\nOOMPolicy" + ".a" * 2000 + " = 1",
        "a = " + "9" * 5000,
        "a = 2026-13-45\n",
        "a" * 2_000_000,
    ],
    ids=lambda text: text[:12],
)
def test_a_document_that_breaks_the_parser_is_a_problem_like_any_other(etc: Etc, text: str) -> None:
    (etc.models / "vision.toml").write_text(text)
    assert etc.problem().remedy


def test_all_problems_of_all_files_are_told_at_once(etc: Etc) -> None:
    etc.settings("[log]\nlevel = 5\n")
    etc.model("a", vram='"x"', idle='"y"', can='["z"]')
    etc.model("b", "[resources]\nNice = 99\nCPUQuota = 1\n", command='["/nowhere/x", "--port", "1"]')
    _, problems = etc.load()
    assert {(problem.path.name, problem.key) for problem in problems} == {
        ("aitherd.toml", "log.level"),
        *(("a.toml", key) for key in ("vram", "idle", "can[0]")),
        *(("b.toml", key) for key in ("resources.Nice", "resources.CPUQuota", "command")),
    }
    assert len(problems) == 8


def test_a_daemon_that_comes_back_leaves_out_the_broken_model_only(etc: Etc) -> None:
    etc.model("good")
    etc.model("bad", **{"class": "3"})
    fleet, problems = load((etc.root,), partial=True)
    assert fleet is not None and set(fleet.models) == {"good"} == set(fleet.names.values())
    assert any(problem.error for problem in problems)
    etc.settings("[proxy]\nmax-body = []\n")
    assert load((etc.root,), partial=True)[0] is None


def test_two_models_that_serve_one_name_are_both_named(etc: Etc) -> None:
    first = etc.model("a", serves='["gpt-4o"]')
    second = etc.model("b", serves='["gpt-4o"]')
    problem = etc.problem()
    assert (problem.path, problem.key, problem.value) == (second, "serves", '"gpt-4o"')
    assert str(first) in problem.message


def test_a_model_cannot_serve_the_name_of_another(etc: Etc) -> None:
    etc.model("a", serves='["b"]')
    other = etc.model("b")
    assert f"name of the model b in {other}" in etc.problem().message


def test_two_models_on_one_port_are_both_named(etc: Etc) -> None:
    first = etc.model("a", port="9000")
    etc.model("b", port="9000")
    assert str(first) in etc.problem().message


def test_what_the_engine_stands_on_changes_the_fingerprint_and_nothing_else_does(etc: Etc) -> None:
    def fingerprint(text: str = "", **keys: str) -> str:
        etc.model("vision", text, **keys)
        return etc.loaded().fingerprint

    plain = fingerprint()
    assert len(plain) == 16
    assert fingerprint(vram='"9 GiB"', idle='"1h"', serves='["x"]', description='"y"') == plain
    changed = [
        fingerprint(command=f'["{etc.program}", "-ngl", "9"]'),
        fingerprint(port="9000"),
        fingerprint(devices='["gpu1"]'),
        fingerprint("[resources]\nCPUWeight = 9\n"),
        fingerprint("[service]\nEnvironment = ['A=1']\n"),
        fingerprint(**{"class": '"essential"'}),
    ]
    assert len({plain, *changed}) == 1 + len(changed)


def test_a_resident_model_with_an_idle_time_is_loaded_with_a_note(etc: Etc) -> None:
    etc.model(**{"class": '"resident"', "idle": '"5min"'})
    assert etc.note().key == "idle"


def test_a_limit_that_never_acts_draws_a_note(etc: Etc) -> None:
    etc.model("vision", '[resources]\nMemoryHigh = "12G"\nMemoryMax = "10G"\n')
    assert etc.note().key == "resources.MemoryHigh"


def test_a_secret_in_the_environment_draws_a_note(etc: Etc) -> None:
    etc.model("vision", '[service]\nEnvironment = ["HF_TOKEN=x"]\n')
    assert etc.note().value == '"HF_TOKEN"'


@pytest.mark.parametrize("line", ['User = "comfyui"', 'SupplementaryGroups = ["video"]'])
def test_what_a_user_manager_cannot_do_is_refused_in_user_mode_only(etc: Etc, line: str) -> None:
    etc.model("vision", f"[service]\n{line}\n")
    etc.fleet()
    assert "systemd of a user" in etc.problem(user=True).message


NEARLY_TOML = st.lists(
    st.sampled_from(
        [
            *(
                'engine = "vllm"',
                "engine",
                '"exec"',
                "class = 'essential'",
                "vram = '5 GiB'",
                "vram = nan",
                "idle = -1",
            ),
            *(
                "command = ['true']",
                "command = [[]]",
                "serves = [1, 'a', {}]",
                "[resources]",
                "[service]",
                "[[models]]",
            ),
            *("MemoryMax = inf", "Environment = {A = 1}", "span = 99999999999999999999", "x = 1979-05-27", "a.b.c = 1"),
            *(
                "devices = ['gpu0', 'gpu0']",
                "port = 1e3",
                "=",
                "]",
                '"""',
                "é = 'é'",
                "\x00",
                "min-gpu-memory-utilization = 1",
            ),
        ]
    ),
    max_size=12,
).map("\n".join)


@given(st.one_of(NEARLY_TOML, st.text()), st.one_of(NEARLY_TOML, st.binary(), st.text()))
@settings(deadline=None)
def test_whatever_the_files_hold_there_is_a_fleet_or_a_problem(model: str, main: str | bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "models.d").mkdir()
        (root / "models.d" / "a.toml").write_bytes(model.encode("utf-8", "replace"))
        (root / "aitherd.toml").write_bytes(main if isinstance(main, bytes) else main.encode("utf-8", "replace"))
        fleet, problems = load((root,))
    assert (fleet is None) == any(problem.error for problem in problems)
    assert all(str(problem).isprintable() and problem.message for problem in problems)


def test_loading_twice_through_the_package_works(etc: Etc) -> None:
    # A submodule of the same name would take the function's place with the first import of it.
    for _ in range(2):
        assert aitherd.config.load((etc.root,))[0] is not None
    assert not {name for name in aitherd.config.__all__ if isinstance(getattr(aitherd.config, name), ModuleType)}
