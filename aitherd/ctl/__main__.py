"""`aitherctl`: parses, runs one command, says in one line why it failed."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from aitherd.ctl.arguments import parse
from aitherd.ctl.failure import Exit, Failure

INTERRUPTED = 130
"""As a shell reports a program that SIGINT ended."""
UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What becomes of writing to a full disk, or to a terminal that has gone."""


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    words = sys.argv[1:] if words is None else words
    _open_streams()
    try:
        arguments = parse(words)
        if arguments.host and arguments.there:
            from aitherd.ctl.remote import become

            become(arguments.host, words)
        module, function = arguments.run.split(":")
        # What a command needs is imported for that command only.
        status = int(getattr(import_module(f"aitherd.ctl.{module}"), function)(arguments))
        sys.stdout.flush()
    except Failure as failure:
        report(failure, as_json="--json" in words)
        return failure.status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read has seen enough.
        _forget_output()
        return Exit.OK
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        _forget_output()
        report(Failure(f"cannot write the output: {(error.strerror or '').lower()}"), as_json="--json" in words)
        return Exit.FAILED
    return status


def _open_streams() -> None:
    """Gives a program that was started without standard streams some: what it opens next must not be taken for one."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            found = os.open(os.devnull, os.O_RDWR)
            if found != number:
                os.dup2(found, number)
                os.close(found)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _forget_output() -> None:
    """What is still to be written goes nowhere: Python would complain about it when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report(failure: Failure, *, as_json: bool) -> None:
    """Says why to standard error."""
    if as_json:
        print(json.dumps({"error": {"name": failure.name, "message": str(failure)}}), file=sys.stderr)
        return
    for line in str(failure).splitlines():
        print(f"aitherctl: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
