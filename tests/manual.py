"""The parts of the manual that are lists of what the code has: keys, properties, commands, D-Bus members, metrics.

They stand in the pages of packaging/man between marks (`.\\" NAME:begin`), so that no page can name what is not there.
What a page says in prose is written by hand; `tests/unit/packaging/test_manual.py` holds it against the code.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from sdbus.dbus_proxy_async_method import DbusMethodAsync
from sdbus.dbus_proxy_async_property import DbusPropertyAsync
from sdbus.dbus_proxy_async_signal import DbusSignalAsync

from aitherd.bus.introspection import OBJECTS
from aitherd.config import kinds
from aitherd.config.properties import REFUSED, TABLES, Property
from aitherd.config.units import duration_text, size_text
from aitherd.config.written import ModelFile, ModelsSection, Written
from aitherd.config.written import sections as sections_of_settings
from aitherd.ctl.arguments import parser
from aitherd.proxy.metrics import FAMILIES

PAGES = Path(__file__).parents[1] / "packaging" / "man"
DAEMON, CONTROL = PAGES / "aitherd.8", PAGES / "aitherctl.1"
SETTINGS, MODEL = PAGES / "aitherd.toml.5", PAGES / "aither-model.5"

HYPHEN = "\\-"
"""A hyphen that is typed, and searched for, as one."""
COMMON = ("-h", "--user", "--system", "-H", "--json")
"""Options that every command has: said once, by hand."""

NOUNS: tuple[tuple[Any, str], ...] = (
    (kinds.Size, "size"),
    (kinds.Duration, "duration"),
    (kinds.Timeout, "duration above 0"),
    (kinds.Endless, "duration, or infinity"),
    (kinds.Count, "whole number"),
    (kinds.Span, "whole number"),
    (kinds.Port, "whole number"),
    (kinds.Part, "number"),
    (kinds.Flag, "true or false"),
    (kinds.Line, "text"),
    (kinds.Word, "text"),
    (kinds.Name, "name"),
    (kinds.Served, "text without blanks"),
    (kinds.Health, "path"),
    (kinds.Device, "device (gpu0, gpu1 and so on)"),
    (kinds.Class, "one of"),
    (kinds.EngineKind, "one of"),
    (kinds.Ability, "one of"),
    (kinds.Listen, "one of"),
    (kinds.Level, "one of"),
    (kinds.Way, "route"),
    (kinds.Url, "URL"),
    (kinds.Credential, "name"),
    (kinds.File, "absolute path"),
    (kinds.Price, "number"),
    (kinds.HostName, "name"),
    (kinds.Effort, "one of"),
    (kinds.Leave, "one of"),
    (kinds.Shown, "one of"),
    (kinds.Kind, "one of"),
    (kinds.Unit, "name"),
    (kinds.Unloader, "one of"),
    (kinds.Urgency, "one of"),
    (kinds.Weight, "whole number"),
)
"""What a value of each type is called; ranges and words come from the type itself."""


def sections() -> Iterator[tuple[Path, str, str]]:
    """Page, name of the marks and text of every generated part."""
    yield SETTINGS, "settings", "".join(_settings())
    yield MODEL, "keys", "".join(_keys(ModelFile))
    for table, entries in TABLES.items():
        yield MODEL, table, _properties(entries)
    yield MODEL, "refused", "".join(_refused())
    for name, command in commands().items():
        yield CONTROL, f"command {name}", "".join(_command(name, command))
    yield DAEMON, "dbus", "".join(_interfaces())
    yield DAEMON, "metrics", "".join(_metrics())


def commands() -> Mapping[str, argparse.ArgumentParser]:
    """The commands of aitherctl, in the order of its help."""
    (action,) = (one for one in parser()._actions if isinstance(one, argparse._SubParsersAction))
    found: Mapping[str, argparse.ArgumentParser] = action.choices
    return found


def literal(text: str) -> str:
    """Text that is typed as it stands, in bold."""
    return f"\\fB{text.replace('-', HYPHEN)}\\fR"


def escaped(text: str) -> str:
    """Text as roff reads it."""
    text = text.replace("\\", "\\e").replace("--", "\\-\\-").replace("…", "...")
    return f"\\&{text}" if text.startswith((".", "'")) else text


# --- configuration ----------------------------------------------------------------------------------------------------


def _settings() -> Iterator[str]:
    for name, section in sections_of_settings():
        yield f".SS [{name}]\n{escaped(section.__doc__ or '')}\n"
        yield from _keys(section)


def _keys(section: type[Written]) -> Iterator[str]:
    hints = get_type_hints(section, include_extras=True)
    for name, field in section.model_fields.items():
        key = field.alias or name
        yield f".TP\n{literal(key)}\n{escaped(field.description or '')}\n"
        if key in TABLES or get_origin(hints[name]) is dict:
            continue
        said = f"Value: {kind(hints[name])}."
        yield f".br\n{escaped(said)}\n{escaped(_default(hints[name], field))}\n"


def kind(hint: Any) -> str:
    """What may be written for a value of that type. Raises LookupError for a type that has no noun yet."""
    for known, noun in NOUNS:
        if hint == known:
            return f"{noun}{_range(TypeAdapter(known).json_schema())}"
    parts = [part for part in get_args(hint) if part is not type(None)]
    if hint == list[parts[0]]:  # type: ignore[valid-type]
        return f"list of {kind(parts[0]).removeprefix('one of ')}"
    # A key that may be left out; `infinity` is such a value, too, and has been found above.
    if len(parts) == 1 and hint == parts[0] | None:
        return kind(parts[0])
    raise LookupError(f"{hint} has no noun in the manual")


def _range(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return f" {', '.join(schema['enum'])}"
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']}, up to {schema['maximum']}"
    return f" from {schema['minimum']} to {schema['maximum']}" if "minimum" in schema else ""


def _default(hint: Any, field: FieldInfo) -> str:
    if field.is_required():
        return "Required."
    value = field.get_default(call_default_factory=True)
    if value is None and field.alias in {other.alias for other in ModelsSection.model_fields.values()}:
        return f"Default: {field.alias} in section [models] of aitherd.toml."
    if value is None or value in ("", []):
        return "Default: none."
    if hint == kinds.Size:
        return f"Default: {size_text(value)}."
    if isinstance(value, bool):
        return f"Default: {str(value).lower()}."
    if isinstance(value, float):
        return f"Default: {f'{value:g}' if hint == kinds.Price else duration_text(value)}."
    return f"Default: {value}."


def _properties(entries: Mapping[str, Property]) -> str:
    lines = [f"{name} = {json.dumps(entry.example)}" for name, entry in entries.items()]
    return ".EX\n" + "".join(f"{escaped(line)}\n" for line in lines) + ".EE\n"


def _refused() -> Iterator[str]:
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, said in REFUSED.items():
        grouped.setdefault(said, []).append(name)
    for (reason, remedy), names in grouped.items():
        yield f".TP\n{', '.join(literal(name) for name in names)}\n"
        yield f"{escaped(reason)}: {escaped(remedy)}.\n"


# --- aitherctl --------------------------------------------------------------------------------------------------------


def _command(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    actions = [one for one in command._actions if not set(one.option_strings) & set(COMMON)]
    words = " ".join(_word(one) for one in sorted(actions, key=lambda one: not one.option_strings))
    yield f".TP\n{literal(name)} {words}".rstrip() + f"\n{escaped(command.description or '')}\n"
    options = [one for one in actions if one.option_strings]
    if not options:
        return
    yield ".RS\n"
    for one in options:
        help_text = (one.help or "") % {"default": one.default}
        yield f".TP\n{', '.join(_option(one, option) for option in one.option_strings)}\n"
        yield f"{escaped(help_text[0].upper() + help_text[1:])}.\n"
    yield ".RE\n"


def _word(action: argparse.Action) -> str:
    """One argument in a synopsis."""
    if action.option_strings:
        word = _option(action, action.option_strings[0])
        return word if action.required else f"[{word}]"
    word = "|".join(map(literal, action.choices)) if action.choices else f"\\fI{action.metavar}\\fR"
    many = {"*": f"[{word} ...]", "+": f"{word} ...", "?": f"[{word}]"}
    return many.get(str(action.nargs), word)


def _option(action: argparse.Action, option: str) -> str:
    if action.nargs == 0:
        return literal(option)
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return f"{literal(option)}{'=' if option.startswith('--') else ' '}\\fI{value}\\fR"


# --- the daemon -------------------------------------------------------------------------------------------------------


def _interfaces() -> Iterator[str]:
    for path, one in OBJECTS:
        yield f".SS {one.INTERFACE}\nAt {literal(path)}.\n{escaped(_text(one.__doc__))}\n"
        for member in vars(one).values():
            if isinstance(member, DbusMethodAsync):
                ins = _typed(member.input_signature, member.input_args_names)
                outs = _typed(member.result_signature, member.result_args_names)
                arrow = f" \\(-> {outs}" if outs else ""
                yield f".TP\n{literal(member.method_name)}({ins}){arrow}\n{escaped(_text(member.__doc__))}\n"
            elif isinstance(member, DbusPropertyAsync):
                yield f".TP\n{literal(member.property_name)} ({member.property_signature})\n"
                yield f"{escaped(_text(member.__doc__))}\n"
            elif isinstance(member, DbusSignalAsync):
                says = _typed(member.signal_signature, member.args_names)
                yield f".TP\nSignal {literal(member.signal_name)}({says})\n{escaped(_text(member.__doc__))}\n"


def _typed(signature: str, names: Any) -> str:
    return f"{signature} \\fI{', '.join(names)}\\fR" if signature else ""


def _metrics() -> Iterator[str]:
    for name, kind, labels, text in FAMILIES:
        by = f", by {', '.join(labels)}" if labels else ""
        yield f".TP\n{literal(name)} ({kind}{by})\n{escaped(text)}\n"


def _text(docstring: str | None) -> str:
    """A docstring as one paragraph, without the quotation that code has."""
    return " ".join((docstring or "").split()).replace("`", "")
