"""Holds BYTES of the first GPU until its standard input ends: a real CUDA process, by the driver's own library.

It says `held` when it has them, or which call failed with which CUresult. (CUDA Driver API)
"""

from __future__ import annotations

import ctypes
import sys


def main() -> int:
    """Allocates, touches, waits."""
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context, pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    count = ctypes.c_size_t(int(sys.argv[1]))
    calls = (
        ("cuInit", (0,)),
        ("cuDeviceGet", (ctypes.byref(device), 0)),
        ("cuCtxCreate_v2", (ctypes.byref(context), 0, device)),
        ("cuMemAlloc_v2", (ctypes.byref(pointer), count)),
    )
    for name, arguments in calls:
        if (result := getattr(cuda, name)(*arguments)) != 0:
            print(f"{name} failed with {result}", flush=True)
            return 1
    if (result := cuda.cuMemsetD8_v2(pointer, ctypes.c_ubyte(1), count)) != 0:
        print(f"cuMemsetD8_v2 failed with {result}", flush=True)
        return 1
    print("held", flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
