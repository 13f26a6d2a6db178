"""A machine with the package installed and a card: what `tests/testbed` is to one user, on a whole machine.

The card is the NVML test library, installed where a driver would install the real one; llama-server is real.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess

from tests.machine.conftest import ARTEFACTS, REPOSITORY, SUITE, TRANSCRIPTS, in_guest, machine
from tests.machine.vm import Guest
from tests.testbed import llama, models
from tests.testbed.nvml import Gpu
from tests.testbed.nvml.build import LIBRARY, WRAPPER, folder
from tests.testbed.nvml.gpu import FILE_VARIABLE

CARD = "/dev/shm/card"
"""The card's state in the guest: a place that confined services may write to."""
SOCKET = "/run/aither/aither.sock"
MANAGER = "org.aitheros.Aither1 /org/aitheros/Aither1 org.aitheros.Aither1.Manager"
LOAD_TIMEOUT_S = 180.0
"""A machine without a CPU of its own loads programs slowly."""
FEW_TOKENS = 4

VISION = """
description = "Vision: captions images"
engine = "llama-server"
class = "on-demand"
serves = ["qwen2.5-vl"]
can = ["chat", "vision"]
vram = "5.2 GiB"
idle = "never"
command = {command}
[resources]
MemoryHigh = "1G"
MemoryMax = "1200M"
CPUWeight = 50
"""

ENGINE = """
description = "Stand-in {name}"
engine = "exec"
class = "{kind}"
vram = "1 GiB"
command = {command}
{more}
"""


class Workstation:
    """The machine as its owner and its users see it."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def prepare(self, package: Path | None, share: Path) -> None:
        """Installs the card, the model server and, if there is one, the package."""
        Gpu.create(share / "card")
        (share / "testbed").mkdir()
        for name in (LIBRARY, WRAPPER):
            shutil.copy(folder() / name, share / "testbed")
        self.guest.run(
            f"cp /mnt/host/testbed/{LIBRARY} /usr/lib/x86_64-linux-gnu/"
            f" && cp /mnt/host/testbed/{WRAPPER} /usr/local/bin/"
            f" && ldconfig && cp /mnt/host/card {CARD} && chmod 666 {CARD}"
            # Every service of the machine sees the same card.
            f" && systemctl set-environment {FILE_VARIABLE}={CARD}"
            " && printf '#!/bin/sh\\nexec /mnt/llama/bin/llama-server \"$@\"\\n' >/usr/local/bin/llama-server"
            " && chmod 755 /usr/local/bin/llama-server",
            check=True,
        )
        if package is not None:
            self.guest.run(f"dpkg --install {in_guest(package)}", check=True, timeout=LOAD_TIMEOUT_S)

    def model(self, name: str, text: str) -> None:
        """Writes a model file and makes its unit."""
        self.guest.run(f"cat >/etc/aither/models.d/{name}.toml && systemctl daemon-reload", stdin=text, check=True)

    def vision(self) -> None:
        """The model of the story: the real server with the flags that it has on the real workstation."""
        flags = ["-m", f"/mnt/models/{models.CHAT}", "--mmproj", f"/mnt/models/{models.VISION}", "--no-mmproj-offload"]
        flags += ["-ngl", "99", "--ctx-size", "4096", "--alias", "qwen2.5-vl", "--jinja", "--threads", "1"]
        command = ["with-vram", "5.2GiB", "--", "llama-server", *flags]
        self.model("vision", VISION.format(command=json.dumps(command)))

    def stand_in(self, name: str, *options: str, kind: str = "on-demand", more: str = "") -> None:
        """A stand-in engine of a gibibyte of device memory (tests/testbed/stand_ins)."""
        program = in_guest(REPOSITORY / "tests" / "testbed" / "bin" / "engine")
        command = json.dumps([program, "--socket", "{socket}", "--vram", "1GiB", *options])
        self.model(name, ENGINE.format(name=name, kind=kind, command=command, more=more))

    def systemctl(self, *arguments: str, check: bool = True) -> CompletedProcess[str]:
        """Runs `systemctl`, which may wait for a model."""
        return self.guest.run(["systemctl", *arguments], check=check, timeout=LOAD_TIMEOUT_S)

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        shown = self.systemctl("show", f"--property={','.join(names)}", unit).stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def active(self, unit: str) -> str:
        """Whether a unit runs."""
        return self.systemctl("is-active", unit, check=False).stdout.strip()

    def call(self, method: str, *arguments: str, user: str | None = None) -> CompletedProcess[str]:
        """Calls a method of the manager; `arguments` begin with their signature."""
        command = f"busctl call --timeout=infinity {MANAGER} {method} {shlex.join(arguments)}"
        return self.guest.run(command, user=user, timeout=LOAD_TIMEOUT_S)

    def property(self, model: str, name: str) -> str:
        """A property of a model on the bus, as busctl prints it."""
        target = f"org.aitheros.Aither1 /org/aitheros/Aither1/model/{model} org.aitheros.Aither1.Model"
        return self.guest.run(f"busctl get-property {target} {name}", check=True).stdout.strip()

    def chat(self, model: str, *, user: str | None = None, tokens: int = FEW_TOKENS) -> tuple[int, str]:
        """Asks a model; HTTP status and body. Status 0: no answer at all."""
        body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "hi"}]}
        command = [*("curl", "--silent", "--unix-socket", SOCKET, "--write-out", "\n%{http_code}", "--data", "@-")]
        done = self.guest.run(
            [*command, "http://aither/v1/chat/completions"], user=user, stdin=json.dumps(body), timeout=LOAD_TIMEOUT_S
        )
        text, _, status = done.stdout.rpartition("\n")
        return int(status or 0), text

    def wait_until(self, script: str) -> None:
        """Waits until a script succeeds in the guest."""
        self.guest.wait_until(script, timeout=LOAD_TIMEOUT_S)

    def wait_for_manager_to_say(self, words: str) -> None:
        """Waits until this boot's journal has a line of the system's manager with `words`.

        By identifier and not by the fields of a unit: a line that finds the journal's socket full goes to the kernel's
        log instead, and comes to the journal from there without them.
        """
        self.wait_until(
            "journalctl --sync; journalctl --boot --identifier=systemd --no-pager --output=cat"
            f" | grep --fixed-strings -- {shlex.quote(words)}"
        )

    def keep(self, name: str, commands: Sequence[str]) -> str:
        """Runs commands as a person would, and keeps what they printed in build/transcripts."""
        text = ""
        for command in commands:
            done = self.guest.run(f"export SYSTEMD_COLORS=0 SYSTEMD_URLIFY=0 COLUMNS=120 PAGER=cat; {command}")
            text += f"$ {command}\n{done.stdout}{done.stderr}\n"
        TRANSCRIPTS.mkdir(parents=True, exist_ok=True)
        (TRANSCRIPTS / f"{name}.txt").write_text(text)
        return text


@contextmanager
def workstation(name: str, package: Path | None, suite: str = SUITE) -> Iterator[Workstation]:
    """Boots one, with `package` installed if one is given; what is left of it is in build/machine/NAME."""
    share = ARTEFACTS / name
    shutil.rmtree(share, ignore_errors=True)
    shares = {"/mnt/llama": llama.programs().parent, "/mnt/models": models.chat_model().parent}
    with machine(name, suite, shares=shares) as guest:
        made = Workstation(guest)
        made.prepare(package, share)
        yield made
