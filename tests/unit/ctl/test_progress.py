"""The line that shows what is waited for: one line of any terminal, with what matters first."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

import pytest

from aitherd.ctl import leases
from aitherd.ctl.control import CLEAR_LINE, progress_text

GIB = 2**30
STARTING: dict[str, Any] = {
    "name": "vision", "residency": "starting", "stage": "waiting for the server to answer", "start_seconds": 61.0,
    "measured_bytes": {"gpu0": GIB}, "expected_bytes": 5 * GIB,
}  # fmt: skip


def test_time_and_bytes_come_before_what_is_cut() -> None:
    assert progress_text(STARTING, 0.2) == (
        "vision: starting, 0 s of about 1 min, 1 GiB of 5 GiB: waiting for the server to answer"
    )
    stopping = {**STARTING, "residency": "stopping", "stage": ""}
    assert progress_text(stopping, 3.0) == "vision: stopping"


def test_what_a_lease_waits_for_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))
    with leases.progress() as show:
        show([("a1", True, "", GIB, 0, "game", os.getpid(), 0, 0, "waits for room " * 10)])
        shown = capsys.readouterr().err
    assert shown.startswith(f"{CLEAR_LINE}waits for room ")
    assert len(shown.removeprefix(CLEAR_LINE)) == 39
