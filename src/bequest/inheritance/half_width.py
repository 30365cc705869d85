"""A model with all of another's blocks and half of its width, cut out of the first halves.

A baseline of Inheritune (arXiv 2404.08634): the first half of the attention heads, of the MLP's
neurons and of the hidden dimensions, at full depth. Heads keep their size, so rotations stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from bequest.checkpoints.checkpoint import open_checkpoint
from bequest.checkpoints.companions import companion_files, copy_companions
from bequest.checkpoints.lineage import describe_input, write_lineage
from bequest.checkpoints.publish import check_target, staged_folder
from bequest.errors import UnsupportedModelError
from bequest.inheritance.config_cut import read_config

_HALVED = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
_PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
_PROJECTIONS |= {"c_attn", "c_proj", "c_fc", "embed_tokens", "lm_head", "wte", "wpe"}
"""Matrices whose first half of outputs belongs to the first half of heads, neurons or dimensions."""
_FUSED = {"c_attn": 3}
"""Of these, the ones that hold several projections after one another, and how many: GPT-2's own."""


def half_width_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration of the model with half of the width.

    Raises:
        UnsupportedModelError: a width is odd, or the model's shape is stated another way.
    """
    kind = config.model_type
    if config.get_text_config() is not config:
        raise UnsupportedModelError(f"{kind} nests its decoder, and only plain ones are narrowed")
    fields: dict[str, Any] = config.to_dict()
    names = {name: config.attribute_map.get(name, name) for name in _HALVED}
    for name in names.values():
        width = fields.get(name)
        # One key-value head is shared by all query heads, however many there are.
        if width is None or (width == 1 and name == "num_key_value_heads"):
            continue
        if width % 2:
            raise UnsupportedModelError(f"{kind} has {name} {width}, which has no half")
        fields[name] = width // 2
    return type(config).from_dict(fields)


def check_half_width(reference: str | Path, *, revision: str | None = None) -> None:
    """Refuse a reference that cannot be narrowed; reads headers only.

    Raises:
        UnsupportedModelError: a tensor is of a kind whose halves are not known.
    """
    checkpoint = open_checkpoint(reference, revision=revision)
    config = read_config(checkpoint.config, model=checkpoint.location.name)
    _planned(config, _narrow_skeleton(config))


def half_width(reference: str | Path, out: str | Path, *, revision: str | None = None) -> None:
    """Write the narrow model, whole or not at all.

    Args:
        reference: folder or hub id of the model to narrow; it is read whole, in float32.
        out: folder to write.
        revision: branch, tag or commit of a reference from the hub.

    Raises:
        InputError: the reference or `out` is at fault; nothing was written.
        StorageError: the disk is full or failed; nothing is left behind.
    """
    checkpoint = open_checkpoint(reference, revision=revision)
    target = check_target(out, overwrite=False, inputs=(checkpoint.folder,))
    config = read_config(checkpoint.config, model=checkpoint.location.name)
    shapes = _planned(config, _narrow_skeleton(config))
    wide = AutoModelForCausalLM.from_pretrained(
        checkpoint.folder, config=config, dtype=torch.float32
    ).state_dict()
    narrow: PreTrainedModel = AutoModelForCausalLM.from_config(
        half_width_config(config), dtype=torch.float32
    )
    narrow.load_state_dict({name: _first_half(name, wide[name], shape) for name, shape in shapes})
    with staged_folder(target) as folder:
        narrow.save_pretrained(folder)
        there = {path.name for path in folder.iterdir()}
        missing = [p for p in companion_files(checkpoint.folder) if p.name not in there]
        copy_companions(checkpoint.folder, folder, missing)
        write_lineage(
            folder,
            operation="half-width",
            settings={},
            inputs=[describe_input(checkpoint, "source", full_hash=False)],
            outputs=[path for path in folder.rglob("*") if path.is_file()],
            full_hash=False,
        )


def _narrow_skeleton(config: PretrainedConfig) -> Mapping[str, Tensor]:
    return _skeleton(half_width_config(config))


def _skeleton(config: PretrainedConfig) -> Mapping[str, Tensor]:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    found: Mapping[str, Tensor] = model.state_dict()
    return found


def _planned(
    config: PretrainedConfig, narrow: Mapping[str, Tensor]
) -> list[tuple[str, torch.Size]]:
    """Return each tensor's shape in the narrow model, refusing what has no known half."""
    wide = _skeleton(config)
    kind = config.model_type
    if wide.keys() != narrow.keys():
        raise UnsupportedModelError(f"{kind} has other tensors at half its width")
    planned = []
    for name, tensor in narrow.items():
        before = wide[name].shape
        module = name.split(".")[-2]
        known = len(before) == 1 or module in _PROJECTIONS
        known = known and (module not in _FUSED or config.model_type == "gpt2")
        known = known and all(
            have in (want, 2 * want) for have, want in zip(before, tensor.shape, strict=True)
        )
        if not known:
            raise UnsupportedModelError(
                f"{kind} has {name}, and which part of it belongs to the first half is not known"
            )
        planned.append((name, tensor.shape))
    return planned


def _first_half(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    parts = _FUSED.get(name.split(".")[-2], 1)
    for dimension, (have, want) in enumerate(zip(tensor.shape, shape, strict=True)):
        if have == want:
            continue
        several = parts if dimension == tensor.dim() - 1 else 1
        halves = [
            part.narrow(dimension, 0, part.shape[dimension] // 2)
            for part in tensor.chunk(several, dimension)
        ]
        tensor = torch.cat(halves, dimension)
    return tensor
