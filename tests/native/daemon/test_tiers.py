"""Tiers through the daemon: what cannot be loaded, or not yet, is answered elsewhere; the configuration decides how."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.native.daemon.conftest import SETTINGS, chat, engine
from tests.native.proxy.tiers import authority
from tests.testbed.rig import Rig

KEY = "sk-in-a-credential"


class Upstream(ThreadingHTTPServer):
    """A small server that speaks enough of the API, and remembers what it was sent."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.probes = 0
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        self.server.probes += 1
        self._answer({"object": "list", "data": [{"id": "reasoning"}, {"id": "gpt-x"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
        usage = {"prompt_tokens": 1000, "completion_tokens": 100}
        self._answer({"choices": [{"message": {"content": "from afar"}}], "usage": usage})

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def lan() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server
        server.shutdown()


def tiers(lan: Upstream, routes: list[str], leave: str = "lan", more: str = "") -> str:
    """The settings of a rig with one tier and one upstream."""
    return (
        f'{SETTINGS}\n[tiers.deep]\nroutes = {json.dumps(routes)}\nleave = "{leave}"\neffort = ["high"]\n'
        f'[upstreams.spark]\nkind = "lan"\nurl = "http://127.0.0.1:{lan.server_port}"\n{more}'
    )


def test_a_model_that_never_fits_beside_the_essential_one_is_answered_by_the_next_route_at_once(
    rig: Rig, http: httpx.Client, lan: Upstream
) -> None:
    rig.model("orchestrator", engine("19 GiB", kind="essential"))
    rig.model("challenger", engine("16 GiB"))
    rig.settings(tiers(lan, ["challenger", "spark/reasoning"]))
    rig.ctl("list")
    rig.wait_for(lambda: rig.status("orchestrator")["residency"] == "ready", "the orchestrator")
    answer = chat(http, "deep")
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-aither-upstream"] == "spark/reasoning"
    assert "challenger needs 16 GiB" in answer.headers["x-aither-reason"]
    # Nobody waited for it, and nothing was tried.
    assert not [record for record in rig.records() if record["model"] == "challenger" and record["event"] == "demand"]
    assert lan.seen[0][1]["model"] == "reasoning"
    # By its own name, and where nothing may leave, it is refused with the sum; nobody ever waited for it.
    assert chat(http, "challenger").json()["error"]["code"] == "no_room"
    local = http.post(
        "/v1/chat/completions", json={"model": "deep", "messages": []}, headers={"X-Aither-Local": "only"}
    )
    assert (local.status_code, local.json()["error"]["code"]) == (503, "no_route")
    assert "orchestrator keeps 19 GiB" in local.json()["error"]["message"]
    assert len(lan.seen) == 1
    assert rig.status("orchestrator")["residency"] == "ready"
    assert not [record for record in rig.records() if record["event"] == "step" and record["model"] == "challenger"]


def test_the_next_route_answers_while_a_model_loads_and_the_next_request_comes_home(
    rig: Rig, http: httpx.Client, lan: Upstream
) -> None:
    rig.model("vision", engine("4 GiB", "--load-seconds", "0.5"))
    rig.settings(tiers(lan, ["vision", "spark/reasoning"]))
    bridged = chat(http, "deep")
    assert bridged.headers["x-aither-upstream"] == "spark/reasoning"
    assert "while vision loads" in bridged.headers["x-aither-reason"]
    rig.wait_for(lambda: rig.status("vision")["residency"] == "ready", "the load in the background")
    home = chat(http, "deep")
    assert (home.headers["x-aither-upstream"], home.headers["x-aither-reason"]) == ("vision", "ready")
    (bridge,) = [record for record in rig.records() if record["event"] == "bridge"]
    assert (bridge["model"], bridge["fields"]["tier"]) == ("vision", "deep")
    # Learned: a load of half a second is within the patience from now on.
    rig.ctl("stop", "vision")
    again = chat(http, "deep")
    assert (again.status_code, again.headers["x-aither-upstream"]) == (200, "vision")
    assert len(lan.seen) == 1


def test_a_model_that_fails_to_start_is_replaced_and_not_hammered(rig: Rig, http: httpx.Client, lan: Upstream) -> None:
    rig.model("vision", 'engine = "exec"\nvram = "1 GiB"\ncommand = ["false", "{socket}"]\n')
    rig.settings(tiers(lan, ["vision", "spark/reasoning"]))
    for _ in range(5):
        assert chat(http, "deep").headers["x-aither-upstream"] == "spark/reasoning"
    rig.wait_for(lambda: rig.status("vision")["residency"] == "failed", "the failure")
    failed = chat(http, "deep")
    assert "vision failed and is tried again" in failed.headers["x-aither-reason"]
    assert len(lan.seen) == 6


def test_a_reload_brings_and_takes_tiers(rig: Rig, http: httpx.Client, lan: Upstream) -> None:
    rig.model("vision", engine())
    assert chat(http, "deep").status_code == 404
    rig.settings(tiers(lan, ["spark/reasoning"]))
    rig.reload()
    assert chat(http, "deep").status_code == 200
    listed = {one["id"]: one["aither"] for one in http.get("/v1/models").json()["data"]}
    assert listed["deep"] == {"tier": "deep", "routes": ["spark/reasoning"], "leave": "lan"}
    rig.wait_for(lambda: lan.probes > 0, "a probe")
    samples = [line for line in http.get("/metrics").text.splitlines() if line.startswith("aither_upstream_up{")]
    assert len(samples) == 1 and 'upstream="spark"' in samples[0]
    # A configuration with an error changes nothing.
    rig.settings(tiers(lan, ["spork/reasoning"]))
    refused = rig.ctl("reload", check=False)
    assert refused.returncode != 0
    assert "did you mean spark" in refused.stderr
    assert chat(http, "deep").status_code == 200
    rig.settings(SETTINGS)
    rig.reload()
    assert chat(http, "deep").status_code == 404


def test_the_cloud_is_paid_with_a_credential_that_shows_nowhere_and_spending_outlives_the_daemon(
    rig: Rig, http: httpx.Client, lan: Upstream, tmp_path: Path
) -> None:
    ca, certificate, key = authority(tmp_path)
    (tmp_path / "cloud-key").write_text(KEY + "\n")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    rig.manager.install_unit(
        "aitherd.service.d/key.conf", f"[Service]\nLoadCredential=cloud-key:{tmp_path / 'cloud-key'}\n"
    )
    rig.manager.reload()
    with Upstream(tls) as cloud:
        section = (
            f'[upstreams.cloud]\nkind = "cloud"\nurl = "https://localhost:{cloud.server_port}/v1"\nkey = "cloud-key"\n'
            f'authority = "{ca}"\ndaily-cap = 1.5\n[upstreams.cloud.models.gpt-x]\nprompt-price = 1000\n'
        )
        rig.settings(tiers(lan, ["cloud/gpt-x", "spark/reasoning"], leave="cloud", more=section))
        first = chat(http, "deep")
        assert (first.status_code, first.headers["x-aither-upstream"]) == (200, "cloud/gpt-x"), first.text
        assert cloud.seen[0][0]["authorization"] == f"Bearer {KEY}"
        assert chat(http, "deep").headers["x-aither-upstream"] == "cloud/gpt-x"
        assert chat(http, "deep").headers["x-aither-upstream"] == "spark/reasoning"
        rig.manager.systemctl("restart", "aitherd.service")
        assert chat(http, "deep").headers["x-aither-upstream"] == "spark/reasoning"
        told = rig.said(10_000) + http.get("/metrics").text + http.get("/v1/models").text + json.dumps(rig.records())
        assert "cloud" in told
        assert KEY not in told
        assert "from afar" not in told
        assert "authorization" not in lan.seen[0][0]
        cloud.shutdown()
