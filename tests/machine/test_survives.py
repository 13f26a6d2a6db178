"""What befalls the machine under the installed daemon: models run on, and the kernel protects what it was told to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.conftest import keep_if_failed
from tests.machine.workstation import Workstation, workstation

SLICE = "/sys/fs/cgroup/aither.slice"
MODELS = ("essential", "used")
KEPT = "InvocationID,MainPID,DevicePolicy,DeviceAllow"


@pytest.fixture(scope="module")
def station(package: object, request: pytest.FixtureRequest) -> Iterator[Workstation]:
    """A machine with an essential model, whose memory is protected, and one that was used; both are up."""
    with workstation("survives", request.getfixturevalue("package")) as made:
        made.stand_in("essential", kind="essential", more='[resources]\nMemoryMin = "96M"\nMemoryMax = "256M"')
        made.stand_in("used", more='[resources]\nMemoryMax = "256M"')
        made.systemctl("start", "aitherd.service")
        made.wait_until("systemctl is-active aither-essential.service")
        assert made.chat("used")[0] == 200
        yield made
    keep_if_failed(request.node, "survives")


def engines(station: Workstation) -> dict[str, list[str]]:
    """What must stay as it is; DeviceAllow is a line a device, in any order."""
    shown = {name: station.systemctl("show", f"--property={KEPT}", f"aither-{name}-engine.service") for name in MODELS}
    return {name: sorted(done.stdout.splitlines()) for name, done in shown.items()}


def answer(station: Workstation) -> list[int]:
    return [station.chat(name)[0] for name in MODELS]


def test_the_slice_has_a_budget_and_protects_what_its_essential_model_asks_for(station: Workstation) -> None:
    total = int(station.guest.run("awk '/^MemTotal/ {print $2 * 1024}' /proc/meminfo", check=True).stdout)
    high, limit = (int(station.guest.run(f"cat {SLICE}/memory.{name}", check=True).stdout) for name in ("high", "max"))
    assert 0.75 * total < high < limit < 0.95 * total
    # A group is protected only as far as those above it are: the slice has to ask as well.
    station.wait_until(f"grep -x {96 << 20} {SLICE}/memory.min")
    assert station.guest.run(f"cat {SLICE}/aither-essential-engine.service/memory.min").stdout == f"{96 << 20}\n"
    assert station.guest.run(f"cat {SLICE}/aither-used-engine.service/memory.min").stdout == "0\n"


@pytest.mark.parametrize("verb", ["daemon-reload", "daemon-reexec"])
def test_the_manager_is_told_to_read_everything_again_and_engines_keep_their_devices(
    station: Workstation, verb: str
) -> None:
    before = engines(station)
    assert all({"DevicePolicy=closed", "DeviceAllow=char-nvidia* rw"} <= set(kept) for kept in before.values())
    daemon = station.show("aitherd.service", "InvocationID")
    station.systemctl(verb)
    assert engines(station) == before
    assert station.show("aitherd.service", "InvocationID") == daemon
    assert answer(station) == [200, 200]


def test_a_clock_that_jumps_stops_nothing_and_ends_no_lease(station: Workstation) -> None:
    before = engines(station)
    lease = station.guest.start("aitherctl lease --vram 1G --purpose jump --for 1h -- sleep 1000")
    station.wait_until("aitherctl --json leases | grep -E 'waiting.: ?false'")
    try:
        for jump in ("+2 days", "-4 days", "+2 days"):
            station.guest.run(f"date --set '{jump}'", check=True)
            assert answer(station) == [200, 200]
        assert engines(station) == before
        assert "jump" in station.guest.run("aitherctl --json leases", check=True).stdout
    finally:
        lease.kill()


def test_a_full_disk_costs_no_request_and_no_model(station: Workstation) -> None:
    before = engines(station)
    station.systemctl("stop", "aitherd.service")
    station.guest.run("mount -t tmpfs -o size=4k,uid=aither,gid=aither,mode=0750 none /var/lib/aither", check=True)
    try:
        station.guest.run("head -c 4096 /dev/zero >/var/lib/aither/full", check=True)
        station.systemctl("start", "aitherd.service")
        assert answer(station) == [200, 200]
        station.call("Hold", "s", "used")
        station.wait_until("journalctl -b -u aitherd --grep 'No space left on device; holds would not survive'")
        assert engines(station) == before
    finally:
        station.systemctl("stop", "aitherd.service")
        station.guest.run("umount /var/lib/aither", check=True)
        station.systemctl("start", "aitherd.service")
    assert answer(station) == [200, 200]
    assert engines(station) == before
