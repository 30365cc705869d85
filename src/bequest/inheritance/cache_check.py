"""Can a cut model generate with a cache? transformers counts its tokens in a block with attention."""

from __future__ import annotations

from typing import Any

from bequest.errors import UnsupportedModelError


def require_attention(source: Any, result: Any, *, model: str) -> None:
    """Refuse a cut without attention of a model that has some.

    `Cache.get_seq_length` and `get_mask_sizes` ask the first block with attention how many tokens
    the cache holds, and raise if there is none. State-space models know that they have none; the
    code of mixed ones does not, and fails at its first token.

    Args:
        source: the decoder's transformers configuration.
        result: the same of the cut model.
        model: the source's name, for messages.

    Raises:
        UnsupportedModelError: no kept block has attention.
    """
    before = _with_attention(source)
    if before and _with_attention(result) == []:
        raise UnsupportedModelError(
            f"{model}: none of the chosen blocks has attention, without which transformers cannot "
            f"count the tokens in the cache of a {source.model_type} model; keep a block that has, "
            f"such as {before[0]}."
        )


def _with_attention(config: Any) -> list[int] | None:
    """Return the blocks in whose cache tokens are counted, or None if it cannot be told."""
    from transformers.cache_utils import CacheLayerMixin, DynamicCache

    try:
        layers = DynamicCache(config=config).layers
    except KeyError:  # A kind that only the model's own code makes known, as DeepSeek-V4's.
        return None
    return [index for index, layer in enumerate(layers) if isinstance(layer, CacheLayerMixin)]
