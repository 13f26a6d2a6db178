"""The generator, run by real shells on real directories; what it writes is checked by systemd's own parser."""

import os
import shutil
import subprocess
from collections.abc import Callable
from configparser import RawConfigParser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
GENERATOR = REPOSITORY / "units" / "generator" / "aither-generator"
SHELLS = [["sh", "-eu"], ["dash"], ["bash"], ["bash", "--posix"]]


class Machine:
    """Configuration directories and a place for the generator's output."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.etc, self.run, self.vendor = (root / name for name in ("etc", "run", "vendor"))
        self.output = root / "output"
        self.output.mkdir()

    def model(self, directory: Path, name: str, text: str = 'engine = "exec"\n') -> Path:
        """Writes a model file."""
        path = directory / "models.d" / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def generate(self, shell: list[str] | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs the generator over the three directories; an empty value takes a variable away."""
        configured = {"AITHER_CONFIG_DIR": f"{self.etc}:{self.run}:{self.vendor}", "PATH": os.environ["PATH"]}
        values = {name: value for name, value in (configured | environment).items() if value}
        return subprocess.run(
            [*(shell or []), GENERATOR, self.output, self.output, self.output],
            env=values,
            capture_output=True,
            text=True,
            check=False,
        )

    def units(self) -> list[str]:
        """Names of the units written."""
        return sorted(path.name for path in self.output.iterdir())

    def unit(self, name: str) -> RawConfigParser:
        """The unit of a model, parsed."""
        parser = RawConfigParser(interpolation=None, strict=True)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string((self.output / f"aither-{name}.service").read_text())
        return parser


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(params=SHELLS, ids=" ".join)
def shell(request: pytest.FixtureRequest) -> list[str]:
    words: list[str] = request.param
    if shutil.which(words[0]) is None:
        pytest.skip(f"no {words[0]}")
    return words


def test_every_model_file_becomes_a_unit_that_holds_and_stops_it(machine: Machine, shell: list[str]) -> None:
    machine.model(machine.etc, "vision", 'engine = "llama-server"\ndescription = "Looks at pictures"\n')
    machine.model(machine.vendor, "embed-2.1_small")
    done = machine.generate(shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.units() == ["aither-embed-2.1_small.service", "aither-vision.service"]
    unit = machine.unit("vision")
    assert unit["Unit"]["Description"] == "Looks at pictures"
    assert unit["Unit"]["SourcePath"] == str(machine.etc / "models.d" / "vision.toml")
    assert unit["Unit"]["After"] == "dbus.socket aitherd.socket aitherd.service"
    service = unit["Service"]
    assert (service["Type"], service["RemainAfterExit"], service["TimeoutSec"]) == ("oneshot", "yes", "infinity")
    address = "org.aitheros.Aither1 /org/aitheros/Aither1 org.aitheros.Aither1.Manager"
    # Without a timeout of its own busctl gives up after 25 s.
    busctl = "busctl --quiet --timeout=infinity"
    assert service["ExecStart"] == f"{busctl} call {address} Hold s vision"
    # A stop that had the bus start the daemon would wait for itself.
    stop = f"{busctl} --auto-start=no call {address} Stop s vision || systemctl stop aither-vision-engine.service"
    assert service["ExecStop"] == f"/bin/sh -c '{stop}'"
    assert machine.unit("embed-2.1_small")["Unit"]["Description"] == "AI model embed-2.1_small"


def test_a_user_managers_units_call_the_users_bus(machine: Machine, shell: list[str]) -> None:
    machine.model(machine.etc, "vision")
    assert machine.generate(shell, SYSTEMD_SCOPE="user").returncode == 0
    assert machine.unit("vision")["Service"]["ExecStart"].startswith("busctl --user --quiet ")
    assert "|| systemctl --user stop " in machine.unit("vision")["Service"]["ExecStop"]


def test_a_user_managers_models_come_from_the_users_directories(machine: Machine, shell: list[str]) -> None:
    home, runtime = machine.root / "home", machine.root / "runtime"
    machine.model(home / ".config" / "aither", "vision", "description = 'of the home'\n")
    machine.model(runtime / "aither", "vision", "description = 'of the session'\n")
    machine.model(runtime / "aither", "embed")
    user = {"AITHER_CONFIG_DIR": "", "SYSTEMD_SCOPE": "user", "HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)}
    assert machine.generate(shell, **user).returncode == 0
    assert machine.unit("vision")["Unit"]["Description"] == "of the home"
    assert "aither-embed.service" in machine.units()
    chosen = machine.root / "elsewhere"
    machine.model(chosen / "aither", "vision", "description = 'chosen'\n")
    assert machine.generate(shell, XDG_CONFIG_HOME=str(chosen), **user).returncode == 0
    assert machine.unit("vision")["Unit"]["Description"] == "chosen"


def test_where_the_manager_does_not_say_the_generators_place_tells_the_scope(machine: Machine) -> None:
    machine.model(machine.etc, "vision")
    place = machine.root / "user-generators"
    place.mkdir()
    (place / "aither-generator").symlink_to(GENERATOR)
    environment = {"AITHER_CONFIG_DIR": str(machine.etc), "PATH": os.environ["PATH"]}
    subprocess.run([place / "aither-generator", machine.output], env=environment, check=True)
    assert "--user" in machine.unit("vision")["Service"]["ExecStart"]


def test_a_stronger_directory_overrides_by_file_name_and_a_null_link_masks(machine: Machine, shell: list[str]) -> None:
    for directory in (machine.etc, machine.run, machine.vendor):
        machine.model(directory, "vision", f'description = "{directory.name}"\n')
    for directory in (machine.run, machine.vendor):
        machine.model(directory, "embed", f'description = "{directory.name}"\n')
    machine.model(machine.vendor, "speech")
    (machine.run / "models.d" / "speech.toml").symlink_to("/dev/null")
    assert machine.generate(shell).stderr == ""
    assert machine.units() == ["aither-embed.service", "aither-vision.service"]
    assert machine.unit("vision")["Unit"]["Description"] == "etc"
    assert machine.unit("embed")["Unit"]["Description"] == "run"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('description = "Plain"', "Plain"),
        ("  description='single' ", "single"),
        ('description = "with a comment"   # said # twice', "with a comment"),
        ('description\t=\t"tabs"', "tabs"),
        ('description = "100 % of it, %n and %%"', "100 %% of it, %%n and %%%%"),
        ('description = "Größe"', "Größe"),
        ('description = "a = b; #c"', "a = b; #c"),
        ('description = "first"\ndescription = "second"', "first"),
        # Not plain: the unit is named after the model instead.
        ('description = "escaped \\" quote"', None),
        ('description = """multi', None),
        ('description = "open', None),
        ("description = ''", None),
        ('description = "one" "two"', None),
        ("description = 3", None),
        ("description =", None),
        ('description = "tab\there"', None),
        ('descriptions = "other key"', None),
        ('[service]\nDescription = "of another key"', None),
    ],
)
def test_the_description_is_taken_if_it_is_plain(machine: Machine, line: str, shown: str | None) -> None:
    machine.model(machine.etc, "before", 'description = "neighbour"\n')
    machine.model(machine.etc, "vision", f"engine = 'exec'\n{line}\n")
    machine.model(machine.etc, "zafter", 'description = "neighbour"')
    assert machine.generate().returncode == 0
    assert machine.unit("vision")["Unit"]["Description"] == (shown or "AI model vision")
    assert machine.unit("zafter")["Unit"]["Description"] == "neighbour"


@pytest.mark.parametrize(
    "name",
    [
        "Vision",
        "-rf",
        ".hidden-not-matched-by-the-pattern",
        "a b",
        "a%n",
        "a$b",
        "a;b",
        "a'b",
        'a"b',
        "a\\b",
        "a\nExecStart=evil",
        "größe",
        "a\x1b[31m",
        "x" * 64,
        "vision-engine",
        "..x",
        "_x",
        "*",
    ],
)
def test_a_bad_name_never_becomes_a_unit_and_is_said_in_one_line(machine: Machine, shell: list[str], name: str) -> None:
    machine.model(machine.etc, name)
    machine.model(machine.etc, "good")
    done = machine.generate(shell)
    assert done.returncode == 0
    assert machine.units() == ["aither-good.service"]
    said = done.stderr.splitlines()
    # A dot file is none of ours.
    assert len(said) == (0 if name.startswith(".") else 1)
    assert all(line.startswith("aither-generator: no unit for ") and line.isprintable() for line in said)


def test_the_longest_good_name_is_good(machine: Machine, shell: list[str]) -> None:
    machine.model(machine.etc, "x" * 63)
    assert machine.generate(shell).stderr == ""
    assert machine.units() == [f"aither-{'x' * 63}.service"]


def test_what_is_not_a_file_is_said_and_skipped(machine: Machine, shell: list[str]) -> None:
    directory = machine.model(machine.etc, "good").parent
    (directory / "folder.toml").mkdir()
    (directory / "dangling.toml").symlink_to("nowhere")
    os.mkfifo(directory / "pipe.toml")
    done = machine.generate(shell)
    assert done.returncode == 0
    assert machine.units() == ["aither-good.service"]
    assert len(done.stderr.splitlines()) == 3


def test_a_file_with_nonsense_still_has_a_unit(machine: Machine, shell: list[str]) -> None:
    path = machine.model(machine.etc, "broken")
    path.write_bytes(b"\0\xff\xfe\n[[[ \r\n description = \xff\n")
    machine.model(machine.etc, "empty", "")
    assert machine.generate(shell).returncode == 0
    assert machine.units() == ["aither-broken.service", "aither-empty.service"]


def test_nothing_is_written_without_models_or_before_the_root_file_system(machine: Machine, shell: list[str]) -> None:
    assert machine.generate(shell).returncode == 0
    machine.model(machine.etc, "vision")
    assert machine.generate(shell, SYSTEMD_IN_INITRD="1").returncode == 0
    assert machine.units() == []


def test_odd_directories_are_no_trouble(machine: Machine, shell: list[str]) -> None:
    odd = machine.root / "50% [a] of *\\ it"
    machine.model(odd, "vision", 'description = "found"')
    assert machine.generate(shell, AITHER_CONFIG_DIR=f":{machine.root / 'absent'}::{odd}:").returncode == 0
    unit = machine.unit("vision")["Unit"]
    assert unit["Description"] == "found"
    assert unit["SourcePath"] == str(odd / "models.d" / "vision.toml").replace("%", "%%")


def test_an_output_that_cannot_be_written_is_an_error(machine: Machine, shell: list[str]) -> None:
    machine.model(machine.etc, "vision")
    machine.output.rmdir()
    assert machine.generate(shell).returncode != 0
    assert subprocess.run([*shell, GENERATOR], capture_output=True, check=False).returncode == 2


def test_without_any_program_the_units_are_there(machine: Machine) -> None:
    machine.model(machine.etc, "vision", 'description = "Looks"')
    done = machine.generate([shutil.which("sh") or "/bin/sh"], PATH="/nonexistent")
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.unit("vision")["Unit"]["Description"] == "AI model vision"


def test_two_hundred_models_take_one_process_beside_the_shell(
    machine: Machine, shell: list[str], traced: Callable[..., int]
) -> None:
    for number in range(200):
        machine.model(machine.etc, f"m{number}", f'description = "Number {number} of 100 %"\n')
    assert traced(shell) == 1
    assert len(machine.units()) == 200
    assert machine.unit("m199")["Unit"]["Description"] == "Number 199 of 100 %%"


@pytest.fixture
def traced(machine: Machine) -> Callable[..., int]:
    """Runs the generator with a `grep` first on the path that counts how often it is run, and no other program."""
    programs = machine.root / "programs"
    programs.mkdir()
    count = machine.root / "count"
    grep = shutil.which("grep")
    (programs / "grep").write_text(f'#!/bin/sh\necho >>"{count}"\nexec {grep} "$@"\n')
    (programs / "grep").chmod(0o755)

    def run(shell: list[str]) -> int:
        count.write_text("")
        words = [shutil.which(shell[0]) or shell[0], *shell[1:]]
        done = machine.generate(words, PATH=str(programs))
        # A program that is not on the path would have been complained about.
        assert (done.returncode, done.stderr) == (0, "")
        return len(count.read_text().splitlines())

    return run


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
@pytest.mark.parametrize("scope", ["system", "user"])
def test_the_units_are_valid_to_the_service_manager(machine: Machine, scope: str) -> None:
    machine.model(machine.etc, "vision", 'description = "100 % of it; %n $HOME"')
    machine.model(machine.etc, "embed-2.1_small")
    assert machine.generate(SYSTEMD_SCOPE=scope).returncode == 0
    units = REPOSITORY / "units" / scope
    for file in ("aitherd.socket", "aither.slice"):
        shutil.copy(units / file, machine.output)
    # The socket's service, without the program that is not installed here.
    service = (units / "aitherd.service").read_text().splitlines()
    shown = [line if not line.startswith("ExecStart=") else "ExecStart=/bin/true" for line in service]
    (machine.output / "aitherd.service").write_text("\n".join(shown))
    names = [name for name in machine.units() if name.startswith("aither-")]
    environment = {"PATH": os.environ["PATH"], "SYSTEMD_UNIT_PATH": f"{machine.output}:", "HOME": str(machine.root)}
    environment["XDG_RUNTIME_DIR"] = str(machine.root)
    done = subprocess.run(
        ["systemd-analyze", f"--{scope}", "verify", "--man=no", *(str(machine.output / name) for name in names)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if any(f"{name}:" in line for name in names)]
    assert (done.returncode, ours) == (0, []), done.stderr
