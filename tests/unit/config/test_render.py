"""The configuration as people and programs read it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from aitherd.config import check_devices
from aitherd.config.render import cat, report, report_json
from aitherd.config.schema import EXAMPLES
from aitherd.core.words import HOST
from tests.unit.config.conftest import GIB, Etc

CARD = {"gpu0": 24 * GIB, HOST: 128 * GIB}


def test_cat_shows_every_file_that_counts_below_its_path(etc: Etc, directory: Callable[[str], Etc]) -> None:
    vendor = directory("vendor")
    weaker = vendor.model("vision", description='"old"')
    hidden = vendor.model("speak")
    main, vision = etc.settings("[log]"), etc.model("vision", description='"new"')
    (etc.models / "speak.toml").symlink_to(os.devnull)
    text = cat((etc.root, vendor.root))
    assert text.startswith(f"# {main}\n[log]\n\n")
    assert f"# {vision} (overrides {weaker})\n{vision.read_text()}" in text
    assert f"# {etc.models / 'speak.toml'} is masked, and hides {hidden}\n" in text
    assert "old" not in text


def test_cat_says_what_it_cannot_read_and_when_there_is_nothing(etc: Etc) -> None:
    assert cat((etc.root,)) == f"# there are no configuration files in {etc.root}\n"
    (etc.models / "vision.toml").mkdir()
    assert "it is a directory" in cat((etc.root,))


def test_a_report_of_a_good_configuration_shows_models_and_budgets(etc: Etc) -> None:
    etc.model("orchestrator", vram='"19 GiB"', **{"class": '"essential"'})
    limits = '[resources]\nMemoryHigh = "10G"\nMemoryMax = "12G"\n'
    etc.model("vision", limits, serves='["qwen2.5-vl"]', vram='"4 GiB"', swap_slot='"heavy"')
    text = report(*etc.load(), CARD)
    models, budget, host, _ = text.split("\n\n")
    rows = {line.split()[0]: line.split() for line in models.splitlines()}
    assert rows.keys() == {"MODEL", "orchestrator", "vision"}
    assert "vision        on-demand (heavy)  llama-server  4 GiB" in text
    assert rows["vision"][-6:] == ["10", "GiB", "12", "GiB", "5min", "qwen2.5-vl"]
    assert budget.splitlines() == [
        "gpu0                24 GiB",
        "reserve           -512 MiB",
        "orchestrator       -19 GiB  essential",
        "for all others     4.5 GiB",
        "  vision             4 GiB",
    ]
    assert host.splitlines() == [
        "host memory: 1 of 2 models are limited, to 12 GiB together; the machine has 128 GiB",
        "host               128 GiB",
        "vision             -12 GiB  at most (MemoryMax)",
        "for all others     116 GiB",
    ]
    assert text.endswith("The configuration is valid.\n")


def test_a_report_says_what_never_fits_and_what_the_host_does_not_have(etc: Etc) -> None:
    etc.model("orchestrator", vram='"19 GiB"', **{"class": '"essential"'})
    etc.model("challenger", '[resources]\nMemoryMax = "200G"\n', vram='"16 GiB"')
    text = report(*etc.load(), CARD)
    assert "  challenger        16 GiB  never fits: 11.5 GiB too much" in text
    assert "for all others     -72 GiB  they cannot all take what they may: lower MemoryMax of one" in text


def test_a_report_without_devices_still_shows_the_models(etc: Etc) -> None:
    command = f'["{etc.program}", "--gpu-memory-utilization", "0.60"]'
    etc.model("orchestrator", engine='"vllm"', vram="", command=command)
    text = report(*etc.load(), {})
    assert "60%" in text
    assert "gpu0" not in text


def test_a_report_of_a_bad_configuration_shows_errors_first_and_refuses(etc: Etc) -> None:
    etc.model("a", **{"class": '"resident"', "idle": '"5min"'})
    (etc.models / "b.toml").write_text('engine = "vllm"\nvram = 5 GiB\n')
    fleet, problems = etc.load()
    lines = report(fleet, problems, CARD).splitlines()
    assert lines[0].startswith(f"error: {etc.models / 'b.toml'}:2:10: not TOML")
    assert lines[1:3] == ["    vram = 5 GiB", "             ^"]
    assert any(line.startswith(f"note: {etc.models / 'a.toml'}:") and ": idle = " in line for line in lines)
    assert lines[-1] == "The configuration is refused: 1 error, 1 note."


def test_a_fleet_that_does_not_fit_is_refused_with_the_sum_line_by_line(etc: Etc) -> None:
    etc.model("orchestrator", vram='"30 GiB"', **{"class": '"essential"'})
    fleet, problems = etc.load()
    assert fleet is not None
    text = report(fleet, (*problems, *check_devices(fleet, CARD)), CARD)
    assert f"    orchestrator     30 GiB  {etc.models}/orchestrator.toml\n" in text
    assert "    missing         6.5 GiB\n" in text
    assert text.endswith("refused: 1 error.\n")


def test_the_report_for_programs_is_json_with_bytes_and_seconds(etc: Etc) -> None:
    path = etc.model("vision", '[resources]\nMemoryMax = "12G"\n', **{"class": '"resident"', "idle": '"5min"'})
    fleet, problems = etc.load()
    data = json.loads(json.dumps(report_json(fleet, problems, CARD)))
    assert data["valid"] is True
    assert [problem["path"] for problem in data["problems"]] == [str(path)]
    (model,) = data["models"]
    assert (model["class"], model["idle"], model["memory_max"]) == ("resident", None, 12 * GIB)
    assert data["settings"]["wait"] == 600.0
    assert data["devices"][0]["left"] == 24 * GIB - GIB // 2


def test_the_report_for_programs_of_a_bad_configuration_has_its_problems(etc: Etc) -> None:
    etc.model("vision", vram='"x"')
    data = json.loads(json.dumps(report_json(*etc.load(), CARD)))
    assert (data["valid"], data["models"], data["settings"]) == (False, [], None)
    assert data["problems"][0]["key"] == "vram"


def test_a_report_lists_tiers_upstreams_and_callers(etc: Etc) -> None:
    for name in ("orchestrator", "embed"):
        etc.model(name)
    etc.settings("\n".join(EXAMPLES.values()).replace('user        = "captions"', 'user = "4711"'))
    fleet, problems = etc.load()
    _, tiers, upstreams, callers, *_ = report(fleet, problems, CARD).split("\n\n")
    assert [line.split() for line in tiers.splitlines()] == [
        ["TIER", "LEAVE", "PATIENCE", "EFFORT", "ROUTES"],
        [*["reasoning", "cloud", "5s", "medium", "high", "orchestrator", ">", "spark/reasoning", ">", "cloud/gpt-x"]],
        [*["fast", "lan", "5s", "minimal", "low", "orchestrator", ">", "spark/reflex"]],
        [*["documents", "lan", "5s", "-", "embed", ">", "spark/embed"]],
    ]
    assert [line.split() for line in upstreams.splitlines()][1:] == [
        [*["spark", "lan", "http://spark.local:8120/v1", "2", "16", "-", "-", "chat", "completions", "tools"]],
        [*["http://spark-2.local:8120/v1", "1", "16"]],
        [*["cloud", "cloud", "https://api.example.com:443/v1", "1", "64", "example-key", "5", "chat", "completions"]],
    ]
    assert [line.split() for line in callers.splitlines()][1:] == [
        [*["captions", "batch", "1", "4", "-", "uid", "4711"]],
        [*["laptop", "interactive", "1", "-", "60", "key", "laptop-key"]],
    ]
    data = json.loads(json.dumps(report_json(fleet, problems, CARD)))
    assert [tier["name"] for tier in data["tiers"]] == ["reasoning", "fast", "documents"]
    assert data["tiers"][0]["leave"] == "cloud"
    assert data["upstreams"][0]["nodes"][1] == {"url": "http://spark-2.local:8120/v1", "weight": 1}
    assert data["upstreams"][1]["models"]["gpt-x"]["answer_price"] == 10.0
    assert (data["callers"][0]["uid"], data["callers"][1]["key"]) == (4711, "laptop-key")
