"""A model that a real whisper-server loads at once, random weights in the real architecture, and something to hear.

It writes down words without meaning. The file is in whisper.cpp's own format (models/convert-pt-to-ggml.py there).
"""

from __future__ import annotations

import hashlib
import io
import struct
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.testbed.cache import populate

if TYPE_CHECKING:
    import numpy as np

MAGIC = 0x67676D6C
VOCABULARY, TOKENS = 51864, 50257
"""The English-only vocabulary: what is above the tokens means something to whisper.cpp by its number."""
AUDIO_CONTEXT, TEXT_CONTEXT = 1500, 448
STATE, HEADS, LAYERS, MELS, BINS = 64, 1, 1, 80, 201
FLOAT32 = 0
SEED = 20261
RATE_HZ = 16000


def whisper_model() -> Path:
    """A ggml file for `whisper-server -m`."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return populate(f"whisper-model-{digest}", lambda into: _write(into / "tiny.bin")) / "tiny.bin"


def sound(seconds: float = 1.0) -> bytes:
    """A WAV file that hums."""
    count = int(RATE_HZ * seconds)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(b"".join(struct.pack("<h", 4000 if number % 64 < 32 else -4000) for number in range(count)))
    return out.getvalue()


def _write(path: Path) -> None:
    import numpy as np

    random = np.random.default_rng(SEED)
    dimensions = (VOCABULARY, AUDIO_CONTEXT, STATE, HEADS, LAYERS, TEXT_CONTEXT, STATE, HEADS, LAYERS, MELS)
    with path.open("wb") as file:
        file.write(struct.pack("<12i", MAGIC, *dimensions, FLOAT32))
        file.write(struct.pack("<2i", MELS, BINS))
        file.write(np.abs(random.standard_normal((MELS, BINS)) * 0.01).astype(np.float32).tobytes())
        file.write(struct.pack("<i", TOKENS))
        for number in range(TOKENS):
            # whisper.cpp looks the blank up by its text, to suppress it.
            word = f" w{number}".encode() if number else b" "
            file.write(struct.pack("<i", len(word)) + word)
        for name, data in _tensors(random):
            file.write(struct.pack("<3i", data.ndim, len(name), FLOAT32))
            file.write(struct.pack(f"<{data.ndim}i", *reversed(data.shape)))
            file.write(name.encode() + data.astype(np.float32).tobytes())


def _tensors(random: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    import numpy as np

    def weights(*shape: int) -> np.ndarray:
        return random.standard_normal(shape) * 0.05

    def norm(name: str) -> Iterator[tuple[str, np.ndarray]]:
        yield f"{name}.weight", np.ones(STATE)
        yield f"{name}.bias", np.zeros(STATE)

    def attention(name: str) -> Iterator[tuple[str, np.ndarray]]:
        for part in ("query", "key", "value", "out"):
            yield f"{name}.{part}.weight", weights(STATE, STATE)
            if part != "key":
                yield f"{name}.{part}.bias", np.zeros(STATE)

    yield "encoder.positional_embedding", weights(AUDIO_CONTEXT, STATE)
    yield "encoder.conv1.weight", weights(STATE, MELS, 3)
    yield "encoder.conv1.bias", np.zeros((STATE, 1))
    yield "encoder.conv2.weight", weights(STATE, STATE, 3)
    yield "encoder.conv2.bias", np.zeros((STATE, 1))
    yield from norm("encoder.ln_post")
    yield "decoder.positional_embedding", weights(TEXT_CONTEXT, STATE)
    yield "decoder.token_embedding.weight", weights(VOCABULARY, STATE)
    yield from norm("decoder.ln")
    for side in ("encoder", "decoder"):
        for layer in range(LAYERS):
            block = f"{side}.blocks.{layer}"
            yield from norm(f"{block}.attn_ln")
            yield from attention(f"{block}.attn")
            if side == "decoder":
                yield from norm(f"{block}.cross_attn_ln")
                yield from attention(f"{block}.cross_attn")
            yield from norm(f"{block}.mlp_ln")
            yield f"{block}.mlp.0.weight", weights(4 * STATE, STATE)
            yield f"{block}.mlp.0.bias", np.zeros(4 * STATE)
            yield f"{block}.mlp.2.weight", weights(STATE, 4 * STATE)
            yield f"{block}.mlp.2.bias", np.zeros(STATE)
