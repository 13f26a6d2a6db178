"""The generated parts of aitherctl's completions: its commands and their options, for bash, zsh and fish.

How models are found, and what a shell does with all this, is written by hand in packaging/completions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from aitherd.ctl.arguments import parser
from tests.manual import COMMON, commands

FILES = Path(__file__).parents[1] / "packaging" / "completions"
BASH, ZSH, FISH = FILES / "bash" / "aitherctl", FILES / "zsh" / "_aitherctl", FILES / "fish" / "aitherctl.fish"


def sections() -> Iterator[tuple[Path, str, str]]:
    """File, name of the marks and text of every generated part."""
    yield BASH, "commands", "".join(_bash())
    yield (
        ZSH,
        "commands",
        "".join(f"        {quoted(f'{name}:{one.description}')}\n" for name, one in commands().items()),
    )
    yield ZSH, "options", "".join(f"        {_zsh_option(one)}\n" for one in _options(parser(), common=True))
    yield ZSH, "arguments", "".join(_zsh())
    yield BASH, "options", "".join(_bash_options())
    yield FISH, "commands", "".join(_fish())


def quoted(text: str) -> str:
    """Text in single quotation marks, as bash and zsh have them."""
    return "'" + text.replace("'", "'\\''") + "'"


def _options(of: argparse.ArgumentParser, *, common: bool = False) -> Sequence[argparse.Action]:
    """Options of the program, or those that a command has besides."""
    return [one for one in of._actions if one.option_strings and bool(set(one.option_strings) & set(COMMON)) == common]


def _arguments(command: argparse.ArgumentParser) -> str:
    """What a command takes besides options: `models`, `shipped` ones, `directories`, `commands`, words to choose from,
    or nothing."""
    name = command.prog.split()[-1]
    if name in ("enable", "new"):
        # The name of a new model is nobody's yet.
        return "shipped" if name == "enable" else ""
    for one in command._actions:
        if one.choices:
            return " ".join(one.choices)
        if not one.option_strings:
            return {"directory": "directories", "argv": "commands"}.get(one.dest, "models")
    return ""


def _help(action: argparse.Action) -> str:
    return (action.help or "") % {"default": action.default}


# --- bash -------------------------------------------------------------------------------------------------------------


def _bash_options() -> Iterator[str]:
    """Options that take a value, and those of them whose value is a file."""
    every = [one for of in (parser(), *commands().values()) for one in of._actions if one.option_strings]
    for name, wanted in (
        ("files", [one for one in every if one.metavar == "FILE"]),
        ("values", [one for one in every if one.nargs != 0]),
    ):
        words = " ".join(dict.fromkeys(option for one in wanted for option in one.option_strings))
        yield f"    local {name}={quoted(words)}\n"


def _bash() -> Iterator[str]:
    common = " ".join(option for one in _options(parser(), common=True) for option in one.option_strings)
    yield f"    local common={quoted(common)}\n    case $command in\n"
    yield f"        '') words={quoted(' '.join(commands()))} arguments='' ;;\n"
    for name, command in commands().items():
        words = " ".join(option for one in _options(command) for option in one.option_strings)
        yield f"        {name}) words={quoted(words)} arguments={quoted(_arguments(command))} ;;\n"
    yield "        *) return ;;\n    esac\n"


# --- zsh --------------------------------------------------------------------------------------------------------------


def _zsh() -> Iterator[str]:
    for name, command in commands().items():
        words = [_zsh_option(one) for one in _options(command)]
        arguments = _arguments(command)
        if arguments == "models":
            words.append("'*:model:_aitherctl_models'")
        elif arguments == "shipped":
            words.append("'*:model:_aitherctl_shipped'")
        elif arguments == "directories":
            words.append("'*:directory:_files -/'")
        elif arguments == "commands":
            words.append("'*::command:_normal'")
        elif arguments:
            words.append(f"'1:kind:({arguments})'")
        yield f"        {name}) _arguments $options {' '.join(words)}".rstrip() + " ;;\n"


def _zsh_option(action: argparse.Action) -> str:
    text = f"[{_help(action).replace(']', chr(92) + ']')}]"
    if action.nargs != 0:
        text += f":{_value(action)}:{'_files' if action.metavar == 'FILE' else ' '}"
    names = [option + _zsh_joint(action, option) for option in action.option_strings]
    if len(names) == 1:
        return quoted(names[0] + text)
    return f"{quoted('(' + ' '.join(action.option_strings) + ')')}{{{','.join(names)}}}{quoted(text)}"


def _zsh_joint(action: argparse.Action, option: str) -> str:
    """Whether the value may stand in the same word, in the language of _arguments."""
    if action.nargs == 0:
        return ""
    return "=" if option.startswith("--") else "+"


def _value(action: argparse.Action) -> str:
    return (action.metavar if isinstance(action.metavar, str) else action.dest.upper()).replace(":", "")


# --- fish -------------------------------------------------------------------------------------------------------------


def _fish() -> Iterator[str]:
    for one in _options(parser(), common=True):
        yield _fish_line("", _fish_option(one), _help(one))
    for name, command in commands().items():
        yield _fish_line("__fish_use_subcommand", f"-a {name}", command.description or "")
    for name, command in commands().items():
        condition = f"'__fish_seen_subcommand_from {name}'"
        for one in _options(command):
            yield _fish_line(condition, _fish_option(one), _help(one))
        arguments = _arguments(command)
        functions = {
            "models": "(__aitherctl_models)",
            "shipped": "(__aitherctl_shipped)",
            "directories": "(__fish_complete_directories)",
        }
        if arguments == "commands":
            arguments = "(__fish_complete_subcommand)"
        if arguments:
            yield _fish_line(condition, f"-a '{functions.get(arguments, arguments)}'", "")


def _fish_line(condition: str, what: str, text: str) -> str:
    description = "-d '" + text.replace("\\", "\\\\").replace("'", "\\'") + "'" if text else ""
    condition = f"-n {condition}" if condition else ""
    return " ".join(filter(None, ["complete -c aitherctl", condition, what, description])) + "\n"


def _fish_option(action: argparse.Action) -> str:
    words = [f"-l {one[2:]}" if one.startswith("--") else f"-s {one[1:]}" for one in action.option_strings]
    value = ["-r", "-F"] if action.metavar == "FILE" else ["-x"]
    return " ".join([*words, *([] if action.nargs == 0 else value)])
