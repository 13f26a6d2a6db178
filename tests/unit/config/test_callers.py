"""Callers in `aitherd.toml`: what they become, and what is refused with file, key and remedy."""

from __future__ import annotations

import os

import pytest

from aitherd.core.callers import Caller, Rule
from aitherd.core.words import Priority
from tests.unit.config.conftest import Etc


def test_users_and_groups_become_numbers(etc: Etc) -> None:
    etc.settings(
        '[callers.captions]\nuser = "root"\npriority = "batch"\nweight = 2\nconcurrency = 4\nrate = 60\n'
        '[callers.staff]\ngroup = "root"\n[callers.laptop]\nkey = "laptop-key"\n[callers.number]\nuser = "4711"\n'
    )
    assert etc.fleet().callers == {
        "captions": Rule(Caller("captions", Priority.BATCH, 2, 4, 60), uid=0),
        "staff": Rule(Caller("staff"), gid=0),
        "laptop": Rule(Caller("laptop"), key="laptop-key"),
        "number": Rule(Caller("number"), uid=4711),
    }


def test_a_user_that_does_not_exist_yet_is_said_and_is_nobody(etc: Etc) -> None:
    path = etc.settings('[callers.captions]\nuser = "no-such-user"\n')
    note = etc.note()
    assert (note.path, note.key, note.error) == (path, "callers.captions.user", False)
    rule = etc.fleet().callers["captions"]
    assert rule.uid not in (None, os.getuid()) and not rule.everybody


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ('[callers.a]\nuser = "0"\n[callers.b]\nuser = "root"\n', "callers.b.user", "the caller a already"),
        ('[callers.a]\nkey = "k"\n[callers.b]\nkey = "k"\n', "callers.b.key", "the caller a already"),
        ("[callers.a]\nrate = 5\n[callers.b]\nweight = 2\n", "callers.b", "the caller a already"),
        ('[callers.a]\npriority = "urgent"\n', "callers.a.priority", "not one of interactive, batch"),
        ("[callers.a]\nconcurrency = 0\n", "callers.a.concurrency", "from 1 to"),
        ('[callers.a]\ncolour = "red"\n', "callers.a.colour", "unknown key"),
    ],
)
def test_what_is_wrong_with_a_caller_is_told(etc: Etc, text: str, key: str, said: str) -> None:
    path = etc.settings(text)
    problem = etc.problem()
    assert (problem.path, problem.key) == (path, key)
    assert said in str(problem)


def test_a_key_written_instead_of_its_credentials_name_is_not_shown(etc: Etc) -> None:
    etc.settings('[callers.a]\nkey = "sk secret!"\n')
    assert "secret" not in str(etc.problem())
