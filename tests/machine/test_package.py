"""The package as a thing to install: what it puts where, what it starts, what it leaves; no model is run here."""

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.machine.conftest import REPOSITORY, TRANSCRIPTS, build_package, in_guest, keep_if_failed, machine
from tests.machine.vm import Guest

SNAPSHOT = """
find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /mnt -o -path /root -o -path /tmp -o -path /var/tmp \\
    -o -path /run/testbed -o -path /run/systemd -o -path /run/log -o -path /run/user -o -path /var/log \\) -prune \\
    -o -print | sort
"""
"""Every file that an installation might leave, one a line."""

SUITES = {"noble": ("3.12", "3.13"), "trixie": ("3.13", "3.14"), "forky": ("3.14", "3.15")}
"""Those that the package is built for, with the Python that each is bound to and the next one."""

UNITS = ("aitherd.service", "aitherd.socket", "aitherd-tcp.socket", "aither.slice")


@dataclass(frozen=True)
class Before:
    """What the machine was before the package came."""

    files: list[str]
    users: set[str]


def look(guest: Guest) -> Before:
    """The machine's files and users now."""
    users = guest.run("getent passwd | cut -d: -f1", check=True).stdout.split()
    return Before(guest.run(SNAPSHOT, check=True).stdout.splitlines(), set(users))


@pytest.fixture(scope="module")
def bare(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The machine of this file's tests."""
    with machine("package") as booted:
        yield booted
    keep_if_failed(request.node, "package")


@pytest.fixture(scope="module")
def before(bare: Guest) -> Before:
    """What `bare` was like."""
    return look(bare)


@pytest.fixture(scope="module")
def installed(bare: Guest, before: Before, package: Path) -> Guest:
    """The machine with the package installed and no model configured."""
    done = bare.run(f"dpkg --install {in_guest(package)}", check=True, timeout=180)
    assert "failed" not in (done.stdout + done.stderr).lower()
    return bare


def states(guest: Guest) -> dict[str, str]:
    """Unit to what it does now."""
    shown = guest.run(f"systemctl is-active {' '.join(UNITS)}").stdout.split()
    return dict(zip(UNITS, shown, strict=True))


def test_an_installation_opens_the_socket_and_starts_nothing(installed: Guest) -> None:
    assert states(installed) == {
        "aitherd.service": "inactive",
        "aitherd.socket": "active",
        "aitherd-tcp.socket": "inactive",
        "aither.slice": "inactive",
    }
    # The daemon is there at the next boot: essential models are its to start.
    enabled = installed.run("systemctl is-enabled aitherd.service aitherd.socket aitherd-tcp.socket").stdout.split()
    assert enabled == ["enabled", "enabled", "disabled"]
    assert installed.run("systemctl list-units --all --no-legend 'aither-*'").stdout == ""


def test_an_upgrade_while_nothing_runs_starts_nothing(installed: Guest, newer_package: Path) -> None:
    inode = "stat --format=%i /run/aither/aither.sock"
    socket = installed.run(inode, check=True).stdout
    installed.run(f"dpkg --install {in_guest(newer_package)}", check=True, timeout=180)
    assert states(installed)["aitherd.service"] == "inactive"
    assert installed.run(inode, check=True).stdout == socket
    assert installed.run("dpkg-query --show --showformat='${Version}' aitherd").stdout.startswith("1.0.1+")


def test_the_programs_run_on_their_own_packages_only(installed: Guest) -> None:
    # A hostile directory and environment: neither is looked at.
    installed.run(
        "mkdir -p /tmp/evil && for n in json aitherd sdbus; do echo 'raise SystemExit(66)' >/tmp/evil/$n.py; done"
    )
    evil = {"PYTHONPATH": "/tmp/evil", "PYTHONHOME": "/tmp/evil"}
    assert installed.run("cd /tmp/evil && /usr/lib/aitherd/aitherd --version", env=evil, check=True).stdout.strip()
    show = "import sys, aitherd, pydantic; print(sys.executable, aitherd.__file__, pydantic.__file__)"
    shown = installed.run(f"/usr/lib/aitherd/bin/python -IB -c '{show}'", check=True).stdout.split()
    assert all(path.startswith("/usr/lib/aitherd/") for path in shown)


def test_without_its_python_it_says_so_and_is_not_started_over_and_over(installed: Guest) -> None:
    python = installed.run("readlink -m /usr/lib/aitherd/bin/python", check=True).stdout.strip()
    said = f"it was installed for {python}, which is not there: install the aitherd package of this release"
    installed.run(f"mv {python} {python}.away", check=True)
    try:
        assert said in installed.run("/usr/lib/aitherd/aitherd --version").stderr
        assert said.removeprefix("it ") in installed.run("aitherctl list").stderr
        assert installed.run("systemctl start aitherd.service").returncode != 0
        assert installed.run("systemctl show --property=NRestarts aitherd.service").stdout == "NRestarts=0\n"
        assert installed.journal("-b", "-u", "aitherd.service").count(said) == 1
    finally:
        installed.run(f"mv {python}.away {python}; systemctl reset-failed aitherd.service", check=True)


def test_modules_are_compiled_by_the_installation_and_not_shipped(installed: Guest, package: Path) -> None:
    listed = subprocess.run(["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True).stdout
    assert ".pyc" not in listed
    find = "find /usr/lib/aitherd/lib -path '*/site-packages/aitherd/*' -name '{}' | wc -l"
    sources, compiled = (int(installed.run(find.format(kind)).stdout) for kind in ("*.py", "*.pyc"))
    assert sources == compiled > 20


def test_everything_belongs_to_root_and_nobody_else_writes(installed: Guest) -> None:
    # Documentation is left out of the machine's image.
    shown = installed.run(
        "dpkg --listfiles aitherd | grep -vE '^/usr/share/(doc|man)' | xargs -d '\\n' stat --format='%U:%G %A %n'",
        check=True,
    ).stdout
    private = re.compile(r"root:root (l.{9}|[-d]....-..-.) ")
    assert [line for line in shown.splitlines() if not private.match(line)] == []


def test_the_units_are_valid(installed: Guest) -> None:
    for scope, place in (("system", "system"), ("user", "user")):
        units = f"/usr/lib/systemd/{place}/aither*"
        done = installed.run(f"export XDG_RUNTIME_DIR=/run; systemd-analyze --{scope} verify --man=no {units}")
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_daemon_is_confined(installed: Guest) -> None:
    done = installed.run("systemd-analyze security --no-pager --threshold=18 aitherd.service")
    assert done.returncode == 0, done.stdout
    assert re.search(r"Overall exposure level for aitherd.service: (0|1)\.\d OK", done.stdout)


def test_model_units_follow_the_files_at_daemon_reload(installed: Guest) -> None:
    installed.run(
        "mkdir -p /run/aither/models.d /usr/lib/aither/models.d; cd /usr/lib/aither/models.d;"
        "echo 'description = \"Of the vendor\"' | tee embed.toml speech.toml >vision.toml;"
        "echo 'description = \"100 % mine\"' >/etc/aither/models.d/vision.toml;"
        "ln -s /dev/null /run/aither/models.d/speech.toml;"
        "touch '/etc/aither/models.d/Bad %n.toml'; systemctl daemon-reload",
        check=True,
    )
    listed = installed.run("systemctl list-unit-files --no-legend 'aither-*.service'").stdout.split("\n")
    assert [line.split()[0:2] for line in listed if line] == [
        ["aither-embed.service", "generated"],
        ["aither-vision.service", "generated"],
    ]
    shown = installed.run("systemctl show --property=Description,SourcePath aither-vision.service").stdout
    assert shown.splitlines() == ["Description=100 % mine", "SourcePath=/etc/aither/models.d/vision.toml"]
    assert "no unit for /etc/aither/models.d/Bad %n.toml" in installed.journal("-b", "-t", "aither-generator")
    installed.run(
        "rm -r /etc/aither/models.d/* /run/aither/models.d /usr/lib/aither; systemctl daemon-reload", check=True
    )


@pytest.mark.parametrize(
    ("unit", "granted"),
    [
        ("aither-vision.service", True),
        ("aither-vision-engine.service", True),
        ("aitherd.service", False),
        ("dbus.service", False),
        ("aither-.service", False),
        ("aither-x.socket", False),
        ("aither-../x.service", False),
    ],
)
def test_the_daemons_user_manages_units_of_its_own_names_only(installed: Guest, unit: str, granted: bool) -> None:
    used, unused = ("start", "stop", "kill", "reset-failed"), ("set-property", "freeze", "clean", "restart")
    answers = {
        verb: allowed(installed, "aither", "org.freedesktop.systemd1.manage-units", unit, verb)
        for verb in (*used, *unused)
    }
    assert answers == dict.fromkeys(used, granted) | dict.fromkeys(unused, False)


def allowed(guest: Guest, user: str, action: str, unit: str = "", verb: str = "") -> bool:
    """Whether polkit lets a process of `user` do `action` without a password, asked for it by root."""
    details = f"--detail unit {unit} --detail verb {verb}" if unit else ""
    ask = (
        f"setpriv --reuid={user} --regid={user} --init-groups sleep 60 & process=$!; "
        f'until [ "$(stat --format=%U /proc/$process)" = {user} ]; do sleep 0.01; done; '
        f"pkcheck --action-id {action} --process $process {details}; status=$?; kill $process; exit $status"
    )
    return guest.run(ask).returncode == 0


def test_members_of_the_group_say_which_models_run_and_others_are_asked(installed: Guest) -> None:
    def answers() -> list[str]:
        names = ("start", "stop", "lease", "reload", "manage")
        return [name for name in names if allowed(installed, "alice", f"org.aitheros.Aither1.{name}")]

    assert answers() == []
    installed.run("usermod --append --groups aither alice", check=True)
    assert answers() == ["start", "stop", "lease"]
    installed.run("gpasswd --delete alice aither", check=True)


def test_the_daemon_may_ask_polkit_about_others_and_ordinary_users_may_not(installed: Guest) -> None:
    ask = "pkcheck --action-id org.aitheros.Aither1.start --process 1"
    assert installed.run(ask, user="aither").returncode == 0
    assert "Only trusted callers" in installed.run(ask, user="alice").stderr


def test_only_the_daemons_user_gets_the_bus_name(installed: Guest) -> None:
    request = "busctl call org.freedesktop.DBus / org.freedesktop.DBus RequestName su org.aitheros.Aither1 0"
    assert installed.run(request, user="aither", check=True).stdout == "u 1\n"
    for user in (None, "alice"):
        refused = installed.run(request, user=user)
        assert refused.returncode != 0
        assert "Access denied" in refused.stderr


def test_only_the_group_reaches_the_socket(installed: Guest) -> None:
    assert installed.run("stat --format='%U:%G %a' /run/aither/aither.sock").stdout == "aither:aither 660\n"
    connect = "python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"/run/aither/aither.sock\")'"
    assert "PermissionError" in installed.run(connect, user="alice").stderr


@pytest.mark.parametrize("suite", SUITES)
def test_a_clone_gives_the_same_bytes_wherever_it_lies(suite: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "a longer way" / "there"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", REPOSITORY, here], check=True)
    first = build_package("1.0.0", tmp_path / "first", tree=here, suite=suite)
    there.parent.mkdir()
    here.rename(there)
    elsewhere = {"TZ": "Asia/Kathmandu", "LANG": "C", "HOME": "/nonexistent"}
    second = build_package("1.0.0", tmp_path / "second", tree=there, suite=suite, **elsewhere)
    hashes = [hashlib.sha256(built.read_bytes()).hexdigest() for built in (first, second)]
    command = ["lintian", *(["--allow-root"] if os.geteuid() == 0 else []), str(first)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    TRANSCRIPTS.mkdir(parents=True, exist_ok=True)
    (TRANSCRIPTS / f"package-{suite}.txt").write_text(
        f"{first.name}, built twice:\n"
        + "".join(f"{digest}\n" for digest in hashes)
        + f"lintian:\n{said or 'nothing'}\n"
    )
    assert hashes[0] == hashes[1]
    assert [line for line in said.splitlines() if line[:2] in ("E:", "W:")] == []
    # Bound to the suite's Python.
    field = subprocess.run(["dpkg-deb", "--field", first, "Depends"], capture_output=True, text=True, check=True).stdout
    low, high = SUITES[suite]
    assert f"python3 (>= {low}~), python3 (<< {high}~)" in field


def test_what_was_installed_goes_and_what_the_administrator_wrote_stays_until_the_purge(
    installed: Guest, before: Before
) -> None:
    written = "/etc/aither/models.d/vision.toml"
    installed.run(f"echo 'description = \"Looks\"' >{written} && systemctl daemon-reload", check=True)
    assert installed.run("systemctl cat aither-vision.service").returncode == 0
    installed.run("dpkg --remove aitherd", check=True, timeout=60)
    assert installed.run("systemctl cat aither-vision.service").returncode != 0
    assert installed.run(f"test -e {written}").returncode == 0
    assert installed.run("test -e /usr/lib/aitherd").returncode != 0
    assert states(installed)["aitherd.socket"] == "inactive"
    assert installed.run("systemctl --failed --no-legend").stdout == ""

    installed.run("dpkg --purge aitherd", check=True, timeout=60)
    after = look(installed)
    assert after.files == before.files
    # Files of theirs elsewhere must not become another user's.
    assert after.users - before.users == {"aither", "aither-engine"}
