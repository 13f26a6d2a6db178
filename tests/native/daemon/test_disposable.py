"""The daemon may be killed at any instant: it comes back, adopts what runs, and loses no model and no hold."""

import os
import signal
import threading

import httpx

from tests.native.daemon.conftest import GIB, chat, engine
from tests.testbed.nvml import Gpu
from tests.testbed.rig import Rig


def kill(rig: Rig) -> None:
    """Kills the daemon and waits until another one answers."""
    pid = rig.daemon_pid()
    os.kill(pid, signal.SIGKILL)
    rig.wait_for(lambda: rig.daemon_pid() not in (0, pid) and rig.running, "the daemon to come back")


def invocation(rig: Rig, model: str) -> str:
    return rig.manager.show(f"aither-{model}-engine.service", "InvocationID")["InvocationID"]


def test_ready_and_held_models_are_adopted_as_they_are(rig: Rig, gpu: Gpu, http: httpx.Client) -> None:
    rig.model("held", engine(idle="1h"))
    rig.model("used", engine(idle="1h"))
    rig.reload()
    rig.manager.systemctl("start", "aither-held.service")
    assert chat(http, "used").status_code == 200
    before = [invocation(rig, name) for name in ("held", "used")]
    kill(rig)
    assert [invocation(rig, name) for name in ("held", "used")] == before
    with rig.http() as client:
        assert chat(client, "used").headers["x-aither-reason"] == "ready"
    assert rig.status("held")["held"] is True and rig.status("used")["held"] is False
    assert rig.status("used")["measured_bytes"] == {"gpu0": 4 * GIB}
    assert rig.manager.show("aither-held.service", "ActiveState")["ActiveState"] == "active"


def test_a_model_that_was_loading_is_waited_for_and_not_started_twice(rig: Rig, gpu: Gpu) -> None:
    rig.model("slow", engine("4 GiB", "--load-seconds", "3"))
    rig.ctl("list")
    first = threading.Thread(target=rig.ctl, args=("start", "slow"), kwargs={"check": False})
    first.start()
    gpu.card.wait(lambda card: card.used > 0)
    before = invocation(rig, "slow")
    kill(rig)
    first.join()
    with rig.http() as client:
        assert chat(client, "slow").status_code == 200
    assert invocation(rig, "slow") == before


def test_a_connection_made_while_the_daemon_is_away_is_answered(rig: Rig, http: httpx.Client) -> None:
    rig.model("vision", engine())
    assert chat(http, "vision").status_code == 200
    rig.manager.systemctl("stop", "aitherd.service")
    with rig.http() as client:
        assert chat(client, "vision").headers["x-aither-reason"] == "ready"


def test_a_restart_keeps_a_stream_to_its_end(rig: Rig, http: httpx.Client) -> None:
    from tests.native.daemon.conftest import ask

    rig.model("vision", engine("4 GiB", "--token-seconds", "0.05"))
    rig.ctl("start", "vision")
    with http.stream("POST", "/v1/chat/completions", json=ask("vision", stream=True, tokens=30)) as answer:
        lines = answer.iter_lines()
        next(lines)
        restart = threading.Thread(target=rig.manager.systemctl, args=("restart", "aitherd.service"))
        restart.start()
        assert "data: [DONE]" in list(lines)
    restart.join()
    with rig.http() as client:
        assert chat(client, "vision").headers["x-aither-reason"] == "ready"


def test_restarts_refuse_no_connection_and_fail_no_request(rig: Rig, http: httpx.Client) -> None:
    rig.model("vision", engine())
    assert chat(http, "vision").status_code == 200
    before = invocation(rig, "vision")

    def restart() -> None:
        for _ in range(3):
            rig.manager.systemctl("restart", "aitherd.service")

    restarting = threading.Thread(target=restart)
    restarting.start()
    answers = []
    while restarting.is_alive():
        with rig.http() as fresh:
            answers.append(chat(fresh, "vision"))
    restarting.join()
    assert {answer.status_code for answer in answers} == {200}
    assert invocation(rig, "vision") == before


def test_what_a_person_stopped_stays_stopped_across_a_restart(rig: Rig) -> None:
    rig.model("orchestrator", engine("19 GiB", kind="essential"))
    rig.ctl("list")
    rig.wait_for(lambda: rig.status("orchestrator")["residency"] == "ready", "the essential model")
    rig.ctl("stop", "orchestrator")
    rig.manager.systemctl("restart", "aitherd.service")
    assert rig.status("orchestrator")["residency"] == "absent"


def test_a_unit_whose_model_is_configured_no_more_is_stopped(rig: Rig, gpu: Gpu) -> None:
    rig.model("old", engine())
    rig.ctl("start", "old")
    rig.manager.systemctl("stop", "aitherd.service")
    (rig.etc / "models.d" / "old.toml").unlink()
    rig.model("new", engine())
    rig.ctl("list")
    gpu.card.wait(lambda card: card.used == 0)


def test_a_reload_takes_new_models_keeps_running_ones_and_refuses_a_broken_file(rig: Rig, http: httpx.Client) -> None:
    rig.model("first", engine())
    assert chat(http, "first").status_code == 200
    before = invocation(rig, "first")
    rig.model("second", engine())
    rig.model("first", engine("4 GiB", "--name", "other"))
    rig.reload()
    assert chat(http, "second").status_code == 200
    assert invocation(rig, "first") == before
    rig.model("third", 'engine = "exce"\n')
    refused = rig.ctl("reload", check=False)
    assert refused.returncode == 1
    assert "third.toml" in refused.stderr and "exec" in refused.stderr
    assert chat(http, "first").status_code == 200


def test_a_file_that_somebody_broke_meanwhile_costs_neither_its_engine_nor_the_others(
    rig: Rig, gpu: Gpu, http: httpx.Client
) -> None:
    for name in ("good", "broken"):
        rig.model(name, engine())
    rig.ctl("start", "good", "broken")
    before = invocation(rig, "broken")
    whole = (rig.etc / "models.d" / "broken.toml").read_text()
    rig.model("broken", "clas = 1\n")
    kill(rig)
    with rig.http() as client:
        assert chat(client, "good").headers["x-aither-reason"] == "ready"
        health = client.get("/health")
        assert health.status_code == 503 and "broken.toml" in health.text
    assert gpu.card.used == 8 * GIB
    rig.model("broken", whole)
    rig.reload()
    rig.wait_for(lambda: rig.status("broken")["residency"] == "ready", "the engine to be taken over")
    assert invocation(rig, "broken") == before
    with rig.http() as client:
        assert client.get("/health").status_code == 200


def test_requests_go_on_while_the_configuration_is_read_again(rig: Rig, http: httpx.Client) -> None:
    rig.model("vision", engine())
    assert chat(http, "vision").status_code == 200

    def reload() -> None:
        for _ in range(5):
            rig.reload()

    reloading = threading.Thread(target=reload)
    reloading.start()
    answers = []
    while reloading.is_alive():
        answers.append(chat(http, "vision"))
    reloading.join()
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-aither-reason"] for answer in answers} == {"ready"}
