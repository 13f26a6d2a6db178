"""Short programs that say whether an engine's runtime sees a GPU, and what their answers mean.

They run under the interpreter that runs the engine, as `aitherctl doctor` finds it; nothing is run from here.
"""

from __future__ import annotations

import json
import re

TORCH = """
import json, torch
seen = torch.cuda.is_available()
print(json.dumps({"built": torch.version.cuda, "made_for": torch.cuda.get_arch_list(),
                  "is": list(torch.cuda.get_device_capability()) if seen else None}))
"""
CTRANSLATE2 = """
import json, ctranslate2
print(json.dumps({"devices": ctranslate2.get_cuda_device_count()}))
"""
LLAMA_DEVICE = re.compile(r"^\s*[A-Za-z]+\d+: ", re.MULTILINE)


def torch_verdict(output: str) -> str:
    """What is wrong by what TORCH printed; empty when PyTorch has code for the GPU that it sees."""
    found = _last_object(output)
    if not found:
        return "its PyTorch cannot be asked; install PyTorch where the engine's Python finds it"
    if not found.get("built"):
        return "its PyTorch was built without CUDA; install a build with CUDA"
    capability = found.get("is")
    if not isinstance(capability, list) or len(capability) != 2:
        return (
            f"its PyTorch (CUDA {found['built']}) sees no GPU; "
            "look at nvidia-smi: the driver must be as new as that CUDA"
        )
    made_for = found.get("made_for")
    major, minor = capability
    for name in made_for if isinstance(made_for, list) else []:
        kind, _, number = str(name).partition("_")
        digits = "".join(character for character in number if character.isdigit())
        if not digits:
            continue
        have = (int(digits[:-1] or 0), int(digits[-1]))
        # Machine code runs on later minors of its major, PTX on anything later. (CUDA C++ Programming Guide)
        if (kind == "sm" and have[0] == major and have[1] <= minor) or (kind == "compute" and have <= (major, minor)):
            return ""
    return f"its PyTorch has no code for this GPU (sm_{major}{minor}); install a build for it: CUDA 12.8 for an RTX 50"


def ctranslate2_verdict(output: str) -> str:
    """The same by what CTRANSLATE2 printed."""
    found = _last_object(output)
    if not found:
        return "its CTranslate2 cannot be asked; install it where the engine's Python finds it"
    return (
        "" if found.get("devices") else "its CTranslate2 sees no GPU; look at nvidia-smi, and install CUDA's libraries"
    )


def llama_verdict(output: str) -> str:
    """The same by what `llama-server --list-devices` printed: a heading, then lines like `CUDA0: NVIDIA …`."""
    _, heading, below = output.partition("Available devices:")
    if not heading:
        return "it does not list its devices; take a build from 2025 or later"
    return "" if LLAMA_DEVICE.search(below) else "it sees no GPU; take a build with CUDA, and look at nvidia-smi"


def _last_object(output: str) -> dict[str, object]:
    """The last line that is a JSON object: libraries print what they like before it."""
    for line in reversed(output.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}
