"""After a suspend engines have to do something before they get requests, and those that cannot are started anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx

from tests.native.daemon.conftest import chat, engine
from tests.native.daemon.test_disposable import invocation
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig

LOGIND = """
import asyncio, sys
from sdbus import DbusInterfaceCommonAsync, dbus_signal_async
from sdbus import request_default_bus_name_async, sd_bus_open_user, set_default_bus

class Manager(DbusInterfaceCommonAsync, interface_name="org.freedesktop.login1.Manager"):
    @dbus_signal_async("b")
    def prepare_for_sleep(self) -> bool:
        raise NotImplementedError

async def main():
    set_default_bus(sd_bus_open_user())
    manager = Manager()
    manager.export_to_dbus("/org/freedesktop/login1")
    if sys.argv[1] == "logind":
        await request_default_bus_name_async("org.freedesktop.login1")
    for begins in (True, False):
        manager.prepare_for_sleep.emit(begins)
    await asyncio.sleep(0.5)

asyncio.run(main())
"""
"""The part of logind that is needed: its object on the bus, which says that a suspend begins and that it is over."""


def suspend(rig: Rig, who: str = "logind") -> None:
    rig.manager.run([sys.executable, "-c", LOGIND, who])


def events(rig: Rig, event: str) -> list[str]:
    return [record["model"] for record in rig.records() if record["event"] == event]


def mute(flag: Path, *, kind: str = "on-demand", idle: str = "never") -> str:
    """A model file of an engine that generates nothing while `flag` exists, and is healthy all the same."""
    return engine("4 GiB", "--fault", "mute", "--mute-while", str(flag), kind=kind, idle=idle, more='can = ["chat"]')


def test_healthy_engines_serve_on_as_they_are(rig: Rig, gpu: Gpu, http: httpx.Client, tmp_path: Path) -> None:
    rig.model("vision", mute(tmp_path / "never"))
    assert chat(http, "vision").status_code == 200
    before, used = invocation(rig, "vision"), rig.status("vision")["last_used"]
    looks = gpu.looks
    suspend(rig)
    rig.wait_for(lambda: events(rig, "doubted") == ["vision"], "the canary")
    assert chat(http, "vision").status_code == 200
    assert invocation(rig, "vision") == before
    assert gpu.looks > looks, "the devices are measured anew"
    assert events(rig, "resumed") == [""]
    assert rig.status("vision")["last_used"] > used


def test_a_canary_is_no_use_of_the_model(rig: Rig, http: httpx.Client, tmp_path: Path) -> None:
    rig.model("vision", mute(tmp_path / "never"))
    assert chat(http, "vision").status_code == 200
    used = rig.status("vision")["last_used"]
    suspend(rig)
    rig.wait_for(lambda: events(rig, "doubted") == ["vision"], "the canary")
    rig.wait_for(lambda: not rig.status("vision")["busy"], "its end")
    assert rig.status("vision")["last_used"] == used


def test_an_essential_engine_that_lies_is_started_anew_and_serves_who_waits(
    rig: Rig, gpu: Gpu, http: httpx.Client, tmp_path: Path
) -> None:
    flag = tmp_path / "hung"
    rig.model("orchestrator", mute(flag, kind="essential"))
    rig.ctl("list")
    rig.wait_for(lambda: rig.status("orchestrator")["residency"] == "ready", "the essential model")
    before = invocation(rig, "orchestrator")
    flag.touch()
    suspend(rig)
    rig.wait_for(lambda: events(rig, "failed") == ["orchestrator"], "the canary to fail", timeout=60.0)
    flag.unlink()
    rig.wait_for(lambda: rig.status("orchestrator")["residency"] == "ready", "the essential model to come back")
    assert chat(http, "orchestrator").status_code == 200
    assert invocation(rig, "orchestrator") != before
    (why,) = [record["message"] for record in rig.records() if record["event"] == "failed"]
    assert "calls itself ready and is not" in why and "does not answer" in why
    assert rig.status("orchestrator")["held"] is True


def test_a_request_waits_for_the_canary_and_not_for_an_engine_that_hangs(
    rig: Rig, http: httpx.Client, tmp_path: Path
) -> None:
    flag = tmp_path / "hung"
    rig.model("vision", mute(flag))
    rig.model("other", mute(tmp_path / "never"))
    assert [chat(http, name).status_code for name in ("vision", "other")] == [200, 200]
    flag.touch()
    suspend(rig)
    rig.wait_for(lambda: sorted(events(rig, "doubted")) == ["other", "vision"], "the canaries")
    assert chat(http, "other").status_code == 200
    with rig.http() as client:
        refused = chat(client, "vision")
    # It was never sent to the engine that hangs: either the model is backing off, or the wait was bounded.
    assert refused.status_code == 503, refused.text
    rig.wait_for(lambda: rig.status("vision")["residency"] == "failed", "the canary to fail", timeout=60.0)
    flag.unlink()
    rig.ctl("start", "vision")
    assert chat(http, "vision").status_code == 200


def test_a_sleeper_has_to_sing_when_it_wakes(rig: Rig, http: httpx.Client, tmp_path: Path) -> None:
    flag = tmp_path / "hung"
    command = ["vllm", "serve", "m", "--enable-sleep-mode", "--x-weights", "8GiB", "--x-kv", "3GiB"]
    command += ["--x-context", "1GiB", "--x-load-seconds", "5", "--x-mute-while", str(flag)]
    shared = 'class = "on-demand"\nidle = "never"\n'
    rig.model("sleeper", f'engine = "vllm"\n{shared}can = ["chat"]\nvram = "12 GiB"\ncommand = {json.dumps(command)}\n')
    rig.model("other", engine("20 GiB"))
    assert chat(http, "sleeper").status_code == 200
    assert chat(http, "other").status_code == 200
    assert rig.status("sleeper")["residency"] == "sleeping"
    before = invocation(rig, "sleeper")
    flag.touch()
    suspend(rig)
    rig.wait_for(lambda: events(rig, "resumed") == [""], "the resume")
    assert rig.status("sleeper")["residency"] == "sleeping", "nothing wakes it"
    rig.settings('[arbiter]\nmin-residency = "0s"\nwait = "60s"\n')
    rig.ctl("reload")
    rig.ctl("start", "sleeper", check=False, timeout=90.0)
    flag.unlink()
    assert chat(http, "sleeper").status_code == 200
    assert invocation(rig, "sleeper") != before, "started anew"


def test_nobody_but_logind_says_that_the_machine_was_suspended(rig: Rig, http: httpx.Client, tmp_path: Path) -> None:
    rig.model("vision", mute(tmp_path / "never"))
    assert chat(http, "vision").status_code == 200
    suspend(rig, "somebody")
    suspend(rig)
    rig.wait_for(lambda: events(rig, "resumed"), "the resume that logind tells of")
    assert events(rig, "resumed") == [""]
