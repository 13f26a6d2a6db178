"""What the sandboxes are worth: tried from inside by an engine that turns hostile, and searched for secrets outside."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.conftest import REPOSITORY, in_guest, keep_if_failed
from tests.machine.workstation import SOCKET, Workstation, workstation

CANARY = "sk-canary-7f3a9c51e2"
ELSEWHERE = "192.0.2.7"
"""An address of this machine that is not loopback: a filter on addresses takes it for the network. (RFC 5737)"""

HOSTILE = f"""#!/bin/bash
# An engine that first tries what it should not be able to do, and then serves like any other.
try() {{
    if eval "$2" >/dev/null 2>&1; then echo "tried $1: done"; else echo "tried $1: refused"; fi
}}
other=/var/cache/aither-engine/small
try "write to its own cache" 'echo x >"$HOME/own"'
try "write to a temporary file" 'echo x >/tmp/of-the-engine'
try "reach loopback" 'curl --silent --max-time 20 http://127.0.0.1:8099/'
try "reach the network" 'curl --silent --max-time 20 http://{ELSEWHERE}:8099/'
try "write to another engine's cache" 'test -d $other && echo x >$other/poison'
try "write to the system" 'echo x >/etc/poison || echo x >/usr/poison || echo x >/var/lib/poison'
try "write to a home directory" 'echo x >/home/alice/poison'
try "read the daemon's state" 'cat /var/lib/aither/state.json || ls /var/lib/aither'
try "read the daemon's credentials" 'cat /run/credentials/aitherd.service/cloud-key'
try "read the daemon's environment" 'cat /proc/$(cat /run/daemon-pid)/environ'
try "see the daemon" 'test -e /proc/$(cat /run/daemon-pid)'
try "read a disk" 'head -c 512 /dev/ubda'
try "write to the kernel's log" 'echo x >/dev/kmsg'
try "gain privileges" 'test "$(/usr/local/bin/suid-id)" = 0'
try "make a user namespace" 'unshare --user --map-root-user true'
try "dump core" 'test "$(ulimit -c)" != 0'
try "stop another unit" 'systemctl --no-ask-password stop aither-small-engine.service'
try "stop a model over the bus" \
    'busctl call org.aitheros.Aither1 /org/aitheros/Aither1 org.aitheros.Aither1.Manager Stop s small'
exec "$@"
"""

ALLOWED = {"write to its own cache", "write to a temporary file", "reach loopback"}


@pytest.fixture(scope="module")
def station(package: Path, request: pytest.FixtureRequest) -> Iterator[Workstation]:
    """A machine with an engine that is well behaved, one that is not, and one that may download."""
    with workstation("hardening", package) as station:
        guest = station.guest
        guest.run(
            f"ip address add {ELSEWHERE}/32 dev lo"
            " && mkdir /srv/web && echo page >/srv/web/index.html"
            " && systemd-run --quiet --unit=web python3 -m http.server --directory /srv/web 8099"
            " && cp /usr/bin/id /usr/local/bin/suid-id.real && chmod 4755 /usr/local/bin/suid-id.real"
            " && printf '#!/bin/sh\\nexec /usr/local/bin/suid-id.real -u\\n' >/usr/local/bin/suid-id"
            " && chmod 755 /usr/local/bin/suid-id",
            check=True,
        )
        guest.run("cat >/usr/local/bin/hostile && chmod 755 /usr/local/bin/hostile", stdin=HOSTILE, check=True)
        guest.wait_until("curl --silent --fail http://127.0.0.1:8099/")
        guest.run(
            "mkdir -p /etc/systemd/system/aitherd.service.d && umask 077 && cat >/etc/credstore-canary"
            " && printf '[Service]\\nLoadCredential=cloud-key:/etc/credstore-canary\\n'"
            " >/etc/systemd/system/aitherd.service.d/key.conf"
            " && systemctl daemon-reload",
            stdin=CANARY,
            check=True,
        )
        station.stand_in("small")
        for name, more in (("hostile", ""), ("fetcher", "download = true\n")):
            program = in_guest(REPOSITORY / "tests" / "testbed" / "bin" / "engine")
            words = ["hostile", program, "--socket", "{socket}", "--vram", "1GiB"]
            station.model(name, f'engine = "exec"\nvram = "1 GiB"\ncommand = {json.dumps(words)}\n{more}')
        yield station
    keep_if_failed(request.node, "hardening")


@pytest.fixture(scope="module")
def tried(station: Workstation) -> dict[str, dict[str, bool]]:
    """Model to what its engine tried, and whether it could."""
    station.systemctl("start", "aither-small.service")
    station.guest.run("systemctl show --property=MainPID --value aitherd >/run/daemon-pid", check=True)
    found = {}
    for name in ("hostile", "fetcher"):
        station.systemctl("start", f"aither-{name}.service")
        said = station.guest.journal("-b", "-t", f"aither-{name}")
        found[name] = {
            match[1]: match[2] == "done" for match in re.finditer(r"^tried (.*): (done|refused)$", said, re.MULTILINE)
        }
    return found


def test_a_hostile_engine_gets_nowhere(station: Workstation, tried: dict[str, dict[str, bool]]) -> None:
    assert len(tried["hostile"]) == HOSTILE.count("\ntry ")
    assert {what for what, done in tried["hostile"].items() if done} == ALLOWED
    # What it wrote to /tmp was its own /tmp.
    assert station.guest.run("ls /tmp/of-the-engine").returncode != 0
    assert station.active("aither-small-engine.service") == "active"


def test_an_engine_that_may_download_reaches_the_network_and_nothing_else(tried: dict[str, dict[str, bool]]) -> None:
    assert {what for what, done in tried["fetcher"].items() if done} == ALLOWED | {"reach the network"}


def test_the_units_expose_little(station: Workstation, tried: dict[str, dict[str, bool]]) -> None:
    for unit, most in (("aitherd.service", 18), ("aither-small-engine.service", 40)):
        done = station.guest.run(f"systemd-analyze security --no-pager --threshold={most} {unit}")
        assert done.returncode == 0, done.stdout
    station.keep(
        "hardening",
        [
            "systemd-analyze security --no-pager aitherd.service",
            "systemd-analyze security --no-pager aither-small-engine.service",
            "journalctl --no-pager --output=cat -b -t aither-hostile",
        ],
    )


def test_a_secret_is_in_no_place_that_anybody_can_read(station: Workstation) -> None:
    settings = (
        '[upstreams.cloud]\nkind = "lan"\nurl = "http://127.0.0.1:8099/v1"\nkey = "cloud-key"\n'
        '[tiers.deep]\nroutes = ["small", "cloud/gpt-x"]\nleave = "lan"\n'
        '[tiers.far]\nroutes = ["cloud/gpt-x"]\nleave = "lan"\n'
        '[log]\nlevel = "debug"\n'
    )
    guest = station.guest
    guest.run("cat >/etc/aither/aitherd.toml && systemctl restart aitherd.service", stdin=settings, check=True)
    # The key is used: an upstream that has it refuses it, and the refusal is passed on.
    status, body = station.chat("far")
    assert status >= 400, body
    station.chat("deep")
    daemon = station.show("aitherd.service", "MainPID")["MainPID"]
    ask = f"curl --silent --include --unix-socket {SOCKET} http://aither"
    places = {
        "unit properties": "systemctl show --all '*'",
        "unit files": "systemctl cat 'aither*'",
        "command lines": "cat /proc/[0-9]*/cmdline | tr '\\0' ' '",
        "environments": f"cat /proc/{daemon}/environ /proc/$(pgrep -o -P {daemon})/environ | tr '\\0' '\\n'",
        "environments of engines": "for p in $(pgrep -u aither-engine); do tr '\\0' '\\n' </proc/$p/environ; done",
        "journal": "journalctl --no-pager --all --output=verbose",
        "answers": f"for p in / /health /metrics /v1/models /running /none; do {ask}$p; done",
        "errors": f"echo {shlex.quote(body)}",
        "objects": "busctl call --json=short org.aitheros.Aither1 /org/aitheros/Aither1"
        " org.freedesktop.DBus.ObjectManager GetManagedObjects",
        "history": "busctl call --json=short org.aitheros.Aither1 /org/aitheros/Aither1"
        " org.aitheros.Aither1.Manager History su '' 0",
        "state": "cat /var/lib/aither/*",
        "commands": "aitherctl list; aitherctl check-config; aitherctl why; aitherctl --json check-config",
    }
    for place, command in places.items():
        shown = guest.run(command, timeout=180).stdout
        assert len(shown) > 20 or place == "errors", f"nothing was shown of {place}: {shown}"
        assert CANARY not in shown, place
    # Nor does it end in a file when the daemon crashes.
    assert station.show("aitherd.service", "LimitCORE", "LimitCORESoft") == {"LimitCORE": "0", "LimitCORESoft": "0"}
    guest.run("mkdir -m 1777 /var/crash && echo /var/crash/core.%p >/proc/sys/kernel/core_pattern", check=True)
    # The test of the test: without the limit there is a core.
    guest.run("ulimit -c unlimited; sh -c 'kill -SEGV $$'; ls /var/crash/core.*", check=True)
    guest.run("rm /var/crash/core.*", check=True)
    station.systemctl("kill", "--signal=SEGV", "--kill-whom=main", "aitherd.service")
    station.wait_until(
        f'[ "$(systemctl show --property=MainPID --value aitherd)" -gt 0 ]'
        f' && [ "$(systemctl show --property=MainPID --value aitherd)" != {daemon} ]'
    )
    assert guest.run("ls /var/crash").stdout == ""
    assert CANARY in guest.run("cat /run/credentials/aitherd.service/cloud-key").stdout
