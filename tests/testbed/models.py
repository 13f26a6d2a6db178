"""Models of a few hundred kilobytes that a real llama-server loads at once: random weights in real architectures.

They answer in words without meaning and never end by themselves: pass `max_tokens`. Written with `gguf`, once.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.testbed.cache import populate

if TYPE_CHECKING:
    from gguf import GGUFWriter

CHAT = "chat.gguf"
VISION = "vision.gguf"

CONTEXT = 4096
EMBEDDING, HEADS, BLOCKS, FEED_FORWARD = 64, 4, 2, 128
IMAGE_SIDE, PATCH_SIDE, IMAGE_EMBEDDING, IMAGE_FEED_FORWARD = 56, 14, 32, 64
VOCABULARY = 320
SEED = 20260

# So much of the first coordinate, which every token has, decides which tokens can come out.
ALWAYS, SUPPRESSED = 40.0, -20.0

WORDS = (
    *("a", "the", "of", "in", "on", "at", "by", "to", "with", "and", "or", "is", "was", "are", "small", "large"),
    *("red", "green", "blue", "white", "black", "old", "new", "light", "dark", "house", "tree", "river", "cloud"),
    *("stone", "window", "door", "table", "lamp", "cat", "dog", "bird", "horse", "child", "woman", "man", "street"),
    *("field", "hill", "sea", "sky", "sun", "moon", "rain", "snow", "near", "under", "over", "one", "two", "three"),
)

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def chat_model() -> Path:
    """A GGUF that chats and completes; usable for embeddings with `--embedding`."""
    return _folder() / CHAT


def vision_model() -> tuple[Path, Path]:
    """The GGUF of a model that takes images, and of its projector (`--mmproj`)."""
    return _folder() / CHAT, _folder() / VISION


def llama_flags(*, vision: bool = False) -> tuple[str, ...]:
    """What to write after `llama-server` in a model file, with the options that such a file has in real life."""
    files = ("-m", str(chat_model()), *(("--mmproj", str(vision_model()[1]), "--no-mmproj-offload") if vision else ()))
    alias = "qwen2.5-vl" if vision else "tiny-chat"
    return (*files, "-ngl", "99", "--ctx-size", str(CONTEXT), "--alias", alias, "--jinja", "--threads", "1")


def png(side: int = 64, colour: tuple[int, int, int] = (200, 40, 40)) -> bytes:
    """A square picture of one colour, for requests."""
    rows = b"".join(b"\0" + bytes(colour) * side for _ in range(side))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _folder() -> Path:
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return populate(f"models-{digest}", _write)


def _write(into: Path) -> None:
    _write_chat(into / CHAT)
    _write_projector(into / VISION)


def _vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    """Tokens, scores and types of a sentencepiece vocabulary: control, every byte, words."""
    from gguf import TokenType

    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    words = [f"▁{word}".encode() for word in WORDS][: VOCABULARY - len(tokens)]
    unused = [f"▁unused{number}".encode() for number in range(VOCABULARY - len(tokens) - len(words))]
    pieces = words + unused
    scores = [0.0] * len(tokens) + [-float(rank) for rank in range(len(pieces))]
    return tokens + pieces, scores, [int(kind) for kind in [*kinds, *[TokenType.NORMAL] * len(pieces)]]


def _write_chat(path: Path) -> None:
    import numpy as np
    from gguf import GGUFWriter

    random = np.random.default_rng(SEED)
    tokens, scores, kinds = _vocabulary()
    writer = GGUFWriter(path, "llama")
    writer.add_name("Random words")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * 0.1).astype(np.float32))

    def add_norm(name: str) -> None:
        writer.add_tensor(name, np.ones(EMBEDDING, dtype=np.float32))

    embedding = random.standard_normal((VOCABULARY, EMBEDDING)).astype(np.float32)
    embedding[:, 0] = ALWAYS
    writer.add_tensor("token_embd.weight", embedding)
    output = random.standard_normal((VOCABULARY, EMBEDDING)).astype(np.float32)
    can_come_out = np.array([token.removeprefix("▁".encode()).decode() in WORDS for token in tokens])
    output[:, 0] = np.where(can_come_out, 0.0, SUPPRESSED)
    writer.add_tensor("output.weight", output)
    add_norm("output_norm.weight")
    for block in range(BLOCKS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{block}.{name}.weight", EMBEDDING, EMBEDDING)
        add(f"blk.{block}.ffn_gate.weight", FEED_FORWARD, EMBEDDING)
        add(f"blk.{block}.ffn_up.weight", FEED_FORWARD, EMBEDDING)
        add(f"blk.{block}.ffn_down.weight", EMBEDDING, FEED_FORWARD)
        add_norm(f"blk.{block}.attn_norm.weight")
        add_norm(f"blk.{block}.ffn_norm.weight")
    _close(writer)


def _write_projector(path: Path) -> None:
    """A vision transformer and two layers into the chat model's embedding (llama.cpp, tools/mtmd/clip.cpp)."""
    import numpy as np
    from gguf import GGUFWriter

    random = np.random.default_rng(SEED + 1)
    writer = GGUFWriter(path, "clip")
    writer.add_name("Random pictures")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(IMAGE_SIDE)
    writer.add_vision_patch_size(PATCH_SIDE)
    writer.add_vision_embedding_length(IMAGE_EMBEDDING)
    writer.add_vision_feed_forward_length(IMAGE_FEED_FORWARD)
    writer.add_vision_projection_dim(EMBEDDING)
    writer.add_vision_block_count(BLOCKS)
    writer.add_vision_head_count(HEADS)
    writer.add_vision_attention_layernorm_eps(1e-5)
    writer.add_vision_image_mean([0.5] * 3)
    writer.add_vision_image_std([0.5] * 3)
    writer.add_vision_use_gelu(True)

    def add(name: str, shape: Sequence[int]) -> None:
        writer.add_tensor(f"{name}.weight", (random.standard_normal(shape) * 0.1).astype(np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(shape[0], dtype=np.float32))

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(IMAGE_EMBEDDING, dtype=np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(IMAGE_EMBEDDING, dtype=np.float32))

    def add_bare(name: str, *shape: int) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * 0.1).astype(np.float32))

    patches = (IMAGE_SIDE // PATCH_SIDE) ** 2
    add_bare("v.patch_embd.weight", IMAGE_EMBEDDING, 3, PATCH_SIDE, PATCH_SIDE)
    add_bare("v.class_embd", IMAGE_EMBEDDING)
    add_bare("v.position_embd.weight", patches + 1, IMAGE_EMBEDDING)
    add_norm("v.pre_ln")
    for block in range(BLOCKS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            add(f"v.blk.{block}.{name}", (IMAGE_EMBEDDING, IMAGE_EMBEDDING))
        add(f"v.blk.{block}.ffn_up", (IMAGE_FEED_FORWARD, IMAGE_EMBEDDING))
        add(f"v.blk.{block}.ffn_down", (IMAGE_EMBEDDING, IMAGE_FEED_FORWARD))
        add_norm(f"v.blk.{block}.ln1")
        add_norm(f"v.blk.{block}.ln2")
    add("mm.0", (EMBEDDING, IMAGE_EMBEDDING))
    add("mm.2", (EMBEDDING, EMBEDDING))
    _close(writer)


def _close(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
