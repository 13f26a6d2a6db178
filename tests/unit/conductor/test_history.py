"""The history: what it keeps, for how long, and in what little room; and the file behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aitherd.conductor.chronicle import Chronicle
from aitherd.conductor.history import KEPT, MOST, SHOWN, SLOT, Entry, History, Kind, owners
from aitherd.conductor.records import Event, Records
from aitherd.core.ledger import Accounts
from aitherd.core.words import HOST, Claim, DeviceView, Residency

GIB = 1 << 30
NOON = 1_800_000_000.0


class Wall:
    """A clock that a test moves."""

    now = NOON

    def __call__(self) -> float:
        return self.now


class Seat:
    """As much of a book as the history looks at."""

    def __init__(self, name: str, residency: Residency = Residency.ABSENT, level: int = 0) -> None:
        self.name, self.residency, self.level = name, residency, level


def accounts(measured: Mapping[str, int], *foreign: Claim, rest: int = 0, fresh: bool = True) -> Accounts:
    used = sum(measured.values()) + sum(claim.bytes for claim in foreign) + rest
    view = DeviceView("gpu0", "GPU", 32 * GIB, 32 * GIB - used, 0, foreign, fresh=fresh)
    return Accounts({"gpu0": view}, {model: {"gpu0": count} for model, count in measured.items()}, {}, {"gpu0": rest})


class Stage:
    """A history that follows a fleet of a test's making."""

    def __init__(self, *names: str) -> None:
        self.clock = Wall()
        self.records = Records(self.clock)
        self.seats = {name: Seat(name) for name in names}
        self.accounts = accounts({})
        self.history = History(self.clock, began="1.0")
        self.tell = self.history.follow(self.seats, lambda: self.accounts, self.records)  # type: ignore[arg-type]

    def move(self, name: str, residency: Residency, level: int = 0, after: float = 1.0) -> None:
        self.clock.now += after
        self.seats[name].residency, self.seats[name].level = residency, level
        self.tell(name)

    def past(self, hours: float = 24.0) -> Any:
        return json.loads(json.dumps(self.history.since(self.clock.now - hours * 3600)))


def test_residency_is_kept_when_it_changes_and_only_then() -> None:
    stage = Stage("vision")
    stage.move("vision", Residency.STARTING)
    for _ in range(5):
        stage.tell("vision")
    stage.move("vision", Residency.READY)
    stage.move("vision", Residency.SLEEPING, 1)
    stage.move("vision", Residency.SLEEPING, 2)
    states = [entry[1:] for entry in stage.past()["residency"]["vision"]]
    assert states == [["absent", 0], ["starting", 0], ["ready", 0], ["sleeping", 1], ["sleeping", 2]]


def test_what_is_asked_for_begins_with_what_held_then() -> None:
    stage = Stage("vision")
    stage.move("vision", Residency.READY)
    stage.move("vision", Residency.ABSENT, after=7200)
    assert [entry[1] for entry in stage.past(hours=1)["residency"]["vision"]] == ["ready", "absent"]


def test_device_bytes_are_kept_by_owner_once_a_slot() -> None:
    stage = Stage()
    stage.clock.now = NOON
    for count in (1, 2, 3):
        stage.accounts = accounts({"vision": count * GIB}, Claim("game", 7, "gpu0", GIB), rest=GIB // 2)
        stage.tell("")
    stage.clock.now += SLOT
    stage.accounts = accounts({}, Claim("blender", 9, "gpu0", GIB, holder=9))
    stage.tell("")
    assert [held for _, held in stage.past()["bytes"]["gpu0"]] == [
        {"vision": 3 * GIB, "process:game": GIB, "unattributed": GIB // 2},
        {"lease:blender": GIB},
    ]


def test_of_a_device_that_is_not_measured_nothing_is_kept() -> None:
    stage = Stage()
    before = stage.past()["bytes"]
    stage.accounts = accounts({"vision": GIB}, fresh=False)
    stage.tell("")
    assert stage.past()["bytes"] == before


def test_host_memory_is_used_by_nobody_in_particular() -> None:
    found = Accounts({HOST: DeviceView(HOST, "host memory", 8 * GIB, 5 * GIB, 0)}, {}, {}, {})
    assert dict(owners(found, HOST)) == {"unattributed": 3 * GIB}


def test_waits_are_summed_over_a_slot() -> None:
    stage = Stage()
    for seconds in (1.0, 4.0, 2.0):
        stage.history.waited("vision", seconds)
    stage.clock.now += SLOT
    stage.history.waited("vision", 0.5)
    assert [entry[1:] for entry in stage.past()["waits"]["vision"]] == [[3, 7.0, 4.0], [1, 0.5, 0.5]]


def test_records_are_kept_with_their_reasons_in_order() -> None:
    stage = Stage("a")
    stage.records.add(Event.PLAN, "start a: there is room", model="a")
    stage.clock.now += 1
    stage.records.add(Event.CONFIGURATION, "configuration read")
    stage.clock.now += 1
    stage.records.add(Event.READY, "a answers", model="a")
    rows = [row[1:] for row in stage.past()["records"]]
    assert rows == [
        ["plan", "a", "start a: there is room"],
        ["configuration", "", "configuration read"],
        ["ready", "a", "a answers"],
    ]


def test_nothing_is_kept_for_ever() -> None:
    stage = Stage("vision")
    for turn in range(MOST * 3):
        stage.move("vision", Residency.READY if turn % 2 else Residency.STARTING, after=SLOT)
        stage.accounts = accounts({"vision": turn + 1})
        stage.tell("")
        stage.history.waited("vision", 1.0)
        stage.records.add(Event.READY, "again", model="vision")
    kept = stage.history._series
    assert all(len(series) <= MOST for series in kept.values())
    past = stage.past()
    assert len(past["bytes"]["gpu0"]) <= SHOWN + 1 and len(past["records"]) <= SHOWN
    assert past["bytes"]["gpu0"][-1][1] == {"vision": MOST * 3}
    # Of bytes the older half is thinned and reaches back further than the newer entries do.
    assert kept[Kind.BYTES, "gpu0"][0].time < stage.clock.now - MOST * SLOT


def test_what_is_too_old_is_forgotten_but_for_what_still_holds() -> None:
    stage = Stage("vision")
    stage.move("vision", Residency.STARTING)
    stage.move("vision", Residency.READY)
    stage.move("vision", Residency.ABSENT, after=2 * KEPT)
    assert [entry.value[0] for entry in stage.history._series[Kind.RESIDENCY, "vision"]] == ["ready", "absent"]


@pytest.mark.parametrize(("back", "left"), [(0.5, ["absent", "starting", "ready", "absent"]), (3600.0, ["absent"])])
def test_a_clock_that_is_set_back_leaves_the_order(back: float, left: list[str]) -> None:
    stage = Stage("vision")
    stage.move("vision", Residency.STARTING)
    stage.move("vision", Residency.READY)
    stage.move("vision", Residency.ABSENT, after=-back)
    entries = stage.past()["residency"]["vision"]
    assert [entry[1] for entry in entries] == left
    assert entries == sorted(entries, key=lambda entry: entry[0])


def test_a_daemon_that_comes_back_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    first = Stage("vision", "gone")
    first.move("vision", Residency.READY)
    first.move("gone", Residency.READY)
    first.records.add(Event.READY, "vision answers", model="vision")
    first.history.waited("vision", 3.0)
    Chronicle(tmp_path).append(first.history.take())

    second = Stage("vision")
    second.clock.now = first.clock.now + 60
    second.move("vision", Residency.READY)
    second.history.recall(Chronicle(tmp_path).read())
    past = second.past()
    assert [entry[1] for entry in past["residency"]["vision"]] == ["absent", "ready", "absent", "ready"]
    # Nobody knows since when, but it is there no more.
    assert [entry[1] for entry in past["residency"]["gone"]] == ["absent", "ready", "absent"]
    assert past["waits"] == first.past()["waits"] and past["records"] == first.past()["records"]
    assert [version for _, version in past["began"]] == ["1.0", "1.0"]


def test_an_entry_that_is_replaced_is_written_again_and_read_once(tmp_path: Path) -> None:
    stage, chronicle = Stage(), Chronicle(tmp_path)
    stage.history.waited("vision", 1.0)
    chronicle.append(stage.history.take())
    stage.history.waited("vision", 2.0)
    chronicle.append(stage.history.take())
    assert stage.history.take() == []
    again = History(stage.clock)
    again.recall(chronicle.read())
    assert [entry[1:] for entry in again.since(0.0)["waits"]["vision"]] == [[2, 3.0, 2.0]]  # type: ignore[index]


def test_the_two_files_stay_within_their_bounds_and_hold_the_latest(tmp_path: Path) -> None:
    chronicle = Chronicle(tmp_path, most=4096)
    for turn in range(500):
        chronicle.append([Entry(NOON + turn, Kind.RECORD, "a", ["ready", f"number {turn}"])])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * 4096
    numbers = [int(entry.value[1].split()[1]) for entry in chronicle.read()]
    assert numbers == list(range(numbers[0], 500)) and len(numbers) > 50


def test_lines_that_are_torn_or_are_none_are_passed_over(tmp_path: Path) -> None:
    good = '[1.0,"record","a",["ready","a answers"]]'
    lines = [
        good,
        good[:-5],
        "[]",
        "null",
        '{"a":1}',
        '[1,"record","a",[1,2]]',
        '[1,"bytes","gpu0",{"a":"b"}]',
        "[" * 9999,
    ]
    lines += ['["x","wait","a",[1,2,3]]', '[1,"wait","a",["1",2,3]]', '[1,"residency","a","ready"]', '[1,"more","a",1]']
    (tmp_path / "history.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\xfe")
    assert Chronicle(tmp_path).read() == [Entry(1.0, Kind.RECORD, "a", ["ready", "a answers"])]


def test_a_disk_that_takes_nothing_is_told_once_and_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no directory")
    said: list[str] = []
    chronicle = Chronicle(tmp_path / "state")
    chronicle._log = type("Log", (), {"warning": staticmethod(said.append)})()
    for _ in range(3):
        chronicle.append([Entry(NOON, Kind.BEGAN, "", "1")])
    assert len(said) == 1 and "history" in said[0]


async def test_what_happens_is_written_soon_and_the_rest_at_the_end(tmp_path: Path) -> None:
    stage, chronicle = Stage("vision"), Chronicle(tmp_path)
    task = asyncio.create_task(chronicle.keep(stage.history, pause=0.01))
    stage.move("vision", Residency.READY)
    for _ in range(3000):
        if any(entry.kind is Kind.RESIDENCY for entry in chronicle.read()):
            break
        await asyncio.sleep(0.01)
    stage.move("vision", Residency.ABSENT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [entry.value[0] for entry in chronicle.read() if entry.kind is Kind.RESIDENCY] == [
        "absent",
        "ready",
        "absent",
    ]
