"""The manual names what there is and nothing else, and its examples are true.

The lists that `tests/manual.py` generates are compared in `tests/unit/test_generated.py`; here is what hands wrote.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aitherd import daemon, errors
from aitherd.conductor.records import Event
from aitherd.config import load
from aitherd.config.properties import read
from aitherd.config.written import ModelFile, Written, sections
from aitherd.core.words import Residency, ResidencyClass
from aitherd.ctl import __main__ as aitherctl
from aitherd.ctl.arguments import parse, parser
from aitherd.ctl.explain import EVENT_WIDTH, plan_lines
from aitherd.ctl.failure import Exit
from aitherd.ctl.show import model_table
from aitherd.engines import ENGINES
from aitherd.proxy import refusals, routes
from tests import manual

PAGES = sorted(manual.PAGES.iterdir())
SETTINGS, MODEL, CONTROL, DAEMON = manual.SETTINGS, manual.MODEL, manual.CONTROL, manual.DAEMON
GIB = 2**30
SECTIONS: list[type[Written]] = [one for _, one in sections()]

FLEET: tuple[dict[str, Any], ...] = (
    {"name": "imagine", "class": "on-demand", "residency": "ready", "expected_bytes": int(8.4 * GIB), "left": 240.0,
     "measured_bytes": {"gpu0": int(8.4 * GIB)}, "description": "ComfyUI: renders images"},
    {"name": "orchestrator", "class": "essential", "residency": "ready", "expected_bytes": int(19.1 * GIB),
     "measured_bytes": {"gpu0": int(19.1 * GIB)}, "held": True, "in_flight": 1, "description": "always on"},
    {"name": "vision", "class": "on-demand", "residency": "absent", "expected_bytes": int(5.2 * GIB), "waiting": 2,
     "description": "captions images"},
)  # fmt: skip
PLAN = {
    "model": "vision",
    "possible": True,
    "seconds": 61.0,
    "placement": ["gpu0"],
    "spare": {"gpu0": int(5.5 * GIB)},
    "why": "vision needs 5.2 GiB on gpu0; above the reserve 2.8 GiB on gpu0 is free; imagine must give way",
    "steps": [
        {"verb": "free", "model": "imagine", "level": 0, "takes": {"gpu0": -int(7.9 * GIB)}, "seconds": 1.0,
         "why": "makes room for vision, unused for 7.0 s; 7.9 GiB on gpu0 expected back"},
        {"verb": "start", "model": "vision", "level": 0, "takes": {"gpu0": int(5.2 * GIB)}, "seconds": 60.0,
         "why": "takes 5.2 GiB on gpu0"},
    ],
}  # fmt: skip
NEVER = {
    "model": "challenger",
    "possible": False,
    "kind": "never",
    "missing": int(7.8 * GIB),
    "holders": [{"name": "orchestrator", "device": "gpu0", "bytes": int(19.1 * GIB), "why": "essential"}],
    "why": "challenger needs 20 GiB on gpu0, where at most 12.2 GiB can ever be free, 7.8 GiB short: of 31.8 GiB, "
    "orchestrator keeps 19.1 GiB (essential), 512 MiB are reserved",
}


def plain(page: Path) -> str:
    """A page without what is only for roff."""
    text = re.sub(r'^\.\\".*\n', "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = re.sub(r"\\f[BIRP]", "", text)
    for roff, said in (("\\-", "-"), ("\\&", ""), ("\\(bu", "●"), ("\\(mu", "×"), ("\\e", "\\")):
        text = text.replace(roff, said)
    return text


def section(page: Path, name: str) -> str:
    """What stands below one heading."""
    found = re.search(rf'^\.SH "?{re.escape(name)}"?\n(.*?)(?=^\.SH |\Z)', plain(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no section {name}"
    return found[1]


def tags(text: str) -> Iterator[str]:
    """The heads of a list of definitions, without macros and quotation."""
    for head in re.findall(r"^\.TP\n(.*)$", text, re.MULTILINE):
        yield re.sub(r'^\.[BI]R? |" |"', "", head)


def examples(page: Path) -> Iterator[str]:
    return iter(re.findall(r"^\.EX\n(.*?)^\.EE$", plain(page), re.MULTILINE | re.DOTALL))


# --- names ------------------------------------------------------------------------------------------------------------


def test_every_command_is_described_once() -> None:
    described = [tag.split()[0] for tag in tags(section(CONTROL, "COMMANDS")) if tag[0] != "-"]
    assert sorted(described) == sorted(manual.commands())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"(?:^\.BR? \"?|\$ )aitherctl(?: --?[a-z]+)* ([a-z][a-z-]+)", plain(page), re.MULTILINE)
    assert set(named) <= manual.commands().keys()
    assert named or page == SETTINGS


def test_the_options_before_commands_are_all_described() -> None:
    known = {option for action in parser()._actions for option in action.option_strings}
    assert (
        set(re.findall(r"(?<!\S)--?[a-zA-Z]+", " ".join(tags(section(CONTROL, "OPTIONS"))).replace(",", " "))) == known
    )


def test_every_option_of_a_page_is_one_of_aitherctl() -> None:
    known = {option for action in parser()._actions for option in action.option_strings}
    known |= {o for command in manual.commands().values() for a in command._actions for o in a.option_strings}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", plain(CONTROL))) <= known


def test_every_exit_status_is_explained() -> None:
    told = [int(tag) for tag in tags(section(CONTROL, "EXIT STATUS"))]
    assert told == [*sorted(Exit), aitherctl.INTERRUPTED]
    assert [int(tag) for tag in tags(section(DAEMON, "EXIT STATUS"))] == [
        *(0, 1, 2),
        *(daemon.EX_TEMPFAIL, daemon.EX_CONFIG),
    ]


def test_every_event_is_explained() -> None:
    told = " ".join(tags(section(CONTROL, "READING THE REASONS"))).replace(",", " ").split()
    assert sorted(told) == sorted(Event)


def test_the_column_of_events_has_room_for_each() -> None:
    assert max(map(len, Event)) == EVENT_WIDTH
    shown = re.findall(r"^Nov .*", section(CONTROL, "READING THE REASONS"), re.MULTILINE)
    sentences = {len(re.match(r"\S+ \S+ \S+ \S+ +", line)[0]) for line in shown}  # type: ignore[index]
    assert sentences == {len("Nov 24 22:25:55 ") + EVENT_WIDTH + 1}


def test_every_error_is_explained_as_it_is() -> None:
    told = {}
    for tag in tags(section(DAEMON, "ERRORS")):
        found = re.fullmatch(r"(\w+) \(HTTP (\d+)(?:, D-Bus (\w+))?\)", tag)
        assert found, tag
        told[found[1]] = (int(found[2]), found[3])
    known = {"internal_error": (500, "Failed")}
    for module in (refusals, errors):
        for one in vars(module).values():
            if isinstance(one, type) and issubclass(one, errors.AitherError) and one is not errors.AitherError:
                only_http = one.__module__ == refusals.__name__
                known[one.code] = (one.status, None if only_http else one.dbus_name)  # type: ignore[assignment]
    assert told == known


def test_every_route_is_explained_with_its_method() -> None:
    told = set()
    for tag in tags(section(DAEMON, "HTTP API")):
        for one in tag.split(", "):
            method, path = one.rstrip(" ,").split(" ")
            told.add((method, path.removesuffix("/...")))
    # What the page is made of is not called by anybody else.
    known = [match.route for path, match in routes.FIXED.items() if not path.startswith(b"/page/")]
    known += [routes.MODEL, routes.SWAP, routes.UNLOAD, routes.UPSTREAM]
    assert told == {(route.methods[0].decode() if route.methods else "ANY", route.name) for route in known}


def test_refused_engine_paths_are_refused() -> None:
    named = re.findall(r"^\.IR? (/[a-z_]+)\b", section(DAEMON, "HTTP API"), re.MULTILINE)
    engine_paths = [path for path in named if path != "/run"]
    assert len(engine_paths) == 4
    for path in engine_paths:
        with pytest.raises(refusals.NoSuchRoute):
            routes.guard(path.encode())


def test_every_residency_is_explained() -> None:
    concepts = section(DAEMON, "CONCEPTS").split(".SS ")[1]
    assert list(tags(concepts)) == [str(residency) for residency in Residency]
    classes = next(part for part in section(MODEL, "OPTIONS").split(".SS ") if part.startswith("Residency class"))
    assert list(tags(classes)) == [str(one) for one in ResidencyClass]


def test_every_engine_is_explained() -> None:
    engines = next(part for part in section(MODEL, "OPTIONS").split(".SS ") if part.startswith("Engines"))
    assert list(tags(engines)) == list(ENGINES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_and_words_that_a_page_names_exist(page: Path) -> None:
    files: list[type[Written]] = [*SECTIONS, ModelFile]
    known = {str(field.alias) for one in files for field in one.model_fields.values()}
    known |= {*manual.commands(), *ENGINES, *ResidencyClass}
    bold = re.findall(r"^\.BR? ([a-z]+(?:-[a-z]+)+)(?: .*)?$", plain(page), re.MULTILINE)
    assert set(bold) - known <= {"aither-model"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_refers_to_pages_that_exist(page: Path) -> None:
    ours = {tuple(one.name.rsplit(".", 1)) for one in PAGES}
    named = set(re.findall(r"^\.BR (ai[a-z.-]+) \((\d)\)", plain(page), re.MULTILINE))
    assert named <= ours
    assert named | {tuple(page.name.rsplit(".", 1))} == ours, "SEE ALSO has all of them"


def test_paths_that_the_daemon_page_names_are_those_of_the_units() -> None:
    units = "".join(path.read_text() for path in (manual.PAGES.parents[1] / "units" / "system").iterdir())
    for line in ("ListenStream=/run/aither/aither.sock", "ListenStream=127.0.0.1:8150", "StateDirectory=aither"):
        assert line in units
        assert line.rpartition("=")[2] in plain(DAEMON)


# --- examples ---------------------------------------------------------------------------------------------------------


def files(page: Path) -> Iterator[tuple[str, str]]:
    """Path below the configuration directory and text of the files that a page shows."""
    for example in examples(page):
        if example.startswith("# /etc/aither/"):
            yield example.split("\n", 1)[0].removeprefix("# /etc/aither/"), example


def test_the_files_that_the_pages_show_are_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = [*files(SETTINGS), *files(MODEL)]
    assert len(shown) == 4
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "etc" / "models.d").mkdir(parents=True)
    for name, text in shown:
        command = tomllib.loads(text).get("command")
        there = text if command is None else text.replace(f'["{command[0]}"', f'["{program}"', 1)
        (tmp_path / "etc" / name).write_text(there)
    fleet, problems = load((tmp_path / "etc",))
    assert fleet is not None
    assert problems == ()
    assert aitherctl.main(["check-config", "--device", "gpu0=32606MiB", str(tmp_path / "etc")]) == 0
    assert "The configuration is valid.\n" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_of_examples_are_accepted(page: Path) -> None:
    for line in "\n".join(examples(page)).splitlines():
        if line.startswith("$ aitherctl "):
            parse(line.split()[2:])


@pytest.mark.parametrize("table", ["resources", "service"])
def test_properties_may_be_written_as_they_are_shown(table: str) -> None:
    values = tomllib.loads("".join(examples_of(table)))
    for name, value in values.items():
        assert read(table, name, value)


def examples_of(table: str) -> Iterator[str]:
    return iter(re.findall(r"^\.EX\n(.*?)^\.EE$", section(MODEL, table.upper()), re.MULTILINE | re.DOTALL))


def test_a_list_looks_like_that() -> None:
    rows: list[dict[str, Any]] = [
        {"in_flight": 0, "waiting": 0, "busy": False, "held": False, "error": "", "stage": "", "measured_bytes": {},
         "stops_at": time.time() + one["left"] + 5 if "left" in one else None} | one
        for one in FLEET
    ]  # fmt: skip
    assert next(iter(re.findall(r"\.EX\n(.*?)\.EE", section(CONTROL, "READING A LIST"), re.DOTALL))) == (
        model_table(rows) + "\n"
    )


def test_plans_look_like_that() -> None:
    shown = re.findall(r"\.EX\n(.*?)\.EE", section(CONTROL, "READING A PLAN"), re.DOTALL)
    assert shown == ["\n".join(plan_lines(outcome)) + "\n" for outcome in (PLAN, NEVER)]


# --- form -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_well_formed(page: Path) -> None:
    linters = {
        "mandoc": ["mandoc", "-T", "lint", "-W", "warning", str(page)],
        "man": ["man", "--warnings", "--encoding=UTF-8", "--local-file", "--troff-device=utf8", "--ditroff", str(page)],
    }
    found = [command for name, command in linters.items() if shutil.which(name)]
    if not found:
        pytest.skip("neither man nor mandoc is installed")
    for command in found:
        done = subprocess.run(
            command, capture_output=True, text=True, env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}, check=False
        )
        said = done.stderr + (done.stdout if command[0] == "mandoc" else "")
        assert (done.returncode, said) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_the_sections_that_people_look_for(page: Path) -> None:
    wanted = ["NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"]
    if page in (CONTROL, DAEMON):
        wanted += ["OPTIONS", "EXIT STATUS", "ENVIRONMENT"]
    if page == DAEMON:
        wanted += ["FILES", "SIGNALS"]
    for name in wanted:
        assert section(page, name).strip()


def test_every_key_is_described() -> None:
    keys = [field.alias for one in SECTIONS for field in one.model_fields.values()]
    assert list(tags(section(SETTINGS, "OPTIONS"))) == keys
    described = list(tags(section(MODEL, "OPTIONS").split(".SS ")[0]))
    assert described == [field.alias for field in ModelFile.model_fields.values()]
