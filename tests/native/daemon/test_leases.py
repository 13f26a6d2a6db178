"""Outside programs claim device memory: the fleet makes room, keeps it free, and has it back when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import httpx
import pytest

from tests.native.daemon.conftest import GIB, ask, chat, engine
from tests.testbed.nvml import Gpu
from tests.testbed.rig import BUS_NAME, BUS_PATH, Rig

LEASE = (sys.executable, "-m", "aitherd.ctl", "--user", "lease")


def claim(rig: Rig, *arguments: str) -> subprocess.Popen[str]:
    """`aitherctl lease`, left running."""
    command = [*LEASE, *arguments]
    return rig.manager.popen(command)


def leases(rig: Rig) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rig.ctl_json("leases")
    return found


def granted(rig: Rig, count: int = 1) -> list[dict[str, Any]]:
    """The leases in force, once there are as many."""
    rig.wait_for(lambda: len([one for one in leases(rig) if not one["waiting"]]) == count, f"{count} leases")
    return leases(rig)


def messages(rig: Rig, event: str) -> list[str]:
    return [record["message"] for record in rig.records() if record["event"] == event]


def residency(rig: Rig, model: str) -> str:
    return str(rig.status(model)["residency"])


def test_a_lease_makes_the_idle_give_way_and_spares_essential_and_held(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    rig.model("orchestrator", engine("8 GiB", kind="essential"))
    for name in ("held", "idle"):
        rig.model(name, engine("8 GiB"))
    rig.reload()
    rig.ctl("hold", "held")
    rig.ctl("start", "idle")
    holder = claim(rig, "--vram", "12G", "--purpose", "a game", "--", "with-vram", "3GiB", "sleep", "1000")
    (lease,) = granted(rig)
    assert [residency(rig, name) for name in ("orchestrator", "held", "idle")] == ["ready", "ready", "absent"]
    assert (lease["bytes"], lease["device"], lease["purpose"]) == (12 * GIB, "gpu0", "a game")
    assert lease["pid"] == holder.pid
    gpu.card.wait(lambda card: card.processes.get(holder.pid) == 3 * GIB)
    # 31.3 GiB can be had: 16 are in use, 12 are promised, and of what is left the reserve takes half a GiB.
    rig.settings('[arbiter]\nwait = "1s"\n')
    rig.ctl("reload")
    refused = chat(http, "idle")
    assert refused.status_code == 503
    assert "a game keeps 9 GiB (leased, not used yet)" in refused.text and "a game keeps 3 GiB (leased)" in refused.text
    shown = " ".join(rig.ctl("devices").stdout.split())
    assert f"a game 3 GiB of 12 GiB, lease {lease['id']}, PID {holder.pid}" in shown and "foreign" not in shown
    assert f"lease {lease['id']}  a game uses 3 GiB of 12 GiB on gpu0" in rig.ctl("status").stdout
    holder.kill()
    rig.wait_for(lambda: leases(rig) == [], "the lease to end with its holder")
    assert chat(http, "idle").status_code == 200
    assert (
        f"lease {lease['id']} (a game) has ended: its holder ended or let go of it; 12 GiB on gpu0"
        in messages(rig, "ended")[0]
    )


def test_what_descendants_of_the_holder_use_is_not_counted_twice(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    rig.model("big", engine("20 GiB"))
    claim(rig, "--vram", "10G", "--", "sh", "-c", "with-vram 10GiB sleep 1000; exit")
    gpu.card.wait(lambda card: card.used == 10 * GIB)
    assert chat(http, "big").status_code == 200
    (lease,) = granted(rig)
    assert lease["used"] == 10 * GIB


def test_what_the_holder_uses_already_counts_for_its_lease(rig: Rig, gpu: Gpu) -> None:
    rig.model("idle", engine("12 GiB"))
    rig.ctl("start", "idle")
    # It becomes aitherctl with 10 GiB in its hands: 18 more are free, above the reserve.
    claim(rig, "--vram", "28G", "--", "true").wait()
    assert residency(rig, "idle") == "absent"
    rig.ctl("start", "idle")
    again = [
        "with-vram",
        "10GiB",
        sys.executable,
        "-m",
        "aitherd.ctl",
        "--user",
        "lease",
        "--vram",
        "18G",
        "sleep",
        "99",
    ]
    rig.manager.popen(again)
    granted(rig)
    assert residency(rig, "idle") == "ready"


def test_a_lease_ends_when_its_time_is_over(rig: Rig) -> None:
    ran = rig.ctl("lease", "--vram", "8G", "--for", "1s", check=False)
    assert ran.stdout.endswith(": 8 GiB on gpu0, until interrupted\n")
    assert (ran.returncode, ran.stderr.endswith("has ended; see aitherctl why\n")) == (1, True)
    assert leases(rig) == []
    assert "its time ran out" in messages(rig, "ended")[0] and "for 1 s" in messages(rig, "leased")[0]


def test_a_lease_is_released(rig: Rig) -> None:
    holder = claim(rig, "--vram", "8G")
    (lease,) = granted(rig)
    assert rig.ctl("leases", "--release", lease["id"]).stdout == "there is no lease\n"
    assert holder.wait(30) == 1
    again = rig.ctl("leases", "--release", lease["id"], check=False)
    assert again.returncode == 1 and "there is no lease" in again.stderr


def test_interrupting_a_lease_without_a_command_ends_it(rig: Rig) -> None:
    holder = claim(rig, "--vram", "8G")
    granted(rig)
    holder.send_signal(signal.SIGINT)
    assert holder.wait(30) == 130
    rig.wait_for(lambda: leases(rig) == [], "the lease to end")


def test_leases_survive_the_death_of_the_daemon(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    rig.model("big", engine("20 GiB"))
    rig.settings('[arbiter]\nwait = "1s"\n')
    keeps, dies = (claim(rig, "--vram", "8G", "--purpose", name, "sleep", "1000") for name in ("keeps", "dies"))
    before = granted(rig, 2)
    pid = rig.daemon_pid()
    os.kill(pid, signal.SIGKILL)
    dies.kill()
    dies.wait()
    rig.wait_for(lambda: rig.daemon_pid() not in (0, pid) and rig.running, "the daemon to come back")
    rig.wait_for(lambda: len(leases(rig)) == 1, "the lease of the dead to end")
    (kept,) = leases(rig)
    assert kept in before and kept["purpose"] == "keeps"
    assert chat(http, "big").status_code == 200
    rig.ctl("stop", "big")
    # It is a lease as before: nothing may take its bytes, and its holder's death ends it.
    rig.model("bigger", engine("24 GiB"))
    rig.reload()
    assert "keeps keeps 8 GiB (leased, not used yet)" in chat(http, "bigger").text
    keeps.kill()
    rig.wait_for(lambda: leases(rig) == [], "the lease to end with its holder")


def test_the_end_of_a_lease_counts_on_through_a_restart(rig: Rig) -> None:
    holder = claim(rig, "--vram", "8G", "--for", "4s", "sleep", "1000")
    (before,) = granted(rig)
    rig.manager.systemctl("restart", "aitherd.service")
    assert leases(rig) == [before]
    rig.wait_for(lambda: leases(rig) == [], "the end of its time")
    assert holder.poll() is None, "who holds a lease is never ended"


def test_a_lease_that_does_not_fit_beside_another_waits_for_its_end(rig: Rig) -> None:
    first = claim(rig, "--vram", "10G")
    granted(rig)
    second = claim(rig, "--vram", "10G")
    granted(rig, 2)
    claim(rig, "--vram", "20G", "--purpose", "third")
    rig.wait_for(lambda: len(leases(rig)) == 3 and leases(rig)[2]["stage"], "a third lease to wait")
    third = leases(rig)[2]
    assert third["waiting"] and "20 GiB on gpu0, where at most 10.8 GiB" in third["stage"]
    assert "(leased, not used yet)" in third["stage"]
    assert "third waits for 20 GiB on any device" in rig.ctl("status").stdout
    first.kill()
    rig.wait_for(lambda: [one["purpose"] for one in leases(rig) if not one["waiting"]][1:] == ["third"], "its grant")
    assert second.poll() is None


def test_a_lease_waits_for_what_is_busy_and_a_demand_that_is_withdrawn_evicts_nobody(
    rig: Rig, http: httpx.Client
) -> None:
    rig.model("vision", engine("20 GiB", "--token-seconds", "0.05"))
    rig.ctl("start", "vision")
    with http.stream("POST", "/v1/chat/completions", json=ask("vision", stream=True, tokens=1000)) as answer:
        lines = answer.iter_lines()
        next(lines)
        asker = claim(rig, "--vram", "20G", "true")
        rig.wait_for(lambda: leases(rig) and "vision keeps 20 GiB (busy)" in leases(rig)[0]["stage"], "a wait")
        asker.kill()
        rig.wait_for(lambda: leases(rig) == [], "the demand to be withdrawn")
        late = rig.ctl("lease", "--vram", "20G", "--timeout", "1", "true", check=False)
        assert late.returncode == 1 and "no answer in time" in late.stderr
        rig.wait_for(lambda: leases(rig) == [], "the second demand to be withdrawn")
    rig.wait_for(lambda: rig.status("vision")["in_flight"] == 0, "the request to end")
    assert residency(rig, "vision") == "ready"
    with http.stream("POST", "/v1/chat/completions", json=ask("vision", stream=True, tokens=40)) as answer:
        lines = answer.iter_lines()
        next(lines)
        waits = claim(rig, "--vram", "20G", "--", "sleep", "1000")
        rig.wait_for(lambda: leases(rig) and leases(rig)[0]["stage"], "a wait")
        assert "data: [DONE]" in list(lines)
    granted(rig)
    assert waits.poll() is None and residency(rig, "vision") == "absent"


def test_a_command_takes_the_place_of_aitherctl(rig: Rig) -> None:
    assert rig.ctl("lease", "--vram", "1G", "--", "sh", "-c", "exit 7", check=False).returncode == 7
    said = rig.ctl(
        "lease",
        "--vram",
        "1G",
        "--",
        "sh",
        "-c",
        "--",
        'echo "$AITHER_LEASE_DEVICE"; test -e /dev/fd/"$AITHER_LEASE_FD"',
    )
    assert said.stdout == "gpu0\n"
    missing = rig.ctl("lease", "--vram", "1G", "--", "no-such-program", check=False)
    assert missing.returncode == 127 and "cannot run no-such-program" in missing.stderr
    assert rig.ctl("lease", "--vram", "1G", "--", "/etc", check=False).returncode == 126
    rig.wait_for(lambda: leases(rig) == [], "all of them to end")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("40G",), "at most 11.3 GiB can ever be free, 28.7 GiB short: of 31.8 GiB, orchestrator keeps 20 GiB"),
        (("12G",), "674 MiB short: of 31.8 GiB, orchestrator keeps 20 GiB (essential)"),
        (("8000P",), "orchestrator keeps 20 GiB (essential)"),
        (("1G", "--device", "gpu7"), "there is no device 'gpu7' to lease; the devices are: gpu0"),
        (("1G", "--device", "host"), "there is no device 'host' to lease"),
        (("1G", "--for", "2000d"), "a lease cannot last"),
        (("0",), "is nothing to claim"),
        (("-1G",), "expected one argument"),
        (("much",), "not a size"),
        (("1G", "--for", "0"), "is over at once"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_sum_or_the_remedy(rig: Rig, arguments: tuple[str, ...], said: str) -> None:
    rig.model("orchestrator", engine("20 GiB", kind="essential"))
    rig.ctl("list")
    rig.wait_for(lambda: residency(rig, "orchestrator") == "ready", "the essential model")
    refused = rig.ctl("lease", "--vram", *arguments, check=False)
    assert refused.returncode in (1, 2) and said in refused.stderr
    assert leases(rig) == [] and residency(rig, "orchestrator") == "ready"


def test_nothing_is_leased_on_a_device_that_cannot_be_measured(rig: Rig, gpu: Gpu) -> None:
    from tests.testbed.nvml import NvmlError

    rig.ctl("list")
    gpu.card.error = NvmlError.GPU_IS_LOST
    refused = rig.ctl("lease", "--vram", "1G", "true", check=False)
    assert refused.returncode == 1 and "cannot be measured" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((str(40 * GIB), "", "", "0"), "at most 11.3 GiB can ever be free, 28.7 GiB short: of 31.8 GiB"),
        ((str(12 * GIB), "gpu0", "", "0"), "674 MiB short: of 31.8 GiB, orchestrator keeps 20 GiB (essential)"),
        ((str(2**64 - 1), "", "", "0"), "orchestrator keeps 20 GiB (essential)"),
        ((str(GIB), "gpu7", "", "0"), "there is no device 'gpu7' to lease; the devices are: gpu0"),
        ((str(GIB), "", "", str(2**32 - 1)), "a lease cannot last"),
        (("0", "", "", "0"), "a lease of 0 bytes is none"),
    ],
)  # fmt: skip
def test_over_the_bus_bad_input_is_refused_with_the_sum_or_the_remedy(
    rig: Rig, arguments: tuple[str, ...], said: str
) -> None:
    rig.model("orchestrator", engine("20 GiB", kind="essential"))
    rig.ctl("list")
    rig.wait_for(lambda: residency(rig, "orchestrator") == "ready", "the essential model")
    call = ["busctl", "--user", "call", BUS_NAME, BUS_PATH, f"{BUS_NAME}.Manager", "AcquireLease", "tssu"]
    refused = rig.manager.run([*call, *arguments], check=False)
    assert refused.returncode == 1 and said in refused.stderr
    assert leases(rig) == [] and residency(rig, "orchestrator") == "ready"


def test_over_the_bus_nothing_is_no_lease(rig: Rig) -> None:
    call = ["busctl", "--user", "call", BUS_NAME, BUS_PATH, f"{BUS_NAME}.Manager", "AcquireLease", "tssu"]
    refused = rig.manager.run([*call, "0", "", "", "0"], check=False)
    assert refused.returncode == 1 and "a lease of 0 bytes is none" in refused.stderr
    # busctl leaves the bus with the answer, and its descriptor with it.
    assert " gpu0" in rig.manager.run([*call, str(GIB), "gpu0", "", "0"]).stdout.replace('"', "")
    rig.wait_for(lambda: leases(rig) == [], "the lease to end")
    assert "(busctl) has 1 GiB" in messages(rig, "leased")[0], "it goes by the name of its process"
