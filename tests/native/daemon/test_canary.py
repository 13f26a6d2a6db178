"""Engines whose health lies: they are found out by the requests that they fail, and are started anew."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.native.daemon.conftest import chat
from tests.native.daemon.test_disposable import invocation
from tests.native.daemon.test_suspend import events, mute
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig


def await_look(rig: Rig, gpu: Gpu) -> None:
    """Waits until the daemon has looked at its models, which it does when it measures."""
    looks = gpu.looks
    rig.wait_for(lambda: gpu.looks > looks + 1, "the daemon to look at its models")


def test_an_engine_that_fails_one_request_after_the_other_is_asked_for_a_token_and_ended(
    rig: Rig, http: httpx.Client, tmp_path: Path
) -> None:
    flag = tmp_path / "broken"
    rig.model("vision", mute(flag))
    assert chat(http, "vision").status_code == 200
    before = invocation(rig, "vision")
    flag.write_text("error")
    assert [chat(http, "vision").status_code for _ in range(3)] == [500] * 3
    rig.wait_for(lambda: events(rig, "failed") == ["vision"], "the canary to fail")
    flag.unlink()
    rig.ctl("start", "vision")
    assert chat(http, "vision").status_code == 200
    assert invocation(rig, "vision") != before
    assert events(rig, "doubted") == ["vision"]


def test_an_engine_that_fails_now_and_then_is_left_alone(
    rig: Rig, gpu: Gpu, http: httpx.Client, tmp_path: Path
) -> None:
    flag = tmp_path / "broken"
    rig.model("vision", mute(flag))
    before = ""
    for _ in range(3):
        flag.unlink(missing_ok=True)
        assert chat(http, "vision").status_code == 200
        before = before or invocation(rig, "vision")
        flag.write_text("error")
        assert chat(http, "vision").status_code == 500
    await_look(rig, gpu)
    flag.unlink()
    assert events(rig, "doubted") == []
    assert invocation(rig, "vision") == before


def test_requests_that_the_client_got_wrong_raise_no_doubt(
    rig: Rig, gpu: Gpu, http: httpx.Client, tmp_path: Path
) -> None:
    rig.model("vision", mute(tmp_path / "never"))
    assert chat(http, "vision").status_code == 200
    for _ in range(5):
        assert http.post("/upstream/vision/no-such-route", json={}).status_code == 404
    await_look(rig, gpu)
    assert events(rig, "doubted") == []
