"""The test bed by hand: `python -m tests.machine.vm {setup,build,run,shell}`."""

import argparse
import sys
import time
from pathlib import Path

from tests.machine.vm import Vm, VmError, setup
from tests.machine.vm.image import Recipe

REPOSITORY = Path(__file__).parents[3]


def main() -> int:
    """Carries out one command and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.machine.vm", description=__doc__)
    parser.add_argument("--suite", default="trixie")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup", help="install the missing packages (root)")
    commands.add_parser("build", help="build the image")
    script = commands.add_parser("run", help="boot, run a script, power off")
    script.add_argument("script", type=Path)
    script.add_argument("--share", type=Path, default=REPOSITORY / "build" / "machine" / "run")
    commands.add_parser("shell", help="boot and run what is typed, line by line")
    arguments = parser.parse_args()
    try:
        return _carry_out(arguments)
    except VmError as error:
        print(error, file=sys.stderr)
        return 1


def _carry_out(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    shares = {"/mnt/repo": REPOSITORY}
    match arguments.command:
        case "setup":
            print("installed:", " ".join(setup.install()) or "nothing, all is there")
        case "build":
            print(f"{Recipe(arguments.suite).ensure()} ({time.monotonic() - started:.1f} s)")
        case "run":
            done = Vm(arguments.suite, arguments.share, shares=shares).run(arguments.script)
            sys.stdout.write(done.stdout)
            sys.stderr.write(done.stderr)
            return done.returncode
        case "shell":
            with Vm(arguments.suite, shares=shares) as guest:
                print(f"booted in {time.monotonic() - started:.1f} s; the repository is at /mnt/repo; end with Ctrl-D")
                while line := _prompt():
                    done = guest.run(line, timeout=600)
                    print(done.stdout + done.stderr, end="")
    return 0


def _prompt() -> str:
    try:
        return input("testbed# ") or ":"
    except EOFError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
