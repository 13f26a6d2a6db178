"""What the callers of `aitherd.toml` mean on this machine: users and groups become numbers, nobody is two callers."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from aitherd.config.problem import Problem, shown
from aitherd.config.written import CallerSection, SettingsFile
from aitherd.core.callers import Caller, Rule

ID_MAX = 2**32 - 2
"""Of users and groups; the number above is nobody's. credentials(7)"""


def callers(path: Path, written: SettingsFile, problems: list[Problem]) -> Mapping[str, Rule]:
    """The callers of the file; what is wrong with them is added to `problems`."""
    found = {name: _rule(path, name, section, problems) for name, section in written.callers.items()}
    problems.extend(_twice(path, found))
    return MappingProxyType(found)


def _rule(path: Path, name: str, section: CallerSection, problems: list[Problem]) -> Rule:
    key = f"callers.{name}"
    uid = _number(path, f"{key}.user", section.user, lambda user: pwd.getpwnam(user).pw_uid, problems)
    gid = _number(path, f"{key}.group", section.group, lambda group: grp.getgrnam(group).gr_gid, problems)
    caller = Caller(name, section.priority, section.weight, section.concurrency, section.rate)
    return Rule(caller, uid, gid, section.key or "")


def _number(path: Path, key: str, said: str | None, look: Callable[[str], int], problems: list[Problem]) -> int | None:
    """The number of a user or group; one that does not exist (yet) gets one that nobody has."""
    if said is None:
        return None
    if said.isascii() and said.isdigit() and int(said) <= ID_MAX:
        return int(said)
    try:
        return look(said)
    except (KeyError, ValueError):
        remedy = "correct the name, or create it and reload"
        problems.append(Problem(path, key, shown(said), "there is none of that name", remedy, error=False))
        return -1


def _twice(path: Path, rules: Mapping[str, Rule]) -> Iterator[Problem]:
    owners: dict[tuple[str, object], str] = {}
    for name, rule in rules.items():
        marks: list[tuple[str, object]] = [("user", rule.uid), ("group", rule.gid), ("key", rule.key or None)]
        if rule.everybody:
            marks = [("", "everybody else")]
        for what, value in marks:
            if value is None or value == -1:
                continue
            owner = owners.setdefault((what, value), name)
            if owner != name:
                key = f"callers.{name}" + (f".{what}" if what else "")
                yield Problem(
                    path, key, shown(str(value)), f"that is the caller {owner} already", "let it be one of the two"
                )
