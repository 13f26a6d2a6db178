"""What is generated from the classes in `written.py`: JSON Schemas for editors, and the template of `aitherd.toml`.

`python -m aitherd.config.schema [DIRECTORY]` writes all of it, below `etc` unless another directory is given.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from aitherd.config.units import duration_text, parse_size, size_text
from aitherd.config.written import ModelFile, SettingsFile, sections

DIALECT = "https://json-schema.org/draft/2020-12/schema"
COLUMNS = 100
EXAMPLES: Mapping[str, str] = {
    "tiers.NAME": """\
[tiers.reasoning]
routes   = ["orchestrator", "spark/reasoning", "cloud/gpt-x"]
patience = "5s"
leave    = "cloud"
effort   = ["medium", "high"]

[tiers.fast]
routes = ["orchestrator", "spark/reflex"]
leave  = "lan"
effort = ["minimal", "low"]

[tiers.documents]
routes = ["embed", "spark/embed"]
leave  = "lan"
""",
    "upstreams.NAME": """\
[upstreams.spark]
url         = "http://spark.local:8120"
nodes       = ["http://spark-2.local:8120"]
weights     = [2, 1]
kind        = "lan"
can         = ["chat", "completions", "tools"]
concurrency = 16

[upstreams.cloud]
url       = "https://api.example.com/v1"
kind      = "cloud"
key       = "example-key"
daily-cap = 5.00
""",
    "upstreams.NAME.models.NAME": """\
[upstreams.spark.models.reasoning]
can = ["chat", "completions", "tools", "reasoning"]

[upstreams.spark.models.swap]
can = ["chat", "completions", "tools", "vision"]

[upstreams.spark.models.embed]
can = ["embeddings"]

[upstreams.cloud.models.gpt-x]
name         = "gpt-x-2026-08"
can          = ["chat", "tools", "vision"]
prompt-price = 2.50
answer-price = 10.00
""",
    "foreign.NAME": """\
[foreign.ollama]
engine = "ollama"
unit   = "ollama.service"
port   = 11434
""",
    "callers.NAME": """\
[callers.captions]
user        = "captions"
priority    = "batch"
concurrency = 4

[callers.laptop]
key  = "laptop-key"
rate = 60
""",
}
"""What the template shows of sections that have no defaults."""


def model_schema() -> dict[str, Any]:
    """JSON Schema of a model file."""
    return {"$schema": DIALECT, **ModelFile.model_json_schema()}


def settings_schema() -> dict[str, Any]:
    """JSON Schema of `aitherd.toml`."""
    return {"$schema": DIALECT, **SettingsFile.model_json_schema()}


def template() -> str:
    """`aitherd.toml` with every key commented out at its default."""
    lines = [
        "# Settings of aitherd. Every key is shown at its default; remove the # to change it, then run",
        "# `aitherctl check-config` and `systemctl reload aitherd`.",
    ]
    for name, section in sections():
        lines += ["", *_comment(section.__doc__ or "")]
        if "NAME" in name:
            lines += [f"# {line}" if line else "" for line in EXAMPLES[name].splitlines()]
            continue
        lines.append(f"[{name}]")
        for key, entry in section.model_fields.items():
            lines += _comment(entry.description or "")
            lines.append(f"#{entry.alias or key} = {_default(entry)}")
    return "\n".join(lines) + "\n"


def generated() -> Iterator[tuple[Path, str]]:
    """Every generated file, its path relative to the directory of configuration files."""
    for name, schema in (("aitherd", settings_schema()), ("model", model_schema())):
        yield Path("schema") / f"{name}.schema.json", json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    yield Path("aitherd.toml"), template()


def main(directory: Path) -> None:
    """Writes every generated file below `directory`."""
    for path, text in generated():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, COLUMNS)]


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=False)
    if any(isinstance(entry, BeforeValidator) and entry.func is parse_size for entry in field.metadata):
        return f'"{size_text(value)}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | list):
        return str(value)
    return f'"{value}"' if isinstance(value, str) else f'"{duration_text(value)}"'


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "etc"))
