"""Tables and times."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time

import pytest

from aitherd.ctl import terminal
from aitherd.ctl.terminal import bar, instant, table


def test_columns_are_aligned_and_nothing_is_lost_in_a_file() -> None:
    long = "x" * 300
    assert table(("A", "B", "C"), [("1", "22", long), ("三三", "", "e\u0301")]).splitlines() == [
        "A     B   C",
        f"1     22  {long}",
        "三三      e\u0301",
    ]


def test_lines_are_cut_at_the_edge_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((12, 24)))
    monkeypatch.setenv("NO_COLOR", "1")
    lines = table(("NAME", "TEXT"), [("abcdef", "ghijkl"), ("a", "bc")]).splitlines()
    assert lines == ["NAME    TEXT", "abcdef  ghi…", "a       bc"]
    lines = table(("NAME", "TEXT"), [("abcdef", "三三三")], indent=2).splitlines()
    assert lines == ["  NAME    T…", "  abcdef  …"]


@pytest.mark.parametrize("columns", range(1, 30))
def test_no_line_is_longer_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = table(("NAME", "", "TEXT"), [("abc", "三三", "ready"), ("abcdef", "", "")], {"ready": "green"})
    # Colours take no column.
    assert all(terminal.width(re.sub("\033\\[[0-9]*m", "", line)) <= columns for line in shown.splitlines())


def test_cells_cannot_hold_control_characters() -> None:
    assert table(("A",), [("\033[2J\n\u202e",)]).splitlines() == ["A", r"\x1b[2J\n\u202e"]


@pytest.mark.parametrize(
    ("part", "whole", "filled"), [(0, 10, 0), (10, 10, 16), (5, 10, 8), (20, 10, 16), (-1, 10, 0), (1, 0, 0)]
)
def test_a_bar_is_never_longer_than_itself(part: int, whole: int, filled: int) -> None:
    shown = bar(part, whole)
    assert shown.count("█") == filled
    assert len(shown) == terminal.BAR + 2


def test_instants_say_how_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    assert instant(1_700_000_000.0 - 300) == "Tue 2023-11-14 22:08:20 UTC; 5 min ago"
    assert instant(1_700_000_000.0 - 3 * 86400) == "Sat 2023-11-11 22:13:20 UTC; 3 days ago"
    monkeypatch.undo()
    time.tzset()
