"""How the measuring child merges what NVML lists; what NVML itself answers is in the native tests."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from aitherd.host.nvml_worker import processes


def lists(monkeypatch: pytest.MonkeyPatch, **kinds: list[tuple[int, int | None]]) -> None:
    """The binding lists these."""
    for kind, found in kinds.items():
        answer = [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in found]
        monkeypatch.setattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses", lambda _, answer=answer: answer)


def test_a_process_that_computes_and_draws_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lists(monkeypatch, Compute=[(1, 500), (2, 7)], Graphics=[(1, 500), (3, 9)])
    assert processes(object()) == {1: 500, 2: 7, 3: 9}


def test_bytes_that_one_list_does_not_tell_are_taken_from_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    lists(monkeypatch, Compute=[(1, None), (2, 7), (3, None)], Graphics=[(1, 500), (2, None), (3, None)])
    assert processes(object()) == {1: 500, 2: 7, 3: None}
