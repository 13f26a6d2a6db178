"""aitherctl in a terminal, with the whole daemon behind it: questions, the live screen, another machine."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from aitherd.ctl.screen import View, screen
from tests.native.daemon.conftest import engine
from tests.testbed.rig import Rig

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360f8cf50"
    "0f00048401807d2b3a0000000049454e44ae426082"
)
WAIT_S = 30.0
SCREENSHOTS = Path(__file__).parents[3] / "build" / "screenshots"


class Terminal:
    """`aitherctl` in a terminal of 80 by 24, and what it has written so far."""

    def __init__(self, rig: Rig, *words: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        command = [sys.executable, "-m", "aitherd.ctl", "--user", *words]
        look = {"TERM": "xterm-256color", "NO_COLOR": ""}
        self.process = rig.manager.popen(command, env=look, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        os.set_blocking(self._ours, False)
        self.written = ""

    def wait_for(self, pattern: str) -> None:
        """Reads until `pattern` has been written."""
        self._read(lambda: re.search(pattern, self.written) is not None, pattern)

    def ended(self) -> int:
        """Reads to the end; returns the exit status."""
        self._read(lambda: self.process.poll() is not None, "its end")
        return self.process.wait()

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)

    def _read(self, done: object, what: str) -> None:
        assert callable(done)
        deadline = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < deadline, f"{what} did not come; there is {self.written!r}"
            try:
                self.written += os.read(self._ours, 65536).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                # Its end is closed.
                time.sleep(0.02)


@pytest.fixture
def started(rig: Rig) -> Iterator[list[Terminal]]:
    """Terminals that are closed with the test."""
    terminals: list[Terminal] = []
    yield terminals
    for terminal in terminals:
        terminal.close()


def test_a_question_brings_the_model_in_and_its_answer_is_written(rig: Rig) -> None:
    rig.model("vision", engine(more='can = ["chat", "vision"]'))
    answered = rig.ctl("run", "vision", "what", "is", "this?", "--max-tokens", "3")
    assert answered.stdout.strip()
    assert rig.status("vision")["residency"] == "ready"
    whole = json.loads(rig.ctl("--json", "run", "vision", "again", "--max-tokens", "3").stdout)
    assert whole["choices"][0]["message"]["content"].strip() == answered.stdout.strip()


def test_a_picture_goes_along(rig: Rig, tmp_path: Path) -> None:
    rig.model("vision", engine(more='can = ["chat", "vision"]'))
    (tmp_path / "p.png").write_bytes(PIXEL)
    assert rig.ctl("run", "vision", "what is this?", "--image", str(tmp_path / "p.png")).stdout.strip()
    refused = rig.ctl("run", "vision", "what is this?", "--image", str(tmp_path / "none.png"), check=False)
    assert (refused.returncode, "none.png" in refused.stderr) == (2, True)


def test_a_model_that_nobody_knows_is_refused_with_its_likeness(rig: Rig) -> None:
    rig.model("vision", engine())
    refused = rig.ctl("run", "visoin", "hi", check=False)
    assert refused.returncode == 4
    assert "vision" in refused.stderr


def test_where_nothing_is_configured_that_is_what_is_said(rig: Rig) -> None:
    for words, said in (
        (("start", "vision"), "there is no model 'vision'; none is configured"),
        (("route", "x", "--tier", "fast"), "there is no tier 'fast'; none is configured"),
        (("route", "x", "--effort", "high"), "no tier is for the effort 'high'; no tier names any"),
        (("doctor", "vision"), "there is no model 'vision'; none is configured"),
    ):
        assert rig.ctl(*words, check=False).stderr == f"aitherctl: {said}\n"


def test_an_error_of_the_engine_says_whose_it_is(rig: Rig) -> None:
    rig.model("vision", engine(more='can = ["chat"]'))
    refused = rig.ctl("run", "vision", "a harbour", "--output", "harbour.png", check=False)
    assert (refused.returncode, refused.stderr) == (
        2,
        "aitherctl: vision does not draw: it can chat; leave --output out\n",
    )
    # ComfyUI has no such route.
    rig.model("draws", 'engine = "comfyui"\nvram = "2 GiB"\ncommand = ["comfyui", "--weights", "1GiB"]\n')
    rig.reload()
    refused = rig.ctl("run", "draws", "hi", check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("aitherctl: draws answers with 404")


def test_a_terminal_is_told_what_is_waited_for_and_who_answered(rig: Rig, started: list[Terminal]) -> None:
    rig.model("slow", engine("4 GiB", "--load-seconds", "1.5"))
    terminal = Terminal(rig, "run", "slow", "hi")
    started.append(terminal)
    terminal.wait_for(r"slow: starting.* of about ")
    assert terminal.ended() == 0
    assert re.search(r"slow: loaded in .*, waited ", terminal.written)


def test_top_shows_devices_and_models_and_ends_with_a_key(rig: Rig, started: list[Terminal]) -> None:
    rig.model("vision", engine("4 GiB"))
    rig.ctl("start", "vision")
    terminal = Terminal(rig, "top", "--interval", "0.2")
    started.append(terminal)
    terminal.wait_for(r"1 of 1 models ready")
    terminal.wait_for(r"gpu0")
    terminal.wait_for(r"vision answers")
    rig.ctl("stop", "vision")
    terminal.wait_for(r"0 of 1 models ready")
    terminal.press(b"q")
    assert terminal.ended() == 0
    # The screen that was there before is there again.
    assert "\x1b[?1049l" in terminal.written


def test_the_screen_of_a_fleet_fits_a_small_terminal(rig: Rig) -> None:
    rig.model("orchestrator", engine("19 GiB", kind="essential", more='description = "Decides what to do next"'))
    rig.model("vision", engine("5 GiB", more='description = "Captions images"'))
    rig.model("imagine", engine("8 GiB", more='description = "Renders images"'))
    rig.ctl("start", "vision")
    rig.ctl("run", "vision", "hi", "--max-tokens", "3")
    rig.ctl("start", "imagine")
    seen = rig.ctl_json("top")
    view = View(seen["daemon"], seen["devices"], seen["models"], seen["records"])
    console = Console(width=80, height=24, record=True, force_terminal=True, file=StringIO())
    console.print(screen(view, 80, 24), end="")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(SCREENSHOTS / "top.svg"), title="aitherctl top", clear=False)
    lines = console.export_text().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert all(name in "\n".join(lines) for name in ("orchestrator", "vision", "imagine", "gpu0"))


def test_top_once_is_for_anything_that_is_no_terminal(rig: Rig) -> None:
    rig.model("vision", engine("4 GiB"))
    assert "vision" in rig.ctl("top", "--once").stdout
    assert rig.ctl("top", check=False).returncode == 2
    assert {"daemon", "devices", "models", "records"} == set(rig.ctl_json("top"))


def test_a_model_that_was_made_from_a_command_can_be_used_at_once(rig: Rig) -> None:
    rig.ctl("list")
    command = "engine --socket {socket} --vram 3GiB"
    rig.ctl("new", "fresh", "--vram", "3GiB", "--command", command)
    assert rig.ctl("run", "fresh", "hi").stdout.strip()
    assert rig.status("fresh")["measured_bytes"] == {"gpu0": 3 * 2**30}


def test_another_machine_is_reached_through_ssh(rig: Rig, tmp_path: Path) -> None:
    rig.model("vision", engine())
    search = f"{elsewhere(rig, tmp_path)}:{os.environ['PATH']}"

    def ctl(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "aitherd.ctl", "-H", "elsewhere", *words]
        look = {**os.environ, "PATH": search}
        return subprocess.run(command, env=look, capture_output=True, text=True, timeout=WAIT_S, check=False)

    listed = ctl("--json", "list")
    assert listed.returncode == 0, listed.stderr
    assert [model["name"] for model in json.loads(listed.stdout)] == ["vision"]
    assert ctl("start", "vision").returncode == 0
    assert rig.status("vision")["residency"] == "ready"
    (tmp_path / "authorized").write_text("")
    lost = ctl("list")
    assert lost.returncode == 1
    assert "the bus of elsewhere cannot be reached" in lost.stderr


def elsewhere(rig: Rig, place: Path) -> Path:
    """Where an ssh is that knows a machine called `elsewhere`: a real sshd that leads to the bus of `rig`."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or shutil.which("systemd-stdio-bridge") is None:
        if os.environ.get("CI"):
            raise AssertionError("sshd and systemd-stdio-bridge are needed")
        pytest.skip("there is no sshd, or no systemd-stdio-bridge")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for key in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / key], check=True)
    (place / "authorized").write_text((place / "client.pub").read_text())
    bus = rig.manager.env["DBUS_SESSION_BUS_ADDRESS"]
    inside = f"nsenter --target={rig.manager.pid} --user --mount --preserve-credentials"
    (place / "sshd.conf").write_text(
        f"HostKey {place}/host\nAuthorizedKeysFile {place}/authorized\nPidFile none\nStrictModes no\nUsePAM no\n"
        # What ssh is asked to run, with the bus of the test bed in place of the system's.
        f"ForceCommand exec {inside} -- $SSH_ORIGINAL_COMMAND -p {bus}\n"
    )
    # sshd speaks on its standard streams; ssh starts it as the command that is its connection.
    (place / "ssh.conf").write_text(
        f"Host elsewhere\nIdentityFile {place}/client\nUserKnownHostsFile {place}/known\nStrictHostKeyChecking no\n"
        f"ProxyCommand {program} -i -f {place}/sshd.conf\nBatchMode yes\nLogLevel ERROR\n"
    )
    wrapper = place / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {place}/ssh.conf "$@"\n')
    wrapper.chmod(0o755)
    return wrapper.parent
