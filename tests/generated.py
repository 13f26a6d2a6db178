"""Every generated text of the repository: `python -m tests.generated` rewrites them, `--check` names the stale ones.

What is generated says so where it is made; here is only the list, and where each text goes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from aitherd.bus import introspection
from aitherd.config import schema
from aitherd.core import residency
from tests import completions, manual

REPOSITORY = Path(__file__).parents[1]
HTML, ROFF, SHELL = "<!-- {} -->", '.\\" {}', "# {}"
"""How marks are written: as comments."""


def texts() -> Iterator[tuple[Path, str]]:
    """Path of each file that is generated, as a whole or in part, and the text that it should have."""
    for path, text in schema.generated():
        yield REPOSITORY / "etc" / path, text
    map_of_the_house = REPOSITORY / "ARCHITECTURE.md"
    diagram = f"```mermaid\n{residency.diagram()}```\n"
    yield map_of_the_house, replaced(map_of_the_house.read_text(encoding="utf-8"), "residency", diagram)
    yield REPOSITORY / introspection.PATH, introspection.document()
    files: dict[Path, str] = {}
    for marks, sections in ((ROFF, manual.sections()), (SHELL, completions.sections())):
        for path, name, text in sections:
            files[path] = replaced(files.get(path) or path.read_text(encoding="utf-8"), name, text, marks)
    yield from files.items()


def replaced(document: str, name: str, text: str, marks: str = HTML) -> str:
    """`document` with what stands between the marks of `name` replaced. Raises ValueError if there are no marks."""
    begin, end = marks.format(f"{name}:begin") + "\n", marks.format(f"{name}:end")
    before, found_begin, rest = document.partition(begin)
    old, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"no marks {begin.strip()} and {end}")
    # A mark may be indented.
    indent = old[len(old.rstrip(" ")) :]
    return f"{before}{begin}{text}{indent}{end}{after}"


def stale() -> list[tuple[Path, str]]:
    """What is not current, with the text that it should have."""
    return [(path, text) for path, text in texts() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main() -> int:
    """Rewrites what is stale, or names it and returns 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.generated", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    found = stale()
    for path, text in found:
        name = path.relative_to(REPOSITORY)
        if arguments.check:
            print(f"{name} is not current: run `make generate`", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"{name} rewritten")
    return 1 if arguments.check and found else 0


if __name__ == "__main__":
    sys.exit(main())
