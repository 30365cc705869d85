"""Is every block of the result the block it was? Compared module by module, on the meta device.

Weights decide only half of what a block computes. The rest is in what its constructor derived from
the configuration and the block's number: its kind of attention, its window, whether it rotates, its
scaling. Both models are built without memory and the two blocks' modules compared, so that math that
depends on the number of a block is found even where no fact in `architectures` names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bequest.errors import UnsupportedModelError
from bequest.inheritance.blocks import is_tower

if TYPE_CHECKING:
    from torch import nn

_NUMBERS_OF_BLOCK = {"layer_idx", "layer_id", "layer_index", "layer_number", "block_idx"}
"""Attributes that only tell a block its place, for the key-value cache."""
_OF_OTHER_BLOCKS = {
    # Lists of every block's kind. A block picked its own from it: the type or class compared here.
    ("GPTNeoAttention", "attention_layers"),
    ("ReformerAttention", "attn_layers"),
    # The period of the kinds, which nothing reads: a block picked its own from `layer_types`.
    ("Exaone4Attention", "sliding_window_pattern"),
    ("ExaoneMoeAttention", "sliding_window_pattern"),
    # Whether the keys are kept for later blocks. Which block reads whose is held by `SharedTail`.
    ("Gemma3nTextAttention", "store_full_length_kv"),
    ("Gemma4TextAttention", "store_full_length_kv"),
    ("Gemma4UnifiedTextAttention", "store_full_length_kv"),
}
"""Classes of modules and attributes of theirs that tell of other blocks than their own."""
_STATE_OF_LOADING = {"_is_hf_initialized"}
"""Attributes that tell how a model was loaded, not what it computes."""
_SIMPLE = (bool, int, float, str, type(None))


def build_on_meta(
    config: Any, *, model_class: str = "AutoModelForCausalLM", trust_remote_code: bool = False
) -> nn.Module:
    """Build a causal language model without memory for its parameters.

    Args:
        config: a transformers configuration.
        model_class: the class of transformers that loads it.
        trust_remote_code: build it by the code of its own that the configuration names.
    """
    import torch
    import transformers

    if not model_class.startswith("Auto"):
        with torch.device("meta"):
            named: nn.Module = getattr(transformers, model_class)._from_config(
                config, dtype=torch.float32
            )
        return named
    with torch.device("meta"):
        model: nn.Module = getattr(transformers, model_class).from_config(
            config, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    return model


def find_block_modules(
    model: nn.Module, prefix: str, num_blocks: int | None = None
) -> nn.ModuleList:
    """Return a model's list of blocks by the name it has in a checkpoint's keys.

    Args:
        model: a causal language model.
        prefix: such as "model.layers." or, from a headless checkpoint, "h.".
        num_blocks: how many there are, for a model that renames its checkpoint's keys.

    Raises:
        UnsupportedModelError: no list of modules has that name.
    """
    from torch import nn

    wanted = f".{prefix.rstrip('.')}"
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and f".{name}".endswith(wanted):
            return module
    # What is left is a model that renames its checkpoint's keys: the one list of this length.
    as_deep = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_blocks and not is_tower(name)
    }
    outer = [name for name in as_deep if not _is_inside(name, as_deep)]
    last = f".{prefix.rstrip('.').rpartition('.')[2]}"
    for found in ([name for name in outer if f".{name}".endswith(last)], outer):
        if len(found) == 1:
            return as_deep[found[0]]
    raise UnsupportedModelError(
        f"{type(model).__name__} has no list of blocks called {prefix.rstrip('.')!r}."
    )


def _is_inside(name: str, others: Iterable[str]) -> bool:
    """Whether a module lies in one of the others, as a list of experts does in a block."""
    return any(name.startswith(f"{other}.") for other in others)


def compare_blocks(
    source: nn.ModuleList, result: nn.ModuleList, selection: Sequence[int], *, model: str
) -> None:
    """Raise unless each block of the result is built as the block it comes from.

    Args:
        source: all blocks of the source model, weights or none.
        result: the blocks of the result.
        selection: for each block of the result, its number in the source.
        model: the source's name, for messages.

    Raises:
        UnsupportedModelError: a block would compute something else than in the source.
    """
    for new, old in enumerate(selection):
        before, after = _signature(source[old]), _signature(result[new])
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                raise UnsupportedModelError(
                    f"{model}: block {old} would be another one as block {new}: its {key} depends "
                    f"on the block's number ({before.get(key)!r} there, {after.get(key)!r} here)."
                )


def _signature(block: nn.Module) -> dict[str, Any]:
    from torch import nn

    facts: dict[str, Any] = {}
    ignored = vars(nn.Module()).keys() | _NUMBERS_OF_BLOCK | _STATE_OF_LOADING
    for path, module in block.named_modules():
        place = f"{path}." if path else ""
        kind = type(module).__qualname__
        facts[f"{place}class"] = kind
        for name, value in vars(module).items():
            if name in ignored or (kind, name) in _OF_OTHER_BLOCKS:
                continue
            if _is_simple(value):
                facts[f"{place}{name}"] = value
    for name, tensor in (*block.named_parameters(), *block.named_buffers()):
        facts[f"{name} (shape)"] = tuple(tensor.shape)
    return facts


def _is_simple(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_simple(item) for item in value)
    return isinstance(value, _SIMPLE)
