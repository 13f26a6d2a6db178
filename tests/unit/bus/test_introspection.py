"""The committed introspection."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from aitherd.bus import introspection

REPOSITORY = Path(__file__).parents[3]


def test_the_committed_file_is_up_to_date() -> None:
    written = (REPOSITORY / introspection.PATH).read_text(encoding="utf-8")
    assert written == introspection.document(), "run: python -m aitherd.bus.introspection"


def test_every_member_is_explained_and_every_argument_named() -> None:
    text = introspection.document()
    root = ElementTree.fromstring(
        text, parser=ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    )
    for interface in root.iter("interface"):
        for member in (*interface.iter("method"), *interface.iter("property")):
            comments: list[object] = [child.tag for child in member if not isinstance(child.tag, str)]
            assert comments, f"{member.get('name')} has no docstring"
        assert all(argument.get("name") for argument in interface.iter("arg"))


@pytest.mark.parametrize(
    ("signature", "types"),
    [
        ("", []),
        ("su", ["s", "u"]),
        ("a(tsssa{sv})", ["a(tsssa{sv})"]),
        ("aas(b(ii))a{s(st)}v", ["aas", "(b(ii))", "a{s(st)}", "v"]),
    ],
)
def test_signatures_come_apart_into_complete_types(signature: str, types: list[str]) -> None:
    assert list(introspection.complete_types(signature)) == types
