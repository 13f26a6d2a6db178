"""Stands in for NVIDIA's cuda-checkpoint: `cuda-checkpoint (--toggle | --get-state) --pid PID`.

What it does as cuda-checkpoint does: it works on one process a call; what a running one holds on the device goes to
host memory and the device is released, a suspended one gets it back, or fails for want of room; a process that uses no
device is an error. `--get-state` prints `running` or `checkpointed`.

What it can do wrong: while there is a file `FILE.stuck` beside the test library's FILE it says that it has suspended a
process and leaves its memory where it is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from tests.testbed.nvml.gpu import FILE_VARIABLE, Gpu, OutOfMemory

NO_CUDA_STATUS, OUT_OF_MEMORY_STATUS = 1, 2


def main() -> int:
    """Turns one process, or says how it is."""
    parser = argparse.ArgumentParser(prog="cuda-checkpoint")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--toggle", action="store_true")
    what.add_argument("--get-state", action="store_true")
    parser.add_argument("--pid", type=int, required=True)
    options = parser.parse_args()
    gpu = Gpu.attach()
    assert gpu is not None, "there is no card"
    file = os.environ[FILE_VARIABLE]
    kept = Path(f"{file}.{options.pid}.kept")
    held = {card.index: card.processes.get(options.pid, 0) for card in gpu.cards}
    if not kept.exists() and not any(held.values()):
        print(f"Process {options.pid} does not use CUDA", file=sys.stderr)
        return NO_CUDA_STATUS
    if options.get_state:
        print("checkpointed" if kept.exists() else "running")
        return 0
    if not kept.exists():
        kept.write_text(json.dumps(held))
        if not Path(f"{file}.stuck").exists():
            for card in gpu.cards:
                card.claim(options.pid, 0)
        return 0
    try:
        for index, count in json.loads(kept.read_text()).items():
            gpu.cards[int(index)].claim(options.pid, count)
    except OutOfMemory as refused:
        print(f"Could not restore process {options.pid}: {refused}", file=sys.stderr)
        return OUT_OF_MEMORY_STATUS
    kept.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
