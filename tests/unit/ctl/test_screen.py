"""The screen of `aitherctl top`: it fits, the bar is as long as the line, and what matters stays in sight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from aitherd.ctl.screen import View, parts, screen

GIB = 2**30


def model(name: str, residency: str = "ready", held: int = 0, **more: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": name, "residency": residency, "level": 0, "measured_bytes": {"gpu0": held} if held else {},
        "in_flight": 0, "waiting": 0, "busy": False, "error": "", "stage": "", "held": False, "stops_at": None,
        "description": "",
    }  # fmt: skip
    return {**plain, **more}


def device(**more: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "id": "gpu0", "name": "NVIDIA GeForce RTX 5090", "total": 32 * GIB, "free": 8 * GIB, "reserve": GIB,
        "quarantined": 0, "foreign": [], "fresh": True, "problem": "", "busy": 0.5, "watts": 301.4,
    }  # fmt: skip
    return {**plain, **more}


def view(*models: Mapping[str, Any], **more: Any) -> View:
    daemon = {"version": "1.2.3", "healthy": True, "problems": [], "leases": []}
    records = [{"time": 0.0, "event": "ready", "message": f"decision {number}"} for number in range(20)]
    plain: dict[str, Any] = {"daemon": daemon, "devices": [device()], "models": [dict(one) for one in models]}
    return View(**{**plain, "records": records, **more})


def lines(shown: View, columns: int = 80, rows: int | None = 24) -> list[str]:
    console = Console(width=columns, height=rows or 100, color_system=None)
    with console.capture() as capture:
        console.print(screen(shown, columns, rows), end="")
    return capture.get().splitlines()


def test_everything_that_matters_is_on_a_small_terminal() -> None:
    shown = lines(view(model("vision", held=20 * GIB, in_flight=3, waiting=2), model("broken", "failed", error="boom")))
    text = "\n".join(shown)
    for part in ("aitherd 1.2.3", "7 GiB free of 32 GiB", "50% busy", "301 W", "3+2", "boom", "decision 19"):
        assert part in text, part


def test_every_line_of_a_fleet_that_is_too_large_is_said_to_be_missing() -> None:
    shown = lines(view(*(model(f"m{number:02}") for number in range(40))))
    assert len(shown) <= 24
    (more,) = (line for line in shown if line.startswith("…"))
    there = sum(line.startswith("● m") for line in shown)
    assert more.strip() == f"… {40 - there} more"
    assert any("decision 19" in line for line in shown)


def test_host_memory_is_named_once_and_what_nobody_holds_as_on_the_page() -> None:
    host = device(id="host", name="host memory", busy=None, watts=None)
    text = "\n".join(lines(view(devices=[device(free=24 * GIB), host])))
    assert "host host" not in text
    assert "driver 8 GiB" in text
    assert "in use 24 GiB" in text


def test_what_cannot_be_measured_is_said_instead_of_shown() -> None:
    blind = view(devices=[device(fresh=False, problem="the driver hangs; reboot")])
    assert "the driver hangs; reboot" in "\n".join(lines(blind))


def test_escape_sequences_of_others_do_not_reach_the_terminal() -> None:
    hostile = device(foreign=[{"name": "evil\x1b[2J", "pid": 1, "bytes": 4 * GIB}])
    text = "\n".join(lines(view(model("m", "failed", error="\x1b]0;owned\x07"), devices=[hostile])))
    assert "\x1b" not in text
    assert "\x07" not in text


@given(
    st.integers(1, 2**40),
    st.lists(st.integers(0, 2**38), max_size=6),
    st.integers(0, 2**40),
    st.integers(0, 2**36),
    st.integers(20, 200),
    st.integers(5, 60),
)
def test_whatever_is_measured_the_screen_fits(
    total: int, held: list[int], free: int, reserve: int, columns: int, rows: int
) -> None:
    models = [model(f"m{number}", held=count) for number, count in enumerate(held)]
    shown = lines(view(*models, devices=[device(total=total, free=free, reserve=reserve)]), columns, rows)
    assert len(shown) <= rows
    assert all(cell_len(line) <= columns for line in shown)


@given(st.lists(st.integers(0, 8 * GIB), max_size=3), st.integers(0, 4 * GIB))
def test_the_parts_of_a_device_are_all_of_it(held: list[int], foreign: int) -> None:
    free = 32 * GIB - sum(held) - foreign
    others = [{"name": "game", "pid": 7, "bytes": foreign}] if foreign else []
    shown = device(free=free, foreign=others)
    found = parts(shown, view(*(model(f"m{number}", held=count) for number, count in enumerate(held))))
    assert sum(part.bytes for part in found) == 32 * GIB
