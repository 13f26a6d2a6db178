"""What engines document about their answers: one line a call, and a small language for shapes.

A shape is a type, a literal, a list with the shape of its entries, or a dict with the shapes of keys that must be
there. Sources are the engines' own documents, as named in `aitherd/engines/`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

NUMBER = (int, float)
EMPTY = object()
"""A body of no bytes."""
TEXT = object()
"""Any body that is not empty."""


@dataclass(frozen=True)
class Call:
    """A call that changes nothing, and what is documented about its answer."""

    path: str
    shape: object
    method: str = "GET"
    json: object = None
    params: Mapping[str, str] | None = None
    status: int = 200
    absent: tuple[int, ...] = ()
    """Statuses that say that this server was started without it."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


MODELS = {"object": "list", "data": [{"id": str, "object": "model"}]}
UNKNOWN_MODEL = "no/such-model"

DOCUMENTED: Mapping[str, tuple[Call, ...]] = {
    "vllm": (
        Call("/health", EMPTY),
        Call("/v1/models", MODELS),
        Call("/version", {"version": str}),
        Call("/load", {"server_load": NUMBER}, absent=(404,)),
        Call("/metrics", TEXT),
        Call("/is_sleeping", {"is_sleeping": False}, absent=(404,)),
        Call("/reset_prefix_cache", EMPTY, "POST", absent=(404,)),
    ),
    "llama-server": (
        Call("/health", {"status": "ok"}),
        Call("/v1/models", MODELS),
        Call("/props", {"total_slots": int, "model_path": str, "default_generation_settings": dict}),
        Call("/slots", [{"id": int, "n_ctx": int, "is_processing": bool}], absent=(501,)),
        Call("/slots/0", {"error": {"code": 501, "type": "not_supported_error"}}, "POST", {"filename": "x.bin"},
             {"action": "save"}, status=501, absent=(200, 400)),
    ),
    "comfyui": (
        Call("/system_stats", {"system": {"os": str, "comfyui_version": str},
                               "devices": [{"name": str, "type": str, "vram_total": int, "vram_free": int}]}),
        Call("/queue", {"queue_running": list, "queue_pending": list}),
        Call("/api/queue", {"queue_running": list, "queue_pending": list}),
        Call("/history", dict),
        Call("/prompt", {"exec_info": {"queue_remaining": int}}),
        Call("/prompt", {"error": {"type": "no_prompt"}}, "POST", {}, status=400),
        Call("/free", EMPTY, "POST", {}),
    ),
    "speaches": (
        Call("/health", TEXT),
        Call("/api/ps", {"models": list}),
        Call("/v1/models", {"object": "list", "data": [{"id": str}]}),
        Call(f"/api/ps/{UNKNOWN_MODEL}", {"detail": str}, "POST", status=404),
        Call(f"/api/ps/{UNKNOWN_MODEL}", {"detail": str}, "DELETE", status=404),
    ),
    "whisper-server": (
        Call("/health", {"status": "ok"}),
        Call("/", TEXT),
    ),
    "xtts": (
        Call("/speakers_list", [str]),
        Call("/languages", {"languages": dict}),
        Call("/tts_to_audio/", {"detail": list}, "POST", {}, status=422),
    ),
    "ollama": (
        Call("/", TEXT),
        Call("/api/version", {"version": str}),
        Call("/api/ps", {"models": [{"name": str, "model": str, "size": int, "size_vram": int, "expires_at": str}]}),
        Call("/api/tags", {"models": [{"name": str}]}),
        Call("/api/generate", {"error": str}, "POST", {"model": UNKNOWN_MODEL, "keep_alive": 0}, status=404),
    ),
}  # fmt: skip


def mismatches(shape: object, value: object, where: str = "the answer") -> Iterator[str]:
    """Where `value` is not as `shape` says, in words. Keys beyond the shape are nobody's business."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where} is {value!r} and not an object"
            return
        for key, inner in shape.items():
            if key in value:
                yield from mismatches(inner, value[key], f"{where}.{key}")
            else:
                yield f"{where} has no {key}"
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where} is {value!r} and not a list"
            return
        for index, entry in enumerate(value):
            yield from mismatches(shape[0], entry, f"{where}[{index}]")
    elif isinstance(shape, type | tuple):
        # A boolean is a whole number to Python and to nobody else.
        if not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
            yield f"{where} is {value!r} and not {shape}"
    elif value != shape:
        yield f"{where} is {value!r} and not {shape!r}"
