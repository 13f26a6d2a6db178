"""The child process that calls NVML: one JSON line in asks for a sample, one JSON line out answers it.

Run as a script of its own by `nvml.py`, which may kill it at any time: calls into the driver can hang for ever. Small
on purpose: the standard library and pynvml, nothing of ours. Sizes are bytes.

    in:  {"id": 7}
    out: {"id": 7, "driver": "580.95.05", "devices": [{"index": 0, "uuid": "GPU-…", "name": "…", "total": 1, "free": 1,
          "milliwatts": 20000, "busy": 35, "processes": [[4242, 1], [4243, null]]}, {"index": 1, "error": 15}]}
    or:  {"id": 7, "error": 18}       # an NVML return code; the library cannot be used at all

`total` and `free` are null where NVML does not support the question (unified memory); a process's bytes, the power
drawn and the percentage of time in which the device computed are null where the driver does not tell them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pynvml

UNSUPPORTED = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)


def main() -> None:
    """Answers until its input ends."""
    ready = False
    for line in sys.stdin:
        asked = json.loads(line)["id"]
        try:
            if not ready:
                pynvml.nvmlInit()
                ready = True
            answer = sample()
            if any("error" in found for found in answer["devices"]):
                # A device that was lost is found again only by looking for devices anew.
                ready = False
                pynvml.nvmlShutdown()
        except pynvml.NVMLError as error:
            answer = {"error": error.value}
        print(json.dumps({"id": asked, **answer}), flush=True)


def sample() -> dict[str, Any]:
    """All devices as the driver tells them now. Raises NVMLError where the library fails as a whole."""
    driver = text(pynvml.nvmlSystemGetDriverVersion())
    return {"driver": driver, "devices": [device(index) for index in range(pynvml.nvmlDeviceGetCount())]}


def device(index: int) -> dict[str, Any]:
    """One device. A loss of this one leaves the others measurable; a library that does not fit raises NVMLError."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        total, free = memory(handle)
        return {
            "index": index,
            "uuid": text(pynvml.nvmlDeviceGetUUID(handle)),
            "name": text(pynvml.nvmlDeviceGetName(handle)),
            "total": total,
            "free": free,
            "milliwatts": told(pynvml.nvmlDeviceGetPowerUsage, handle),
            "busy": None if (rates := told(pynvml.nvmlDeviceGetUtilizationRates, handle)) is None else rates.gpu,
            "processes": sorted(processes(handle).items()),
        }
    except pynvml.NVMLError as error:
        if error.value in (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, pynvml.NVML_ERROR_UNINITIALIZED):
            raise
        return {"index": index, "error": error.value}


def memory(handle: object) -> tuple[int | None, int | None]:
    """Total and free bytes. Free is what the driver would still give: what it keeps for itself is not in it."""
    try:
        try:
            info = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
        except (
            pynvml.NVMLError_FunctionNotFound,
            pynvml.NVMLError_NotSupported,
            pynvml.NVMLError_ArgumentVersionMismatch,
        ):
            info = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported):
        return None, None
    # A driver for unified memory was seen to answer with success and nothing in it.
    return (info.total, info.free) if info.total else (None, None)


def told(question: Callable[[object], Any], handle: object) -> Any:
    """The answer to a question that is only for show: None whatever the reason that there is none."""
    try:
        return question(handle)
    except pynvml.NVMLError:
        return None


def processes(handle: object) -> dict[int, int | None]:
    """PID -> bytes. A process that computes and draws is in both lists, with the same bytes in each."""
    found: dict[int, int | None] = {}
    for listing in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses):
        for process in listed(listing, handle):
            known = found.get(process.pid)
            told = process.usedGpuMemory
            found[process.pid] = told if known is None else known if told is None else max(known, told)
    return found


def listed(listing: Callable[[object], list[Any]], handle: object) -> list[Any]:
    """The processes of one kind, none where the driver does not list them."""
    try:
        return listing(handle)
    except pynvml.NVMLError as error:
        if error.value in UNSUPPORTED:
            return []
        if error.value == pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
            # Processes came up between the count and the list.
            return listing(handle)
        raise


def text(value: str | bytes) -> str:
    """Old bindings answer in bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


if __name__ == "__main__":
    main()
