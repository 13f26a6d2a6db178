"""The shape of the house: imports point one way, files are short, every file is named after what it holds."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "aitherd"

MAY_IMPORT = {
    "core": {"core"},
    "errors": set(),
    "engines": {"engines", "core", "errors"},
    "config": {"config", "engines", "core", "errors"},
    "host": {"host", "core", "errors"},
    "failpoints": set(),
    "conductor": {"conductor", "host", "engines", "config", "core", "errors", "failpoints"},
    "proxy": {"proxy", "conductor.operations", "conductor.records", "core", "errors"},
    "bus": {"bus", "conductor.operations", "conductor.records", "core", "errors"},
    "ctl": {"ctl", "bus.names", "config", "core", "engines", "errors", "host.memory", "host.nvml"},
    "daemon": {"bus", "conductor", "config", "core", "engines", "errors", "host", "proxy"},
    "__main__": {"daemon"},
    "__init__": set(),
}
"""Part of the package to the parts, or single modules, that it may import. `aitherd` itself has only the version."""

LONGEST = 400
"""Lines of a file that one can read in a sitting."""

SHAPELESS = {"common", "helper", "helpers", "misc", "tools", "util", "utils"}
"""File names that say nothing about what belongs in them."""

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__") for path in FILES}


def part(path: Path) -> str:
    """The part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path, text: str) -> Iterator[str]:
    """Full names of our modules that a file imports, wherever in the file it does."""
    package = path.relative_to(REPOSITORY).parent.parts
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "aitherd")
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module or ""]))
            if module.split(".")[0] == "aitherd":
                # `from package import module` imports the module too.
                for alias in node.names:
                    full = f"{module}.{alias.name}"
                    yield full if full in MODULES else module


def climbs(path: Path, text: str) -> list[str]:
    """The imports of a file that its part may not have."""
    allowed = MAY_IMPORT[part(path)]
    found = []
    for module in imports(path, text):
        name = module.removeprefix("aitherd").removeprefix(".")
        if name and not any(name == one or name.startswith(f"{one}.") for one in allowed):
            found.append(module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path: Path) -> None:
    assert part(path) in MAY_IMPORT, f"{path.name}: a part that the table above does not know"
    assert climbs(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("core/arbiter.py", "from aitherd.host import systemd", ["aitherd.host.systemd"]),
        ("core/arbiter.py", "import aitherd.config", ["aitherd.config"]),
        ("core/arbiter.py", "def f():\n    from aitherd import daemon", ["aitherd.daemon"]),
        ("core/arbiter.py", "from ..errors import AitherError", ["aitherd.errors"]),
        ("core/arbiter.py", "from . import words\nfrom aitherd import __version__\nimport json", []),
        ("proxy/server.py", "from aitherd.conductor.operations import Operations", []),
        ("proxy/server.py", "from aitherd.conductor import books", ["aitherd.conductor.books"]),
        ("host/systemd.py", "from aitherd.coreutils import x", ["aitherd.coreutils"]),
    ],
)
def test_an_import_that_climbs_is_found(file: str, text: str, found: list[str]) -> None:
    assert climbs(PACKAGE / file, text) == found


@pytest.mark.parametrize("module", ["asyncio", "socket", "subprocess", "time", "os", "pathlib", "threading", "random"])
def test_the_core_has_no_clock_and_no_way_to_the_machine(module: str) -> None:
    users = [
        path.name
        for path in sorted((PACKAGE / "core").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == module for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == module)
    ]
    assert users == []


def test_files_can_be_read_in_a_sitting() -> None:
    trees = (PACKAGE, REPOSITORY / "tests", REPOSITORY / "packaging")
    lengths = {
        path.relative_to(REPOSITORY).as_posix(): len(path.read_text().splitlines())
        for tree in trees
        for path in tree.rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


def test_files_are_named_after_what_they_hold() -> None:
    assert [path for path in FILES if SHAPELESS & set(path.stem.lower().split("_"))] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_says_at_its_head_what_belongs_in_it(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
