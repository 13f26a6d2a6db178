"""Files to a checked fleet: reads what counts, collects every problem, and lets nothing half checked through.

What one key may hold is in `written.py`, what the keys of one file mean together in `checks.py`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from aitherd.config import tiers
from aitherd.config.callers import callers
from aitherd.config.checks import Findings, build
from aitherd.config.files import Unreadable, model_sources, read, settings_source
from aitherd.config.fleet import Fleet, Model, Service, Settings
from aitherd.config.kinds import check_name
from aitherd.config.places import located
from aitherd.config.problem import BadValue, Problem, shown, suggestion
from aitherd.config.properties import RESOURCES, SERVICE
from aitherd.config.services import services
from aitherd.config.written import ModelFile, SettingsFile, Written
from aitherd.core.callers import Rule
from aitherd.core.upstreams import Tier, Upstream

File = TypeVar("File", bound=Written)

MAX_DEPTH = 8
"""Tables and lists in each other; the deepest that means anything is a list in a table of an upstream's: 6."""
MAX_LINE = 4096
"""Characters; the time and memory that tomllib takes for a dotted key grow with the square of its length."""

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")

_KINDS: Mapping[str, tuple[str, str]] = {
    "missing": ("it is missing", "set it"),
    "list_type": ("not a list", 'write ["one", "two"]'),
    "dict_type": ("not a table", "write it as a table, [resources] or [service]"),
    "model_type": ("not a table", "write it as a table in brackets"),
}
"""pydantic's own errors, for people: type -> message and remedy."""


def load(directories: Sequence[Path], *, user: bool, partial: bool) -> tuple[Fleet | None, tuple[Problem, ...]]:
    """See `aitherd.config.load`."""
    problems: list[Problem] = []
    source = settings_source(directories)
    written = (
        SettingsFile.model_validate({})
        if source is None or source.masked
        else _written(source.path, SettingsFile, problems)
    )
    # Model files are checked all the same, so that all problems are told at once.
    settings = written.settings() if written is not None else Settings()
    sources, unlisted = model_sources(directories)
    problems.extend(unlisted)
    models = [_model(source.path, settings, problems, user=user) for source in sources if not source.masked]
    found = {model.name: model for model in models if model is not None}
    asked = _names(found.values(), problems)
    _ports(found.values(), problems)
    files = {source.path.name.removesuffix(".toml") for source in sources if not source.masked}
    upstreams: Mapping[str, Upstream] = {}
    chains: Mapping[str, Tier] = {}
    rules: Mapping[str, Rule] = {}
    foreign: Mapping[str, Service] = {}
    if source is not None and written is not None:
        upstreams = tiers.upstreams(source.path, written, problems)
        chains = tiers.tiers(source.path, written, upstreams, files, asked, problems)
        rules = callers(source.path, written, problems)
        foreign = services(source.path, written, asked, problems)
    broken = {problem.path for problem in problems if problem.error}
    if broken and (not partial or broken - {source.path for source in sources}):
        return None, located(problems)
    found = {name: model for name, model in found.items() if model.path not in broken}
    names = _names(found.values(), [])
    fleet = Fleet(settings, MappingProxyType(found), MappingProxyType(names), chains, upstreams, rules, foreign)
    return fleet, located(problems)


def _model(path: Path, settings: Settings, problems: list[Problem], *, user: bool) -> Model | None:
    name = path.name.removesuffix(".toml")
    findings = Findings(path)
    try:
        check_name(name)
    except BadValue as bad:
        findings.error("", name, bad.message, f"rename the file: {bad.remedy}")
    written = _written(path, ModelFile, findings.problems)
    model = build(name, written, settings, findings, user=user) if written is not None else None
    problems.extend(findings.problems)
    return None if any(problem.error for problem in findings.problems) else model


def _written(path: Path, kind: type[File], problems: list[Problem]) -> File | None:
    """The content of one file, or None after its problems have been added."""
    try:
        return kind.model_validate(_parsed(path, read(path)))
    except Unreadable as error:
        problems.append(error.problem)
    except ValidationError as error:
        problems.extend(_problem(path, kind, dict(detail)) for detail in error.errors(include_url=False))
    return None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    """The TOML document. Raises Unreadable."""
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_LINE:
            message = f"a line of more than {MAX_LINE} characters"
            raise Unreadable(
                Problem(path, "", "", message, "break it up, or move the file away", line=number, column=1)
            )
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Unreadable(_syntax(path, text, str(error))) from error
    except (ValueError, RecursionError, OverflowError) as error:
        # Numbers with thousands of digits, dates that do not exist, brackets nested without end.
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Unreadable(Problem(path, "", "", f"not TOML that can be read: {reason}", "correct the file")) from error
    if not _flat(document):
        # Dotted keys nest without the parser recursing; whatever looks at the values may recurse from here on.
        raise Unreadable(
            Problem(path, "", "", "nested too deeply", "no key goes deeper than [upstreams.NAME.models.NAME]")
        )
    return document


def _flat(document: dict[str, Any]) -> bool:
    """Whether tables and lists are nested no deeper than MAX_DEPTH."""
    level: list[dict[str, Any] | list[Any]] = [document]
    for _ in range(MAX_DEPTH):
        values = (value for outer in level for value in (outer.values() if isinstance(outer, dict) else outer))
        level = [value for value in values if isinstance(value, dict | list)]
        if not level:
            return True
    return False


def _syntax(path: Path, text: str, message: str) -> Problem:
    place = _PLACE.search(message)
    lines = text.split("\n")
    line, column = len(lines), len(lines[-1]) + 1
    if place is not None and place[1]:
        line, column = int(place[1]), int(place[2])
    shown_line = lines[line - 1] if line <= len(lines) else ""
    return Problem(
        path,
        "",
        "",
        f"not TOML: {_PLACE.sub('', message)}",
        "text goes in quotation marks, lists in square brackets, one key a line",
        line=line,
        column=column,
        detail=(shown_line, f"{' ' * (column - 1)}^") if len(shown_line) <= 200 else (),
    )


def _problem(path: Path, kind: type[Written], detail: Mapping[str, Any]) -> Problem:
    location: Sequence[str | int] = detail["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
    cause = detail.get("ctx", {}).get("error")
    value = "" if detail["type"] == "missing" else shown(detail["input"])
    if isinstance(cause, BadValue):
        return Problem(path, key, "" if cause.secret else value, cause.message, cause.remedy)
    if detail["type"] == "extra_forbidden":
        return Problem(path, key, value, "unknown key", _known(kind, location))
    message, remedy = _KINDS.get(detail["type"], (str(detail["msg"]), "correct the value"))
    return Problem(path, key, value, message, remedy)


def _known(kind: type[Written], location: Sequence[str | int]) -> str:
    """A remedy for an unknown key: where it belongs, or the nearest one."""
    name = str(location[-1])
    if kind is ModelFile:
        for table, entries in (("resources", RESOURCES), ("service", SERVICE)):
            if name in entries:
                return f"move it below [{table}]"
    for part in location[:-1]:
        field = kind.model_fields.get(str(part))
        if field is None:
            continue  # the name of a table of which there may be many: its kind is known already
        annotation = field.annotation
        kind = annotation if isinstance(annotation, type) else get_args(annotation)[1]
    known = [field.alias or name for name, field in kind.model_fields.items()]
    return suggestion(name, known, f"remove it; the keys are {', '.join(known)}")


def _names(models: Iterable[Model], problems: list[Problem]) -> dict[str, str]:
    """Every name that clients may ask for. A model's own name cannot be served by another."""
    models = tuple(models)
    owners = {model.name: model for model in models}
    for model in models:
        for served in model.serves:
            owner = owners.setdefault(served, model)
            if owner is not model:
                what = "is the name of" if owner.name == served else "serves the same name as"
                problems.append(
                    Problem(
                        model.path,
                        "serves",
                        shown(served),
                        f"it {what} the model {owner.name} in {owner.path}",
                        "let one of the two go by another name",
                    )
                )
    return {name: model.name for name, model in owners.items()}


def _ports(models: Iterable[Model], problems: list[Problem]) -> None:
    taken: dict[int, Model] = {}
    for model in models:
        if model.port is not None and (other := taken.setdefault(model.port, model)) is not model:
            problems.append(
                Problem(
                    model.path,
                    "port",
                    str(model.port),
                    f"the model {other.name} in {other.path} has the same port",
                    "take another port, or leave it out",
                )
            )
