"""The command line: commands, options and their help. What a command does is in the module that it names.

Only argparse is imported here, so that `--help` and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from aitherd import __version__
from aitherd.ctl.failure import Exit, Failure

EPILOG = """Exit status: 0 success; 1 refused or failed; 2 the command line is wrong; 3 (status NAME) a model
is not ready; 4 there is no such model."""

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}")
"""Names that a model can have or serve. What is no name is refused before anybody is asked."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Raises Failure."""
        found = re.match(r"argument COMMAND: invalid choice: '(.*?)' \(choose from (.*)\)", message, re.DOTALL)
        if found:
            known = re.findall(r"[a-z-]+", found[2])
            near = difflib.get_close_matches(found[1], known, n=1)
            remedy = f"did you mean {near[0]}?" if near else "see aitherctl --help"
            raise Failure(f"there is no command {found[1]}", remedy, status=Exit.USAGE)
        raise Failure(message, f"see {self.prog} --help", status=Exit.USAGE)


def model_name(text: str) -> str:
    """A model's name as typed."""
    if not MODEL_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a model's name")
    return text


def seconds(text: str) -> float:
    """A time-out in seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def size(text: str) -> int:
    """Bytes, as in model files."""
    from aitherd.config.problem import BadValue
    from aitherd.config.units import parse_size

    try:
        value = parse_size(text)
    except BadValue as bad:
        raise argparse.ArgumentTypeError(f"{text!r}: {bad.message}; {bad.remedy}") from bad
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is nothing to claim")
    return value


def duration(text: str) -> float:
    """Seconds, as in model files."""
    from aitherd.config.problem import BadValue
    from aitherd.config.units import parse_duration

    try:
        value = parse_duration(text)
    except BadValue as bad:
        raise argparse.ArgumentTypeError(f"{text!r}: {bad.message}; {bad.remedy}") from bad
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is over at once")
    return value


def host(text: str) -> str:
    """Another machine, as ssh takes it."""
    # What begins with a hyphen would be an option of ssh.
    if not re.fullmatch(r"[A-Za-z0-9_\[][A-Za-z0-9_.:@%\[\]-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a machine that ssh could reach")
    return text


def count(text: str) -> int:
    """How many lines."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def parser() -> Parser:
    """The parser. A parsed command has `run`, `MODULE:FUNCTION` below aitherd.ctl."""
    top = Parser(
        prog="aitherctl",
        description="Shows and changes which AI models run.",
        epilog=EPILOG,
        parents=[_options(False)],
        allow_abbrev=False,
    )
    top.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}", help="print the version and exit"
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    common = _options(argparse.SUPPRESS)

    def command(name: str, run: str, text: str, *, there: bool = False) -> Parser:
        """`there` says that it needs more than the bus of the machine that it is about."""
        added = commands.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)
        added.set_defaults(run=run, there=there)
        return added

    command("list", "show:list_models", "Lists the models and where they stand.")
    status = command("status", "show:status", "Shows models in full; without a name, the devices and all models.")
    _names(status, "*")
    status.add_argument("-n", "--lines", type=count, default=10, help="records to show (default: %(default)s)")
    command("devices", "show:devices", "Shows who holds the memory of each device.")

    for name, run, text in (
        ("start", "control:start", "Brings models in; they stop when they have been idle for their time."),
        ("hold", "control:hold", "Brings models in and keeps them until they are released or stopped."),
        ("release", "control:release", "Ends the hold of models; they idle out as usual."),
        ("stop", "control:stop", "Drains models and stops them."),
        ("sleep", "control:sleep", "Drains models and puts them to sleep: they are back quickly."),
        ("wake", "control:wake", "Wakes models that sleep."),
    ):
        control = command(name, run, text)
        _names(control, "+")
        control.add_argument(
            "--timeout", type=seconds, metavar="SECONDS", help="give up waiting after this long (default: never)"
        )
        if name == "stop":
            control.add_argument("--force", action="store_true", help="do not wait for requests in flight")
        if name == "sleep":
            control.add_argument(
                "--level",
                type=count,
                default=0,
                metavar="LEVEL",
                help="how deep, as its engine numbers it (default: 1)",
            )

    ask = command("run", "ask:ask", "Asks a model and writes its answer; brings it in if need be.", there=True)
    ask.add_argument("name", type=model_name, metavar="NAME", help="a model, a name that it serves, or a tier")
    # With a default it is not said to be missing where only NAME is.
    ask.add_argument("prompt", nargs="*", default=[], metavar="PROMPT", help="the question (default: standard input)")
    ask.add_argument(
        "--image", action="append", default=[], type=Path, metavar="FILE", help="a picture to look at; may be repeated"
    )
    ask.add_argument("-o", "--output", type=Path, metavar="FILE", help="have it draw, and write the picture there")
    ask.add_argument("--max-tokens", type=count, metavar="N", help="end the answer after so many tokens")

    lease = command("lease", "leases:lease", "Claims device memory for a program and makes room for it.", there=True)
    lease.add_argument("--vram", type=size, required=True, metavar="SIZE", help="how much, as in 8G or 5.2GiB")
    lease.add_argument("--device", metavar="ID", help="on which device, as in gpu0 (default: any)")
    lease.add_argument(
        "--for", dest="duration", type=duration, metavar="TIME", help="end after this long, as in 2h (default: never)"
    )
    lease.add_argument("--purpose", metavar="TEXT", help="what for, as people see it (default: the command's name)")
    lease.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help="give up waiting after this long (default: never)"
    )
    lease.add_argument(
        "argv",
        nargs="*",
        metavar="COMMAND",
        help="what to run with it, after --; without one, hold it until interrupted",
    )
    leases = command("leases", "leases:leases", "Lists the leases of device memory.")
    leases.add_argument("--release", action="append", metavar="LEASE", help="end a lease first; may be repeated")

    _name(command("plan", "explain:plan", "Shows what bringing a model in would do now. Changes nothing."))
    why = command("why", "explain:why", "Shows what happened to a model, or to all, and why.")
    why.add_argument("name", nargs="?", type=model_name, metavar="NAME", help="a model, or a name that it serves")
    why.add_argument("-n", "--lines", type=count, default=30, help="records to show (default: %(default)s)")

    logs = command(
        "logs",
        "logs:logs",
        "Shows the journal of a model: its engine, its units, what aitherd did with it.",
        there=True,
    )
    _name(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on as lines come")
    logs.add_argument("-n", "--lines", type=count, help="show only the last lines")

    _names(
        command("events", "explain:events", "Shows decisions and transitions as they happen, until interrupted."), "*"
    )
    top_ = command("top", "top:top", "Shows devices, models and the last decisions, live.")
    top_.add_argument("--interval", type=seconds, default=1.0, metavar="SECONDS", help="between looks (default: 1)")
    top_.add_argument("--once", action="store_true", help="show it once, without taking the screen")

    command("upstreams", "routes:upstreams", "Lists the servers outside of this machine and how they are.")
    route = command("route", "routes:route", "Explains where a request would go. Sends none.")
    route.add_argument("name", nargs="?", type=model_name, metavar="NAME", help="what the request names as its model")
    route.add_argument("--tier", type=model_name, metavar="TIER", help="as X-Aither-Tier would say it")
    route.add_argument("--effort", metavar="EFFORT", help="as reasoning_effort would say it")
    route.add_argument("--local-only", action="store_true", help="as X-Aither-Local: only would say it")
    route.add_argument(
        "--needs", action="append", metavar="ABILITY", help="what it asks for, as in vision; may be repeated"
    )

    for name, text in (
        ("enable", "Puts shipped model files in force: the whole fleet, or some models."),
        ("disable", "Takes model files out of force, and keeps them."),
    ):
        switch = command(name, f"enable:{name}", text, there=True)
        switch.add_argument(
            "names",
            nargs="*" if name == "enable" else "+",
            type=model_name,
            metavar="NAME",
            help="the name of a model file, without .toml",
        )
        if name == "enable":
            switch.add_argument("--all", action="store_true", help="every shipped model")
        switch.add_argument("--no-reload", action="store_true", help="tell neither systemd nor the daemon")
    new = command(
        "new", "new:new", "Writes model files: from a template, a command, a running server, another tool.", there=True
    )
    _new(new)
    _names(command("doctor", "doctor:doctor", "Looks for what would keep models from coming up.", there=True), "*")
    check = command("check-config", "configuration:check", "Checks the configuration on disk.", there=True)
    check.add_argument("directory", nargs="*", metavar="DIR", help="instead of the usual directories, strongest first")
    check.add_argument(
        "--device", action="append", default=[], metavar="ID=SIZE", help="assume a device, as in gpu0=32606MiB"
    )
    cat = command("cat-config", "configuration:cat", "Prints the configuration files that count.", there=True)
    cat.add_argument("directory", nargs="*", metavar="DIR", help="instead of the usual directories, strongest first")
    schema = command("schema", "configuration:schema", "Prints the JSON Schema of a configuration file.")
    schema.add_argument("kind", choices=("model", "settings"), help="of a model file, or of aitherd.toml")
    command("reload", "control:reload", "Has the daemon take over the configuration on disk.")
    command("version", "show:version", "Prints the versions of this program and of the daemon.")
    return top


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The parsed command line. Raises Failure, and SystemExit for `--help`."""
    return parser().parse_args(words)


def _options(default: object) -> Parser:
    """Options that may stand before and after the command; after it, their absence must not undo what stood before."""
    options = Parser(add_help=False)
    which = options.add_mutually_exclusive_group()
    which.add_argument("--user", action="store_true", default=default, help="the user's own daemon")
    which.add_argument(
        "--system", dest="user", action="store_false", default=default, help="the system's daemon (default)"
    )
    options.add_argument(
        "-H", "--host", type=host, metavar="[USER@]HOST", default=default or None, help="the daemon of another machine"
    )
    options.add_argument("--json", action="store_true", default=default, help="print JSON")
    return options


def _names(parser: argparse.ArgumentParser, number: str) -> None:
    parser.add_argument(
        "names", nargs=number, type=model_name, metavar="NAME", help="a model, or a name that it serves"
    )


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", type=model_name, metavar="NAME", help="a model, or a name that it serves")


def _new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", type=model_name, metavar="NAME", help="what the model is to be called")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--engine", metavar="KIND", help="a template for this kind of server")
    source.add_argument("--command", dest="line", metavar="LINE", help="a command line as in a shell")
    source.add_argument("--pid", type=count, metavar="PID", help="a server that runs: its command, and what it holds")
    source.add_argument(
        "--from",
        dest="source",
        metavar="FILE",
        help="YAML of llama-swap or Docker Compose, or ollama for the models in its store",
    )
    parser.add_argument("--vram", type=size, metavar="SIZE", help="device memory that it needs, as in 5.2GiB")
    parser.add_argument("--print", dest="show", action="store_true", help="print the files and save nothing")
    parser.add_argument("--no-reload", action="store_true", help="tell neither systemd nor the daemon")
