"""A llama checkpoint of any size: a real configuration, real shards, random bytes for weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_VOCAB_SIZE = 49152
_ELEMENT_BYTES = 2
_CHUNK_BYTES = 1 << 20
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """The shape of a bfloat16 llama checkpoint with an untied head."""

    hidden_size: int
    """A multiple of 512: heads are 128 wide, four to a key-value head, as in Llama 3."""
    num_hidden_layers: int
    """Blocks."""
    num_shards: int
    """Weight files."""

    @property
    def config(self) -> dict[str, object]:
        """Contents of `config.json`."""
        heads = self.hidden_size // 128
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.hidden_size * 7 // 2,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 4,
            "hidden_act": "silu",
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-05,
            "rope_theta": 500000.0,
            "vocab_size": _VOCAB_SIZE,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }

    def block(self, number: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield key and shape of every tensor of one block."""
        hidden, inner, keys = self.hidden_size, self.hidden_size * 7 // 2, self.hidden_size // 4
        shapes = {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, inner),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "post_attention_layernorm": (hidden,),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.v_proj": (keys, hidden),
        }
        for name, shape in shapes.items():
            yield f"model.layers.{number}.{name}.weight", shape

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield key and shape of every tensor, in the order in which the shards hold them."""
        yield "model.embed_tokens.weight", (_VOCAB_SIZE, self.hidden_size)
        for number in range(self.num_hidden_layers):
            yield from self.block(number)
        yield "model.norm.weight", (self.hidden_size,)
        yield "lm_head.weight", (_VOCAB_SIZE, self.hidden_size)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return sum(_num_bytes(shape) for _, shape in self.block(0))

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(_num_bytes(shape) for _, shape in self.tensors())


def synthetic_of(written_bytes: float) -> Synthetic:
    """Return the shape whose first blocks, all but one, take at least `written_bytes`.

    From 4 GB on the blocks are those of Llama 3 8B; below, smaller ones of the same proportions.
    """
    hidden = 4096 if written_bytes >= 4e9 else 1024
    bare = Synthetic(hidden_size=hidden, num_hidden_layers=0, num_shards=1)
    kept = max(1, int(-(-(written_bytes - bare.num_bytes) // bare.block_bytes)))
    return Synthetic(hidden_size=hidden, num_hidden_layers=kept + 1, num_shards=4)


def write_synthetic(shape: Synthetic, folder: Path, tokenizer: Path) -> None:
    """Write the checkpoint, in little memory.

    Args:
        shape: what to write.
        folder: must not exist.
        tokenizer: a model's folder whose tokenizer files come along.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape.config, indent=2))
    for name in _TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, folder / name)
    limit = shape.num_bytes / shape.num_shards
    shards: list[dict[str, tuple[int, ...]]] = [{} for _ in range(shape.num_shards)]
    before = 0
    for name, extents in shape.tensors():
        shards[min(int(before // limit), shape.num_shards - 1)][name] = extents
        before += _num_bytes(extents)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = folder / f"model-{number:05}-of-{shape.num_shards:05}.safetensors"
        _write_shard(shard, file)
        weight_map |= dict.fromkeys(shard, file.name)
    index = {"metadata": {"total_size": shape.num_bytes}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _write_shard(tensors: dict[str, tuple[int, ...]], file: Path) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + _num_bytes(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("xb", buffering=0) as opened:
        opened.write(len(encoded).to_bytes(8, "little") + encoded)
        for first in range(0, end, _CHUNK_BYTES):
            opened.write(os.urandom(min(_CHUNK_BYTES, end - first)))


def _num_bytes(shape: tuple[int, ...]) -> int:
    count = _ELEMENT_BYTES
    for extent in shape:
        count *= extent
    return count
