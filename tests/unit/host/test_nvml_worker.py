"""How the measuring child merges what NVML lists; what NVML itself answers is in the native tests."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pynvml
import pytest

from aitherd.host import nvml_worker
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


def test_after_a_device_was_lost_devices_are_looked_for_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A driver finds a device again only when it is initialised again; the test library does not insist on that."""
    calls: list[str] = []
    found = iter([[{"index": 0}], [{"index": 0, "error": pynvml.NVML_ERROR_GPU_IS_LOST}], [{"index": 0}]])
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: calls.append("init"))
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: calls.append("shutdown"))

    def sample() -> dict[str, object]:
        calls.append("sample")
        return {"devices": next(found)}

    monkeypatch.setattr(nvml_worker, "sample", sample)
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f'{{"id": {asked}}}\n' for asked in (1, 2, 3))))
    nvml_worker.main()
    assert calls == ["init", "sample", "sample", "shutdown", "init", "sample"]
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [1, 2, 3]
