"""Tiers and upstreams in `aitherd.toml`: what they become, and what is refused with file, key and remedy."""

from __future__ import annotations

import pytest

from aitherd.config.schema import EXAMPLES
from aitherd.core.upstreams import Node, Reach, RemoteModel, Route, Tier
from tests.unit.config.conftest import Etc

CLOUD = '[upstreams.cloud]\nurl = "https://api.example.com/v1"\nkind = "cloud"\n'


def test_what_the_template_shows_is_in_order(etc: Etc) -> None:
    etc.model("orchestrator")
    etc.model("embed", can='["embeddings"]')
    etc.settings("\n".join(EXAMPLES.values()))
    fleet = etc.fleet()
    assert fleet.tiers["reasoning"] == Tier(
        "reasoning",
        (Route("orchestrator"), Route("reasoning", "spark"), Route("gpt-x", "cloud")),
        patience=5.0,
        leave=Reach.CLOUD,
        efforts=("medium", "high"),
    )
    spark, cloud = fleet.upstreams["spark"], fleet.upstreams["cloud"]
    assert spark.nodes == (Node(False, "spark.local", 8120, "/v1", 2), Node(False, "spark-2.local", 8120, "/v1", 1))
    assert (spark.reach, spark.concurrency) == (Reach.LAN, 16)
    abilities = {name: spark.model(name).can for name in ("reasoning", "swap", "embed", "orchestrator", "reflex")}
    tools = frozenset({"chat", "completions", "tools"})
    assert abilities == {
        "reasoning": tools | {"reasoning"},
        "swap": tools | {"vision"},
        "embed": frozenset({"embeddings"}),
        "orchestrator": tools,
        "reflex": tools,
    }
    assert cloud.nodes == (Node(True, "api.example.com", 443, "/v1"),)
    assert (cloud.key, cloud.daily_cap, cloud.reach) == ("example-key", 5.0, Reach.CLOUD)
    assert cloud.model("gpt-x") == RemoteModel("gpt-x-2026-08", frozenset({"chat", "tools", "vision"}), 2.5, 10.0)
    assert cloud.model("other") == RemoteModel("other")


def test_nodes_have_weights(etc: Etc) -> None:
    etc.settings('[upstreams.pool]\nkind = "lan"\nurl = "http://a:1/api/v1"\nnodes = ["http://b"]\nweights = [1, 2]\n')
    assert etc.fleet().upstreams["pool"].nodes == (Node(False, "a", 1, "/api/v1"), Node(False, "b", 80, "/v1", 2))


def test_nothing_leaves_the_machine_unless_a_tier_says_so(etc: Etc) -> None:
    etc.model("vision")
    path = etc.settings(CLOUD + '[tiers.t]\nroutes = ["vision", "cloud/meta/x"]\n')
    note = etc.note()
    assert (note.path, note.key, note.value) == (path, "tiers.t.routes", '"cloud/meta/x"')
    assert (note.error, note.remedy) == (False, 'remove it, or set leave = "cloud"')
    assert etc.fleet().tiers["t"].leave is Reach.LOCAL
    assert etc.fleet().tiers["t"].routes[1] == Route("meta/x", "cloud")


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ('[tiers.t]\nroutes = ["visiom"]\n', "tiers.t.routes", "did you mean"),
        ('[tiers.t]\nroutes = ["clod/x"]\n' + CLOUD, "tiers.t.routes", "did you mean"),
        ('[tiers.t]\nroutes = ["spark/x"]\n', "tiers.t.routes", "describe it in [upstreams.spark]"),
        ('[tiers.t]\nroutes = []\n', "tiers.t.routes", "nobody could answer"),
        ('[tiers.t]\nroutes = ["vision", "vision"]\n', "tiers.t.routes", "more than once"),
        ('[tiers.t]\nroutes = ["/x"]\n', "tiers.t.routes[0]", "UPSTREAM/MODEL"),
        ('[tiers.t]\npatience = "5s"\n', "tiers.t.routes", "missing"),
        ('[tiers.vision]\nroutes = ["vision"]\n', "tiers.vision", "the model vision goes by that name"),
        ('[tiers.t]\nroutes = ["vision"]\nserves = ["qwen"]\n', "tiers.t.serves", "the model vision"),
        ('[tiers.t]\nroutes = ["vision"]\npatiense = 1\n', "tiers.t.patiense", "patience"),
        ('[tiers.t]\nroutes = ["vision"]\nleave = true\n', "tiers.t.leave", "no, lan, cloud"),
        ('[tiers.t]\nroutes = ["vision"]\neffort = ["hard"]\n', "tiers.t.effort[0]", "high"),
        (
            '[tiers.t]\nroutes = ["vision"]\neffort = ["low"]\n[tiers.u]\nroutes = ["vision"]\neffort = ["low"]\n',
            "tiers.u.effort",
            "chooses the tier t already",
        ),
        ('[upstreams.c]\nkind = "cloud"\nurl = "http://api.example.com"\n', "upstreams.c.url", "use https"),
        ('[upstreams.c]\nkind = "cloud"\nurl = "https://me:pass@example.com"\n', "upstreams.c.url", "credential"),
        ('[upstreams.c]\nkind = "lan"\nurl = "spark.local:8120"\n', "upstreams.c.url", "http://spark.local:8120"),
        ('[upstreams.c]\nkind = "lan"\nurl = "http://x/v1?key=1"\n', "upstreams.c.url", "plain path"),
        ('[upstreams.c]\nkind = "lan"\nurl = "http://x:99999"\n', "upstreams.c.url", "not a URL"),
        ('[upstreams.c]\nkind = "lan"\nurl = "http://x"\nweights = [1, 2]\n', "upstreams.c.weights", "one for url"),
        ('[upstreams.c]\nkind = "lan"\nurl = "http://x"\n[upstreams.c.models.m]\npirce = 1\n',
         "upstreams.c.models.m.pirce", "the keys are"),
        ('[upstreams.c]\nkind = "lan"\nurl = "http://x"\n[upstreams.c.models.m]\nprompt-price = -1\n',
         "upstreams.c.models.m.prompt-price", "from 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(etc: Etc, text: str, key: str, said: str) -> None:
    etc.model("vision", serves='["qwen"]')
    path = etc.settings(text)
    problem = etc.problem()
    assert (problem.path, problem.key) == (path, key)
    assert said in f"{problem.message}; {problem.remedy}"


def test_a_key_that_was_written_into_the_file_is_not_shown_again(etc: Etc) -> None:
    etc.settings(CLOUD + 'key = "sk-secret secret/secret"\n')
    assert "LoadCredentialEncrypted" in etc.problem().remedy
    assert "secret" not in str(etc.problem())
    etc.settings('[upstreams.c]\nkind = "cloud"\nurl = "https://me:secret@example.com"\n')
    assert "secret" not in str(etc.problem())


def test_a_cap_that_nothing_counts_against_is_a_note(etc: Etc) -> None:
    etc.settings(CLOUD + "daily-cap = 5\n")
    assert etc.note().key == "upstreams.cloud.daily-cap"


def test_a_tier_keeps_the_name_of_a_model_whose_file_is_broken(etc: Etc) -> None:
    from aitherd.config import load

    etc.model("vision", engine='"nonsense"')
    etc.settings('[tiers.t]\nroutes = ["vision"]\n')
    fleet, _ = load((etc.root,), partial=True)
    assert fleet is not None
    assert fleet.tiers["t"].routes == (Route("vision"),)
