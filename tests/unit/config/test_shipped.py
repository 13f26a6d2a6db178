"""The files in `etc/`: generated ones are up to date, and the model files are in order where their programs exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from aitherd.config import Settings, load, model_schema
from aitherd.config.schema import generated
from aitherd.config.written import ModelFile
from tests.unit.config.conftest import Etc

SHIPPED = Path(__file__).parents[3] / "etc"
CARD = {"gpu0": 32606 * 2**20}

ORCHESTRATOR = shlex.split(
    "--model cyankiwi/Nemotron-Orchestrator-8B-AWQ-4bit --kv-cache-dtype tq-t4nc --gpu-memory-utilization 0.60 "
    "--max-model-len 32768 --dtype auto --served-model-name aither-orchestrator --max-num-seqs 16 "
    "--enable-auto-tool-choice --tool-call-parser hermes --enable-chunked-prefill --enable-prefix-caching "
    """--compilation-config '{"cudagraph_mode":"piecewise","max_cudagraph_capture_size":16}'"""
)
VISION = shlex.split("-ngl 99 --no-mmproj-offload --ctx-size 4096 --alias qwen2.5-vl --jinja")
IMAGINE = shlex.split("--normalvram --reserve-vram 9 --cache-lru 16")
HOST_BYTES = 125 * 2**30
"""What a machine with 128 GB has, as the kernel counts."""
LEFT_TO_OTHERS = 18 * 2**30
"""Host memory that the fleet must leave to the desktop and to the cache of weights, at the least."""
CHALLENGERS = {"challenger", "challenger-offload"}


@pytest.fixture
def installed(etc: Etc) -> Etc:
    """The shipped model files, with programs of these names in place."""
    for path in (SHIPPED / "models.d").glob("*.toml"):
        text = path.read_text()
        first = tomllib.loads(text)["command"][0]
        (etc.models / path.name).write_text(text.replace(f'    "{first}"', f'    "{etc.program}"', 1))
    return etc


@pytest.mark.parametrize(("path", "text"), list(generated()), ids=lambda value: str(value)[:30])
def test_a_generated_file_is_up_to_date(path: Path, text: str) -> None:
    assert (SHIPPED / path).read_text() == text, "run `make schema`"


def test_the_template_shows_every_setting_at_its_default(etc: Etc) -> None:
    lines = (SHIPPED / "aitherd.toml").read_text().splitlines()
    plain = [line for line in lines if line and not line.startswith("#")]
    assert plain == ["[arbiter]", "[models]", "[proxy]", "[log]"]
    etc.settings("\n".join(line[1:] if line.startswith("#") and line[1] != " " else line for line in lines))
    assert etc.fleet().settings == Settings()
    written = sum(len(section) for section in tomllib.loads((etc.root / "aitherd.toml").read_text()).values())
    assert written == len(Settings.__dataclass_fields__)


def test_the_schema_knows_every_key_of_a_model_file() -> None:
    keys = model_schema()["properties"]
    assert keys.keys() == {field.alias for field in ModelFile.model_fields.values()}
    assert all(entry.get("description") for entry in keys.values())
    assert "MemoryMax" in keys["resources"]["properties"]


def test_the_schema_program_writes_the_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "aitherd.config.schema", str(tmp_path)], check=True, cwd=SHIPPED.parent)
    json.loads((tmp_path / "schema" / "model.schema.json").read_text())
    assert (tmp_path / "aitherd.toml").read_text() == (SHIPPED / "aitherd.toml").read_text()


def test_the_shipped_models_are_in_order_and_say_what_they_are(installed: Etc) -> None:
    fleet, problems = installed.load()
    assert fleet is not None
    assert problems == ()
    assert {name: (model.engine, str(model.residency_class)) for name, model in fleet.models.items()} == {
        "orchestrator": ("vllm", "essential"),
        "vision": ("llama-server", "on-demand"),
        "embed": ("vllm", "resident"),
        "challenger": ("vllm", "on-demand"),
        "challenger-offload": ("vllm", "on-demand"),
        "imagine": ("comfyui", "on-demand"),
        "listen": ("speaches", "on-demand"),
        "speak": ("xtts", "on-demand"),
    }
    assert {fleet.models[name].swap_slot for name in CHALLENGERS} == {"challenger"}
    assert fleet.names.keys() == fleet.models.keys() | {
        "aither-orchestrator", "qwen2.5-vl", "nomic-embed-text", "gemma-4-26b-a4b", "gemma-4-26b-a4b-offload",
        "Systran/faster-whisper-large-v3",
    }  # fmt: skip


def test_only_the_challenger_never_fits_a_card_of_32_gb(installed: Etc) -> None:
    """Also where the driver keeps half a GiB for itself, and with the embedder in its place."""
    (never,) = installed.devices(**CARD)
    assert (never.path.stem, never.error) == ("challenger", False)
    assert "challenger can never be loaded beside the essential models" in never.message
    fleet = installed.fleet().sized(CARD)
    room = (
        CARD["gpu0"] - 2 * fleet.settings.reserve - sum(fleet.models[name].vram for name in ("orchestrator", "embed"))
    )
    assert {name for name, model in fleet.models.items() if model.vram > room} == {"orchestrator", "challenger"}


def test_the_shipped_models_leave_host_memory_to_others(installed: Etc) -> None:
    models = installed.fleet().models
    high, most = (
        {name: int(str(model.resources[limit][1])) for name, model in models.items()}
        for limit in ("MemoryHigh", "MemoryMax")
    )
    for challenger in CHALLENGERS:
        assert HOST_BYTES - sum(most.values()) + most[challenger] >= LEFT_TO_OTHERS
    assert all(high[name] < most[name] for name in models)
    # The sum that people read is the sum that is set.
    said = re.findall(r"\b([a-z-]+) ([0-9]+)(?: [+(]|,|  )", _sum_in_words())
    assert {name: int(size) * 2**30 for name, size in said if name in models} == most


def _sum_in_words() -> str:
    text = (SHIPPED / "models.d" / "orchestrator.toml").read_text()
    return text[text.index("MemoryMax of each") : text.index("That leaves")]


def test_every_shipped_model_is_weighed_against_the_desktop(installed: Etc) -> None:
    weights = {name: model.resources["CPUWeight"][1] for name, model in installed.fleet().models.items()}
    assert max(weights, key=lambda name: int(str(weights[name]))) == "orchestrator"


@pytest.mark.parametrize(("name", "flags"), [("orchestrator", ORCHESTRATOR), ("vision", VISION)])
def test_the_shipped_models_run_with_the_flags_that_were_tried(installed: Etc, name: str, flags: list[str]) -> None:
    assert list(installed.loaded(name).command[-len(flags) :]) == flags


def test_comfyui_runs_with_the_flags_that_were_tried(installed: Etc) -> None:
    command = installed.loaded("imagine").command
    begin = command.index("--normalvram")
    assert list(command[begin : begin + len(IMAGINE)]) == IMAGINE


def test_the_orchestrator_is_refused_below_its_minimum(installed: Etc) -> None:
    path = installed.models / "orchestrator.toml"
    path.write_text(
        path.read_text().replace('"--gpu-memory-utilization", "0.60"', '"--gpu-memory-utilization", "0.27"')
    )
    assert "0.27" in installed.problem().message


def test_an_orchestrator_without_graphs_draws_a_warning(installed: Etc) -> None:
    path = installed.models / "orchestrator.toml"
    path.write_text(
        path.read_text().replace('"--enable-prefix-caching"', '"--enable-prefix-caching", "--enforce-eager"')
    )
    note = installed.note()
    assert (note.path, note.value, note.error) == (path, '"--enforce-eager"', False)


def test_loading_the_values_needs_nothing_that_is_slow_to_import() -> None:
    code = "import sys, aitherd.config; print(*{'pydantic', 'tomllib', 'difflib', 'httpx'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=SHIPPED.parent)
    assert done.stdout.strip() == ""


def test_the_repository_has_no_other_configuration() -> None:
    fleet, problems = load((SHIPPED,))
    assert fleet is None  # their programs are not here
    assert {problem.key for problem in problems} == {"command"}
