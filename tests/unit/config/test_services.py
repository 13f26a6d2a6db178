"""Services in `aitherd.toml` that are not aitherd's: what they become, and what is refused and why."""

from __future__ import annotations

import pytest

from aitherd.config import Service
from tests.unit.config.conftest import Etc

OLLAMA = '[foreign.ollama]\nengine = "ollama"\nunit = "ollama.service"\nport = 11434\n'


def test_a_service_is_known_by_its_unit_and_its_port(etc: Etc) -> None:
    etc.settings(OLLAMA)
    assert etc.fleet().services == {"ollama": Service("ollama", "ollama", "ollama.service", 11434)}


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (OLLAMA.replace('"ollama"', '"vllm"'), "foreign.ollama.engine", "not one of ollama"),
        (OLLAMA.replace("ollama.service", "ollama"), "foreign.ollama.unit", "not the name of a unit"),
        (OLLAMA.replace("ollama.service", "aither-vision-engine.service"), "foreign.ollama.unit", "aitherd's own"),
        (OLLAMA + OLLAMA.replace("[foreign.ollama]", "[foreign.other]"), "foreign.other.unit", "it is ollama already"),
        (OLLAMA.replace("port = 11434\n", ""), "foreign.ollama.port", "it is missing"),
    ],
)
def test_what_is_wrong_with_a_service_is_told(etc: Etc, text: str, key: str, said: str) -> None:
    path = etc.settings(text)
    problem = etc.problem()
    assert (problem.path, problem.key) == (path, key)
    assert said in str(problem)


def test_a_service_and_a_model_do_not_go_by_the_same_name(etc: Etc) -> None:
    etc.settings(OLLAMA)
    etc.model("ollama")
    assert "the model ollama goes by that name" in str(etc.problem())
