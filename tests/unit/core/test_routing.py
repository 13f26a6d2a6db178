"""Names."""

from __future__ import annotations

from aitherd.core.routing import Catalogue, nearest

NAMES = {"vision": "vision", "qwen2.5-vl": "vision", "embed": "embed"}


def test_a_model_answers_to_its_own_name_and_to_those_it_serves() -> None:
    catalogue = Catalogue(NAMES)
    assert catalogue.resolve("vision") == "vision"
    assert catalogue.resolve("qwen2.5-vl") == "vision"


def test_an_unknown_name_stands_for_nothing() -> None:
    assert Catalogue(NAMES).resolve("Vision") is None
    assert Catalogue(NAMES).resolve("") is None


def test_what_may_have_been_meant_is_offered_likeliest_first() -> None:
    assert nearest("visoin", NAMES) == ("vision",)
    assert nearest("QWEN2.5-VL", NAMES)[0] == "qwen2.5-vl"
    assert nearest("x", NAMES) == ()
