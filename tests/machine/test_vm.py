"""The test bed itself: what the other tests of this directory rely on is really there."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.machine.conftest import ARTEFACTS, machine
from tests.machine.vm import Guest, GuestDied

HOG = "python3 -c 'hog = bytearray(200 << 20); print(len(hog))'"
"""Touches ten times the memory that the units of these tests may have."""


def test_the_system_is_up_and_nothing_failed(guest: Guest) -> None:
    state = guest.run("systemctl is-system-running")
    assert state.stdout.strip() == "running", guest.run("systemctl --failed --no-pager").stdout


def test_process_one_is_the_suites_system_manager(guest: Guest) -> None:
    assert guest.run("cat /proc/1/comm").stdout == "systemd\n"
    version = guest.run("systemctl --version").stdout.split()[1]
    assert int(version) >= 255


def test_cgroups_are_unified_with_the_controllers_that_limits_need(guest: Guest) -> None:
    assert guest.run("stat --file-system --format=%T /sys/fs/cgroup").stdout == "cgroup2fs\n"
    controllers = guest.run("cat /sys/fs/cgroup/cgroup.controllers").stdout.split()
    assert {"cpu", "io", "memory", "pids"} <= set(controllers)


def test_limits_set_on_a_transient_unit_reach_its_cgroup(guest: Guest) -> None:
    guest.run(
        "systemd-run --unit=limits -p MemoryHigh=64M -p CPUQuota=50% -p CPUWeight=50 -p TasksMax=20 sleep infinity",
        check=True,
    )
    read = "cd /sys/fs/cgroup/system.slice/limits.service && cat memory.high cpu.max cpu.weight pids.max"
    assert guest.run(read).stdout.splitlines() == [str(64 << 20), "50000 100000", "50", "20"]
    guest.run("systemctl stop limits", check=True)


def test_memory_max_kills_and_the_manager_says_so(guest: Guest) -> None:
    ran = guest.run(f"systemd-run --wait --unit=hog -p MemoryMax=20M -p MemorySwapMax=0 {HOG}")
    assert ran.returncode != 0
    assert "oom-kill" in ran.stderr
    assert "oom-kill" in guest.journal("-u", "hog")
    assert guest.run("systemctl show -p Result hog").stdout == "Result=oom-kill\n"
    guest.run("systemctl reset-failed hog", check=True)


def test_polkit_decides_over_the_system_bus(guest: Guest) -> None:
    stop = "systemctl --no-ask-password stop systemd-logind.service"
    refused = guest.run(stop, user="alice")
    assert refused.returncode != 0
    assert "authentication required" in (refused.stdout + refused.stderr).lower()
    # Plain functions: the interpreter in Debian's polkit has no arrow functions and drops a file that has one.
    rule = (
        "polkit.addRule(function (action, subject) { if (action.id == 'org.freedesktop.systemd1.manage-units' && "
        "subject.user == 'alice' && action.lookup('unit') == 'granted.service') return polkit.Result.YES; });"
    )
    guest.run("cat >/etc/polkit-1/rules.d/10-testbed.rules", stdin=rule, check=True)
    guest.run("systemd-run --unit=granted sleep infinity && systemctl restart polkit", check=True)
    guest.run("systemctl --no-ask-password stop granted.service", user="alice", check=True)
    assert guest.run(stop, user="alice").returncode != 0
    guest.run("rm /etc/polkit-1/rules.d/10-testbed.rules && systemctl restart polkit", check=True)


def test_a_call_activates_a_service_over_the_bus(guest: Guest) -> None:
    guest.run("systemctl stop systemd-hostnamed", check=True)
    name = "org.freedesktop.hostname1 /org/freedesktop/hostname1 org.freedesktop.hostname1 StaticHostname"
    assert guest.run(f"busctl get-property {name}").stdout == 's "testbed"\n'
    assert guest.run("systemctl is-active systemd-hostnamed").stdout == "active\n"


def test_the_journal_is_on_disk_and_structured(guest: Guest) -> None:
    guest.run("logger --tag testbed 'a line to find'", check=True)
    assert guest.journal("-t", "testbed", "-b") == "a line to find\n"
    assert guest.run("ls /var/log/journal/*/system.journal").returncode == 0


def test_an_ordinary_user_has_a_manager_and_a_bus_of_his_own(guest: Guest) -> None:
    guest.run("loginctl enable-linger alice", check=True)
    user = {"XDG_RUNTIME_DIR": "/run/user/1000", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1000/bus"}
    guest.run("until systemctl is-active user@1000.service; do sleep 0.05; done", check=True)
    ran = guest.run("systemd-run --user --wait --pipe id --user --name", user="alice", env=user)
    assert ran.stdout == "alice\n", ran.stderr
    guest.run("loginctl disable-linger alice", check=True)


def test_loopback_is_up_and_there_is_no_other_network(guest: Guest) -> None:
    assert "127.0.0.1/8" in guest.run("ip -brief address show dev lo").stdout
    others = guest.run("ip -json link show up").stdout
    assert [link["ifname"] for link in json.loads(others)] == ["lo"]


def test_output_and_status_arrive_apart_and_exactly(guest: Guest) -> None:
    done = guest.run("printf 'out\\n'; printf 'err\\n' >&2; cat; exit 7", stdin="typed")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\ntyped", "err\n")
    assert guest.run(["printf", "%s|", "a b", "$HOME"]).stdout == "a b|$HOME|"
    assert guest.run("kill -TERM $$").returncode == -15
    with pytest.raises(subprocess.CalledProcessError):
        guest.run("false", check=True)


def test_commands_run_side_by_side(guest: Guest) -> None:
    # Each waits for the other's file, so one after the other they would never end.
    scripts = [
        f"touch /tmp/side{mine}; until [ -e /tmp/side{other} ]; do sleep 0.01; done" for mine, other in ("ab", "ba")
    ]
    with ThreadPoolExecutor() as pool:
        assert [done.returncode for done in pool.map(guest.run, scripts)] == [0, 0]


def test_a_command_that_takes_too_long_is_killed(guest: Guest) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as expired:
        guest.run("echo begun; sleep 12345", timeout=2)
    assert expired.value.output == "begun\n"
    guest.run("while pgrep --full 'sleep 1234[5]'; do sleep 0.05; done", check=True)


def test_shares_are_mounted_and_only_the_guests_own_is_writable(guest: Guest) -> None:
    assert guest.run("test -e /mnt/repo/pyproject.toml").returncode == 0
    assert guest.run("touch /mnt/repo/never").returncode != 0
    guest.run("echo seen >/mnt/host/from-guest", check=True)
    assert (guest.spool.parents[1] / "from-guest").read_text() == "seen\n"


def test_a_reboot_keeps_the_disk_and_a_new_machine_does_not(fresh_guest: Guest, guest: Guest) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = fresh_guest.run(boot).stdout
    fresh_guest.run("echo kept >/etc/kept && touch /run/lost", check=True)
    assert guest.run("cat /etc/kept").returncode != 0
    fresh_guest.reboot()
    assert fresh_guest.run(boot).stdout != before
    assert fresh_guest.run("cat /etc/kept").stdout == "kept\n"
    assert fresh_guest.run("test -e /run/lost").returncode != 0


def test_one_script_leaves_status_output_and_journal_on_the_host() -> None:
    vm = machine("one-script")
    done = vm.run("logger --tag testbed journalled; echo written; exit 3")
    assert (done.returncode, done.stdout) == (3, "written\n")
    left = ARTEFACTS / "one-script" / "vm"
    assert (left / "status").read_text() == "3\n"
    assert "journalled" in (left / "journal.txt").read_text()
    lines = [json.loads(line) for line in (left / "journal.json").read_text().splitlines()]
    assert any(line["MESSAGE"] == "journalled" for line in lines)
    assert "Reached target multi-user.target" in (left / "console.log").read_text()


def test_a_machine_that_stops_by_itself_is_reported_with_its_last_words(fresh_guest: Guest) -> None:
    with pytest.raises(GuestDied, match="System halted"):
        fresh_guest.run("systemctl poweroff --force --force; sleep infinity")
