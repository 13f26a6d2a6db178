"""The package's life on each suite of Debian: installed, used, upgraded in the middle of a stream, gone again.

What single steps promise in detail is tested once, in `test_package.py` and `test_service.py`.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.conftest import PACKAGES, REPOSITORY, TRANSCRIPTS, build_package, in_guest, keep_if_failed
from tests.machine.test_package import look
from tests.machine.vm.guest import Command
from tests.machine.workstation import CARD, ENGINE, Workstation, workstation
from tests.testbed.nvml.gpu import FILE_VARIABLE

ALICE = {"XDG_RUNTIME_DIR": "/run/user/1000", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1000/bus"}
SETTINGS = "/etc/aither/aitherd.toml"
MINE = "# Of the administrator.\n"
NEWER = "# What a later version ships.\n"


class Story:
    """A machine on which everything that is done is written down, as a person would see it."""

    def __init__(self, station: Workstation, suite: str) -> None:
        self.station = station
        self.guest = station.guest
        self._path = TRANSCRIPTS / f"story-{suite}.txt"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("")

    def tell(self, command: str, *, user: bool = False, check: bool = True, timeout: float = 240.0) -> str:
        """Runs a command as root, or as alice in a session of her own; returns what it printed."""
        done = self.guest.run(
            f"export SYSTEMD_COLORS=0 SYSTEMD_URLIFY=0 COLUMNS=120 PAGER=cat; {command}",
            user="alice" if user else None,
            env=ALICE if user else None,
            timeout=timeout,
        )
        said = done.stdout + done.stderr
        self.note(f"{'alice$' if user else '#'} {command}\n{said}")
        assert done.returncode == 0 or not check, said
        return said

    def note(self, text: str) -> None:
        """Adds to the transcript."""
        with self._path.open("a") as file:
            file.write(f"{text.rstrip()}\n\n")


def with_other_settings(package: Path) -> Path:
    """The same package with another aitherd.toml, as a later version may ship."""
    tree, made = package.with_suffix(".tree"), package.with_suffix(".changed.deb")
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    settings = tree / SETTINGS.removeprefix("/")
    settings.write_text(settings.read_text() + NEWER)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, made], check=True, capture_output=True)
    subprocess.run(["rm", "-r", tree], check=True)
    return made


@pytest.fixture(params=["trixie", "forky"])
def suite(request: pytest.FixtureRequest) -> str:
    """The suite of the machine and of the packages."""
    return str(request.param)


@pytest.fixture
def story(suite: str, request: pytest.FixtureRequest) -> Iterator[Story]:
    """A machine of the suite with a card and without the package."""
    name = f"story-{suite}"
    with workstation(name, None, suite) as station:
        yield Story(station, suite)
    keep_if_failed(request.node, name)


def test_from_nothing_to_nothing(story: Story, suite: str) -> None:
    packages = [build_package(version, PACKAGES, suite=suite) for version in ("1.0.0", "1.0.1")]
    station = story.station
    # A directory that logind makes when the first user lingers.
    story.guest.run("mkdir -p /var/lib/systemd/linger", check=True)
    before = look(story.guest)

    # Installed: a socket is open, and nothing runs.
    story.tell(f". /etc/os-release; echo $PRETTY_NAME; systemctl --version | head -1; dpkg -i {in_guest(packages[0])}")
    assert station.active("aitherd.service") == "inactive"
    station.vision()
    station.stand_in("slow", "--token-seconds", "0.2")

    # From nothing: the unit calls the bus, the bus starts the daemon, the daemon starts the engine.
    story.tell("systemctl start aither-vision.service && systemctl status --no-pager aither-vision.service aitherd")
    status, body = station.chat("qwen2.5-vl")
    story.note(f"POST /v1/chat/completions: {status}\n{body}")
    assert status == 200, body

    # An upgrade in the middle of a stream, over settings that the administrator has changed, and so has the package.
    station.guest.run(f"cat >{SETTINGS}", stdin=MINE, check=True)
    engines = ("aither-vision-engine.service", "aither-slow-engine.service")
    stream = stream_of(station, "slow")
    running = {engine: station.show(engine, "InvocationID") for engine in engines}
    daemon = station.show("aitherd.service", "InvocationID")
    changed = with_other_settings(packages[1])
    story.tell(f"dpkg -i --force-confold {in_guest(changed)}")
    streamed = stream.wait(240)
    assert streamed.returncode == 0 and streamed.stdout.rstrip().endswith("data: [DONE]")
    story.note(f"the stream, begun before the upgrade, ended with: {streamed.stdout.rstrip().splitlines()[-1]}")
    assert {engine: station.show(engine, "InvocationID") for engine in engines} == running
    assert station.show("aitherd.service", "InvocationID") != daemon
    assert "1.0.1" in story.tell("dpkg-query --show aitherd")
    assert station.property("vision", "Held") == "b true"
    assert station.guest.run(f"cat {SETTINGS}").stdout == MINE
    assert station.guest.run(f"cat {SETTINGS}.dpkg-dist").stdout.endswith(NEWER)
    assert station.chat("vision")[0] == 200

    own_daemon_of_a_user(story)

    # Gone: what it started is stopped, what was configured stays until the purge.
    story.tell(
        "dpkg -r aitherd; systemctl list-units --all --no-legend 'aither*'; ps -eo user:20,args | grep '[a]ither'; true"
    )
    assert station.guest.run("systemctl list-units --no-legend --plain 'aither*'").stdout == ""
    assert station.guest.run(f"cat {SETTINGS}").stdout == MINE
    story.tell("dpkg -P aitherd")
    after = look(story.guest)
    story.note(f"files that were not there before: {sorted(set(after.files) - set(before.files))}")
    assert after.files == before.files
    assert story.tell("systemctl --failed --no-legend") == ""


def stream_of(station: Workstation, model: str) -> Command:
    """A stream that goes on for a while."""
    body = {"model": model, "stream": True, "max_tokens": 100, "messages": [{"role": "user", "content": "x"}]}
    stream = station.guest.start(
        f"curl --silent --no-buffer --unix-socket /run/aither/aither.sock --data {shlex.quote(json.dumps(body))} "
        "http://aither/v1/chat/completions"
    )
    station.wait_until(
        f"busctl get-property org.aitheros.Aither1 /org/aitheros/Aither1/model/{model}"
        " org.aitheros.Aither1.Model InFlight | grep 1"
    )
    return stream


def own_daemon_of_a_user(story: Story) -> None:
    """alice runs one of her own, beside the system's and with the same commands."""
    guest = story.guest
    program = in_guest(REPOSITORY / "tests" / "testbed" / "bin" / "engine")
    command = json.dumps([program, "--socket", "{socket}", "--vram", "1GiB"])
    guest.run(
        "loginctl enable-linger alice && until systemctl is-active user@1000.service; do sleep 0.05; done", check=True
    )
    guest.run(
        "mkdir -p ~/.config/aither/models.d && cat >~/.config/aither/models.d/mine.toml",
        user="alice",
        stdin=ENGINE.format(name="mine", kind="on-demand", command=command, more=""),
        check=True,
    )
    story.tell(f"systemctl --user set-environment {FILE_VARIABLE}={CARD}", user=True)
    story.tell("systemctl --user daemon-reload && systemctl --user start aitherd.socket", user=True)
    assert story.tell("systemctl --user is-active aitherd.service", user=True, check=False).strip() == "inactive"
    story.tell("systemctl --user start aither-mine.service && aitherctl --user status mine", user=True)
    body = '{"model": "mine", "max_tokens": 2, "messages": []}'
    answer = story.tell(
        f"curl --silent --unix-socket $XDG_RUNTIME_DIR/aither/aither.sock --data '{body}' "
        "http://aither/v1/chat/completions",
        user=True,
    )
    assert json.loads(answer)["choices"]
    owners = story.tell("ps -eo user:20,args | grep '[s]tand_ins'")
    assert "alice" in owners
    # Each has its own: the system's knows nothing of hers.
    assert "mine" not in story.tell("aitherctl list")
    story.tell("systemctl --user stop aither-mine.service && aitherctl --user list", user=True)
    story.tell("systemctl --user stop aitherd.socket aitherd.service && rm -rf ~/.config ~/.local ~/.cache", user=True)
    guest.run(
        "loginctl disable-linger alice && while systemctl is-active --quiet user@1000.service; do sleep 0.05; done",
        check=True,
    )
