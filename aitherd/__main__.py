"""`aitherd`, the daemon: started by systemd, or by `python -m aitherd --user`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from aitherd import __version__


def main() -> int:
    """Parses the command line and runs the daemon."""
    parser = argparse.ArgumentParser(prog="aitherd", description="Arbiter of AI model servers; see aitherd(8).")
    parser.add_argument("--user", action="store_true", help="serve the user's own systemd manager and session bus")
    parser.add_argument("--version", action="version", version=__version__)
    arguments = parser.parse_args()
    # What ps, top and the journal (_COMM) call it; the launcher leaves it with the name of the interpreter.
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text("aitherd")
    # structlog dresses what it writes to a terminal with rich, where that is installed. The daemon writes nothing like
    # that, and rich would be a tenth of what its activation takes.
    sys.modules["rich"] = None  # type: ignore[assignment]
    from aitherd.daemon import Options
    from aitherd.daemon import main as run

    return run(Options(user=arguments.user))


if __name__ == "__main__":
    sys.exit(main())
