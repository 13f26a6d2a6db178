"""`kill -9` at every instant of a transition that has a name: the daemon comes back and nothing is lost.

What came back, and in how long, is written to `build/transcripts/failpoints.md`.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from aitherd.failpoints import VARIABLE, Point
from tests.native.daemon.conftest import GIB, chat, engine
from tests.native.daemon.test_disposable import invocation
from tests.testbed.nvml import Fault, Gpu
from tests.testbed.rig import REPOSITORY, Rig

TABLE = REPOSITORY / "build" / "transcripts" / "failpoints.md"
VLLM = (
    'engine = "vllm"\nclass = "on-demand"\nvram = "12 GiB"\nidle = "never"\n'
    'command = ["vllm", "serve", "m", "--enable-sleep-mode", "--x-weights", "8GiB", "--x-kv", "3GiB", '
    '"--x-context", "1GiB", "--x-load-seconds", "5"{more}]\n'
)
"""So slow to load that it is put to sleep rather than stopped."""
COMFYUI = (
    'engine = "comfyui"\nclass = "on-demand"\nvram = "12 GiB"\nidle = "never"\n'
    'command = ["comfyui", "--weights", "12GiB", "--context", "400MiB", "--warm"]\n'
)
SUBJECT = engine("12 GiB")
LARGE = engine("20 GiB")
"""Stands beside `steady`, and not beside the subject."""


@dataclass(frozen=True)
class Case:
    """How the daemon gets to a point. The subject of the transition is the model `subject`."""

    trigger: Callable[[Rig, Gpu], object]
    """What makes it happen; it may fail when the daemon goes."""
    model: str = SUBJECT
    before: Callable[[Rig, Gpu], object] = lambda rig, gpu: None
    """What has been done by then."""
    residency: frozenset[str] = frozenset({"absent", "ready"})
    """Where the subject may stand once the daemon is back and the transition is over."""
    lost: int = 0
    """Device bytes that did not come back, and still belong to nobody afterwards."""


def start(rig: Rig, gpu: Gpu) -> None:
    rig.ctl("start", "subject", check=False)


def stop(rig: Rig, gpu: Gpu) -> None:
    rig.ctl("stop", "subject", check=False)


def squeeze(rig: Rig, gpu: Gpu) -> None:
    """Somebody wants a model that has no room beside the subject."""
    rig.ctl("start", "large", check=False)


def asleep(rig: Rig, gpu: Gpu) -> None:
    start(rig, gpu)
    squeeze(rig, gpu)
    rig.wait_for(lambda: rig.status("subject")["residency"] == "sleeping", "the subject to sleep")
    rig.ctl("stop", "large")


def leaky(rig: Rig, gpu: Gpu) -> None:
    start(rig, gpu)
    gpu.card.faults = Fault.LEAK


def cancelled_stop(rig: Rig, gpu: Gpu) -> None:
    """Stops, and has systemd's job for that cancelled: systemd does not do it."""
    stopping = threading.Thread(target=stop, args=(rig, gpu))
    stopping.start()
    unit = "aither-subject-engine.service"
    rig.wait_for(lambda: rig.manager.show(unit, "Job").get("Job", "0") not in ("", "0"), "the stop job")
    rig.manager.systemctl("cancel", rig.manager.show(unit, "Job")["Job"])
    stopping.join()


def crash(rig: Rig, gpu: Gpu) -> None:
    rig.manager.systemctl("kill", "--signal=KILL", "aither-subject-engine.service")


def hold(rig: Rig, gpu: Gpu) -> None:
    rig.ctl("hold", "subject", check=False)


def lease(rig: Rig, gpu: Gpu) -> None:
    rig.ctl("lease", "--vram", "4G", "--", "true", check=False)


def restart(rig: Rig, gpu: Gpu) -> None:
    with suppress(subprocess.CalledProcessError):
        rig.manager.systemctl("restart", "aitherd.service")


DOWN = frozenset({"absent"})
UP = frozenset({"ready"})
ANY = frozenset({"absent", "ready", "sleeping", "failed"})
SLEEPER = VLLM.format(more="")
BAD_SLEEPER = VLLM.format(more=', "--x-sleep-keeps", "11GiB"')
CASES = {
    Point.START_BOOKED: Case(start),
    Point.START_RUNS: Case(start, residency=UP),
    Point.START_LOADING: Case(start, residency=UP),
    Point.START_ANSWERS: Case(start, residency=UP),
    Point.START_READY: Case(start, residency=UP),
    Point.WAKE_BOOKED: Case(start, SLEEPER, asleep, frozenset({"sleeping"})),
    Point.WAKE_ASKED: Case(start, SLEEPER, asleep, UP),
    Point.FREE_ASKED: Case(squeeze, COMFYUI, start, UP),
    Point.SLEEP_BOOKED: Case(squeeze, SLEEPER, start, UP),
    Point.SLEEP_ASKED: Case(squeeze, SLEEPER, start, frozenset({"sleeping"})),
    Point.SLEEP_ASLEEP: Case(squeeze, SLEEPER, start, frozenset({"sleeping"})),
    Point.ESCALATION: Case(squeeze, BAD_SLEEPER, start, ANY),
    Point.STOP_BOOKED: Case(stop, before=start, residency=UP),
    Point.STOP_DRAINED: Case(stop, before=start, residency=UP),
    Point.STOP_ENDED: Case(stop, before=start, residency=DOWN),
    Point.STOP_DOWN: Case(stop, before=start, residency=DOWN),
    Point.KILL_DUE: Case(
        cancelled_stop,
        engine("12 GiB", "--fault", "ignores-term", more='stop-timeout = "5s"'),
        start,
        residency=ANY,
    ),
    Point.QUARANTINE_DUE: Case(stop, before=leaky, residency=frozenset({"absent", "quarantined"}), lost=12 * GIB),
    Point.QUARANTINED: Case(stop, before=leaky, residency=frozenset({"quarantined"}), lost=12 * GIB),
    Point.DEATH_SEEN: Case(crash, before=start, residency=DOWN),
    Point.HOLD_BOOKED: Case(hold, residency=UP),
    Point.HOLD_SAVED: Case(hold, residency=UP),
    Point.LEASE_DECIDED: Case(lease, before=start, residency=UP),
    Point.LEASE_SAVED: Case(lease, before=start, residency=UP),
    Point.LEASE_KEPT: Case(lease, before=start, residency=UP),
    Point.SAVE_WRITTEN: Case(hold),
    Point.SAVE_REPLACED: Case(hold),
    Point.ADOPTION_BEGUN: Case(restart, before=start, residency=UP),
    Point.ADOPTION_DONE: Case(restart, before=start, residency=UP),
}


@pytest.fixture(scope="module")
def rows() -> Iterator[list[tuple[str, ...]]]:
    """The table of this run; written when it is complete."""
    found: list[tuple[str, ...]] = []
    yield found
    if {row[0] for row in found} >= set(CASES):
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        head = ("killed at", "which is", "the model of the transition came back as", "the daemon serves again after")
        lines = [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *found)]
        TABLE.write_text("# kill -9 at every step of a transition\n\n" + "\n".join(lines) + "\n")


def test_every_point_has_a_case() -> None:
    assert set(CASES) == set(Point)


@pytest.mark.parametrize("point", CASES)
def test_the_daemon_comes_back_from_a_kill(
    point: Point, start_rig: Callable[..., Rig], gpu: Gpu, tmp_path: Path, rows: list[tuple[str, ...]]
) -> None:
    case = CASES[point]
    armed = tmp_path / "failpoints"
    armed.mkdir()
    rig = start_rig(environment={VARIABLE: str(armed)})
    rig.model("steady", engine("4 GiB"))
    rig.model("subject", case.model)
    rig.model("large", LARGE)
    rig.reload()
    rig.ctl("hold", "steady")
    case.before(rig, gpu)
    before, daemon = invocation(rig, "steady"), rig.daemon_pid()
    subject = invocation(rig, "subject")

    (armed / point).touch()
    trigger = threading.Thread(target=case.trigger, args=(rig, gpu))
    trigger.start()
    rig.wait_for(lambda: not (armed / point).exists(), "the daemon to get there")
    killed = time.monotonic()
    # A connection made while it is away waits on the socket, which systemd holds.
    with rig.http() as client:
        served = chat(client, "steady")
        seconds = time.monotonic() - killed
        assert served.status_code == 200 and served.headers["x-aither-reason"] == "ready"
    trigger.join()
    assert rig.daemon_pid() not in (0, daemon)
    assert "code=killed, status=9/KILL" in rig.manager.journal("--user-unit=aitherd.service")

    assert invocation(rig, "steady") == before
    assert rig.status("steady")["held"] is True
    rig.wait_for(
        lambda: rig.manager.show("aither-steady.service", "ActiveState")["ActiveState"] == "active", "the held unit"
    )
    rig.wait_for(lambda: rig.status("subject")["residency"] in case.residency, f"the subject as {case.residency}")
    came_back = rig.status("subject")
    if subject and came_back["residency"] in ("ready", "sleeping"):
        assert invocation(rig, "subject") == subject, "it was adopted, and not started anew"
    rig.wait_for(lambda: ledger(rig) == (gpu.card.used - case.lost, gpu.card.free), "the ledger to equal NVML")
    assert gpu.card.lingering == case.lost
    assert rig.ctl_json("leases") == []
    gpu.card.faults = Fault.NONE
    if came_back["residency"] == "quarantined":
        gpu.card.give_back()
        rig.wait_for(lambda: rig.status("subject")["residency"] == "absent", "the bytes to be seen to return")
    with rig.http() as client:
        rig.wait_for(lambda: chat_or_generate(client, rig), "the subject to serve")
    assert list(armed.iterdir()) == []
    how = f"{came_back['residency']}{', held' if came_back['held'] else ''}"
    rows.append((point, " ".join(description(point).split()), how, f"{seconds:.2f} s"))


def ledger(rig: Rig) -> tuple[int, int]:
    """Bytes that the daemon attributes to models, and bytes that it holds to be free."""
    held = sum(sum(rig.status(name)["measured_bytes"].values()) for name in ("steady", "subject", "large"))
    (card,) = [device for device in rig.ctl_json("devices") if device["id"] == "gpu0"]
    return held, card["free"]


def chat_or_generate(client: httpx.Client, rig: Rig) -> bool:
    """Whether the subject answers; ComfyUI, which does not chat, by being brought in."""
    if rig.status("subject")["engine"] == "comfyui":
        return client.post("/swap/request-subject").status_code == 200
    return chat(client, "subject").status_code == 200


def description(point: Point) -> str:
    """What failpoints.py says about a point."""
    text = (REPOSITORY / "aitherd" / "failpoints.py").read_text()
    return text.split(f'= "{point}"\n', 1)[1].split('"""', 2)[1]
