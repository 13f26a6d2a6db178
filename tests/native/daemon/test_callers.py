"""Callers of a daemon as it is configured: keys from systemd credentials over TCP, users on the socket, quotas."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx
import openai
import pytest

from tests.native.daemon.conftest import SETTINGS, chat, engine
from tests.testbed.rig import Rig

LAPTOP, BOT = "sk-laptop-in-a-credential", "sk-bot-in-a-credential"
CALLERS = """
[callers.laptop]
key = "laptop-key"
[callers.bot]
key = "bot-key"
priority = "batch"
concurrency = 1
[callers.me]
user = "UID"
rate = 1
"""


def settings(rig: Rig) -> str:
    """With ourselves as the daemon's kernel sees us."""
    return SETTINGS + CALLERS.replace("UID", str(rig.manager.uid))


@pytest.fixture
def url(rig: Rig, tmp_path: Path) -> str:
    """The address of a daemon that has two keys as credentials."""
    lines = ["[Service]"]
    for name, key in (("laptop-key", LAPTOP), ("bot-key", BOT)):
        (tmp_path / name).write_text(f"{key}\n")
        lines.append(f"LoadCredential={name}:{tmp_path / name}")
    rig.manager.install_unit("aitherd.service.d/keys.conf", "\n".join(lines) + "\n")
    rig.settings(settings(rig))
    rig.model("steady", engine("1 GiB", "--token-seconds", "0.3"))
    rig.reload()
    return rig.tcp()


def test_over_tcp_a_key_is_needed_and_shows_nowhere(rig: Rig, http: httpx.Client, url: str) -> None:
    with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as stranger:
        refused = chat(stranger, "steady")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert stranger.get("/health").status_code == 200
    with openai.OpenAI(api_key=LAPTOP, base_url=f"{url}/v1", max_retries=0) as client:
        assert "steady" in [one.id for one in client.models.list()]
        answer = client.chat.completions.create(
            model="steady", max_tokens=1, messages=[{"role": "user", "content": "hi"}]
        )
        assert answer.choices
    checked = json.loads(rig.ctl("--json", "check-config").stdout)
    assert [(one["name"], one["key"]) for one in checked["callers"]][:2] == [
        ("laptop", "laptop-key"),
        ("bot", "bot-key"),
    ]
    told = rig.said(10_000) + http.get("/metrics").text + json.dumps(rig.records()) + json.dumps(checked)
    assert "caller=laptop" in told or '"laptop"' in told
    assert LAPTOP not in told and BOT not in told


def test_a_quota_binds_its_caller_and_no_other(rig: Rig, http: httpx.Client, url: str) -> None:
    statuses: list[int] = []

    def ask(key: str, tokens: int) -> None:
        with httpx.Client(
            base_url=url, timeout=60.0, trust_env=False, headers={"Authorization": f"Bearer {key}"}
        ) as client:
            statuses.append(chat(client, "steady", tokens=tokens).status_code)

    assert [chat(http, "steady", tokens=1).status_code for _ in range(2)] == [200, 429]
    long = threading.Thread(target=ask, args=(BOT, 10))
    long.start()
    rig.wait_for(lambda: rig.status("steady")["in_flight"] == 1, "the first request of the bot")
    ask(BOT, 1)
    ask(LAPTOP, 1)
    long.join()
    assert statuses == [429, 200, 200]
    # What the configuration says counts at once, on connections that are open already.
    rig.settings(settings(rig).replace("rate = 1", "rate = 1000"))
    rig.reload()
    rig.wait_for(lambda: chat(http, "steady", tokens=1).status_code == 200, "the new quota")
