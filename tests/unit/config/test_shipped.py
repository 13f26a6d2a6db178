"""The files in `etc/`: generated ones are up to date, and the model files are in order where their programs exist."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from aitherd.config import Settings, check_devices, load, model_schema
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


def test_the_shipped_models_are_in_order_and_fit_a_card_of_32_gb(installed: Etc) -> None:
    fleet, problems = installed.load()
    assert fleet is not None
    assert problems == ()
    assert check_devices(fleet, CARD) == ()
    assert {name: str(model.residency_class) for name, model in fleet.models.items()} == {
        "orchestrator": "essential",
        "vision": "on-demand",
    }
    assert set(fleet.names) == {"orchestrator", "aither-orchestrator", "vision", "qwen2.5-vl"}


@pytest.mark.parametrize(("name", "flags"), [("orchestrator", ORCHESTRATOR), ("vision", VISION)])
def test_the_shipped_models_run_with_the_flags_that_were_tried(installed: Etc, name: str, flags: list[str]) -> None:
    assert list(installed.loaded(name).command[-len(flags) :]) == flags


def test_the_orchestrator_is_refused_below_its_minimum(installed: Etc) -> None:
    path = installed.models / "orchestrator.toml"
    path.write_text(
        path.read_text().replace('"--gpu-memory-utilization", "0.60"', '"--gpu-memory-utilization", "0.27"')
    )
    assert "0.27" in installed.problem().message


def test_loading_the_values_needs_nothing_that_is_slow_to_import() -> None:
    code = "import sys, aitherd.config; print(*{'pydantic', 'tomllib', 'difflib', 'httpx'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=SHIPPED.parent)
    assert done.stdout.strip() == ""


def test_the_repository_has_no_other_configuration() -> None:
    fleet, problems = load((SHIPPED,))
    assert fleet is None  # their programs are not here
    assert {problem.key for problem in problems} == {"command"}
