"""Image models whose decoder transformers lists under no causal language models: tiny, with a picture.

Pictures are of 16 pixels in patches of 8, so that few tokens stand for one.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

IMAGE = 61
"""The token that an image's features take the place of."""
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
_CLIP = {"model_type": "clip_vision_model", "projection_dim": 16, **_VISION}
_SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False, **_VISION}
_PIXTRAL = {"model_type": "pixtral", "head_dim": 8, **_VISION, "image_size": 32}
_QWEN2_VISION: dict[str, Any] = {
    "depth": 2,
    "embed_dim": 16,
    "hidden_size": 32,
    "num_heads": 2,
    "mlp_ratio": 2,
    "patch_size": 8,
}
_QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 8,
}
_GLM_VISION = {**_QWEN_VISION, "image_size": 16, "intermediate_size": 24}
_ROPE = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 1, 1]}
_TOKENS = {"image_token_id": IMAGE, "video_token_id": 62}
_INDEX = {"image_token_index": IMAGE}
_QWEN_TOKENS = {**_TOKENS, "vision_start_token_id": 59, "vision_end_token_id": 60}
_WINDOWS = {"use_sliding_window": True, "max_window_layers": 3}
_LLAMA, _QWEN2 = {"model_type": "llama"}, {"model_type": "qwen2", **_WINDOWS}

MULTIMODAL: dict[str, dict[str, Any]] = {
    "aria": {
        "text_config": {},
        "vision_config": {"model_type": "idefics3_vision", **_VISION},
        "projector_patch_to_query_dict": {4: 4},
        **_INDEX,
    },
    "aya_vision": {"text_config": {"model_type": "cohere2"}, "vision_config": _SIGLIP, **_INDEX},
    "cohere2_vision": {
        "text_config": {"model_type": "cohere2"},
        "vision_config": _SIGLIP,
        "alignment_intermediate_size": 32,
        "image_token_id": IMAGE,
    },
    "glm46v": {
        "text_config": {"model_type": "glm4v_text", "rope_parameters": _ROPE},
        "vision_config": {"model_type": "glm4v_vision", **_GLM_VISION},
        **_TOKENS,
    },
    "glm4v": {"text_config": {"rope_parameters": _ROPE}, "vision_config": _GLM_VISION, **_TOKENS},
    "glm4v_moe": {
        "text_config": {
            "rope_parameters": {**_ROPE, "partial_rotary_factor": 1.0},
            "first_k_dense_replace": 2,
        },
        "vision_config": _GLM_VISION,
        **_TOKENS,
    },
    "idefics2": {
        "text_config": {"model_type": "mistral"},
        "vision_config": _VISION,
        "perceiver_config": {"hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 6}
        | {"resampler_n_heads": 2, "resampler_head_dim": 8, "num_key_value_heads": 2},
        "image_token_id": IMAGE,
    },
    "idefics3": {"text_config": _LLAMA, "vision_config": _VISION, "image_token_id": IMAGE},
    "internvl": {
        "text_config": _QWEN2,
        "vision_config": {**_VISION, "image_size": [16, 16], "patch_size": [8, 8]},
        "image_token_id": IMAGE,
    },
    "lfm2_vl": {
        "text_config": {"model_type": "lfm2", "full_attn_idxs": [1, 2, 4]},
        "vision_config": {"model_type": "siglip2_vision_model", **_VISION, "num_patches": 4}
        | {"vision_use_head": False},
        "projector_hidden_size": 16,
        "image_token_id": IMAGE,
    },
    "lighton_ocr": {
        "text_config": {"model_type": "qwen3", **_WINDOWS},
        "vision_config": _PIXTRAL,
        "image_token_id": IMAGE,
    },
    "llava": {"text_config": _LLAMA, "vision_config": _CLIP, **_INDEX},
    "llava_next": {
        "text_config": {"model_type": "mistral"},
        "vision_config": _CLIP,
        "image_grid_pinpoints": [[16, 16]],
        **_INDEX,
    },
    "llava_next_video": {
        "text_config": _LLAMA,
        "vision_config": _CLIP,
        "image_grid_pinpoints": [[16, 16]],
        "video_token_index": 62,
        **_INDEX,
    },
    "llava_onevision": {
        "text_config": _QWEN2,
        "vision_config": _SIGLIP,
        "image_grid_pinpoints": [[16, 16]],
        "video_token_index": 62,
        **_INDEX,
    },
    "mistral3": {"text_config": {"model_type": "mistral"}, "vision_config": _PIXTRAL, **_INDEX},
    "ovis2": {
        "text_config": _QWEN2,
        "vision_config": {**_VISION, "vocab_size": 24, "num_visual_indicator_tokens": 5},
        "image_token_id": IMAGE,
        "visual_indicator_token_ids": [55, 56, 57, 58, 59],
        "vocab_size": 64,
        "hidden_size": 32,
    },
    "paligemma": {
        "text_config": {"model_type": "gemma"},
        "vision_config": {**_SIGLIP, "projection_dim": 32},
        "projection_dim": 32,
        "hidden_size": 32,
        **_INDEX,
    },
    "qwen2_5_vl": {
        "text_config": {"rope_parameters": _ROPE, **_WINDOWS},
        "vision_config": {**_QWEN_VISION, "window_size": 16, "fullatt_block_indexes": [1]},
        **_QWEN_TOKENS,
    },
    "qwen2_vl": {
        "text_config": {"rope_parameters": _ROPE, **_WINDOWS},
        "vision_config": _QWEN2_VISION,
        **_QWEN_TOKENS,
    },
    "qwen3_vl": {
        "text_config": {"rope_parameters": _ROPE},
        "vision_config": {**_QWEN_VISION, "num_position_embeddings": 16}
        | {"deepstack_visual_indexes": [0, 1]},
        **_QWEN_TOKENS,
    },
    "qwen3_vl_moe": {
        "text_config": {"rope_parameters": _ROPE, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
        "vision_config": {**_QWEN_VISION, "num_position_embeddings": 16}
        | {"deepstack_visual_indexes": [0, 1]},
        **_QWEN_TOKENS,
    },
    "smolvlm": {"text_config": _LLAMA, "vision_config": _VISION, "image_token_id": IMAGE},
    "video_llava": {
        "text_config": _LLAMA,
        "vision_config": _CLIP,
        "video_token_index": 62,
        **_INDEX,
    },
    "vipllava": {
        "text_config": _LLAMA,
        "vision_config": _CLIP,
        "vision_feature_layers": [-1, -2],
        **_INDEX,
    },
}
"""The fields of each; text_config takes the settings of its own type, too."""

_PATCHED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "glm4v_moe", "glm46v")
"""Types that get an image as rows of patches, and merge four into one token."""
_MANY = ("idefics3", "smolvlm", "idefics2")
"""Types that get several images a row."""
_SIZES = ("mistral3", "lighton_ocr")
"""Types that get every image's size."""
_NUM_TOKENS = {
    **dict.fromkeys(("llava", "vipllava", "paligemma", "idefics2", "aria"), 4),
    **dict.fromkeys(("idefics3", "smolvlm", "internvl", "aya_vision", "cohere2_vision"), 1),
    **dict.fromkeys(_SIZES, 2),
    **dict.fromkeys(_PATCHED, 4),
}
"""Tokens of one image, of the types that are shown one."""


def picture(model_type: str) -> dict[str, torch.Tensor] | None:
    """The inputs of one row of text with an image in it; None for a type that is shown none."""
    if model_type == "mllama":
        return _picture_across()
    count = _NUM_TOKENS.get(model_type)
    if count is None:
        return None
    generator = torch.Generator().manual_seed(2)
    text = torch.randint(4, 50, (10,), generator=generator).tolist()
    image = [59] + [IMAGE] * count + [60] if model_type in _PATCHED else [IMAGE] * count
    ids = torch.tensor([text[:3] + image + text[3:]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    shape: tuple[int, ...] = (1, 3, 16, 16)
    if model_type in _MANY:
        shape = (1, 1, 3, 16, 16)
    if model_type in _PATCHED:
        shape = (16, 3 * 2 * 8 * 8)
        inputs["image_grid_thw"] = torch.tensor([[1, 4, 4]])
        inputs["mm_token_type_ids"] = (ids == IMAGE).int()
    if model_type in _SIZES:
        shape = (1, 3, 32, 16)
        inputs["image_sizes"] = torch.tensor([[32, 16]])
    if model_type == "paligemma":
        inputs["token_type_ids"] = torch.zeros_like(ids)
    inputs["pixel_values"] = torch.randn(shape, generator=generator)
    return inputs


def _picture_across() -> dict[str, torch.Tensor]:
    """Llama 3.2's blocks with cross-attention read an image of up to four tiles beside the text."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(4, 50, (1, 10), generator=generator)
    seen = torch.zeros(1, 10, 1, 4)
    seen[:, 3:, :, 0] = 1  # from the fourth token on, the first tile
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 1, 4, 3, 16, 16, generator=generator),
        "aspect_ratio_ids": torch.tensor([[1]]),
        "aspect_ratio_mask": torch.tensor([[[1, 0, 0, 0]]]),
        "cross_attention_mask": seen,
    }


@torch.no_grad()
def logits(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of a row with an image, without a cache."""
    return model(**inputs, use_cache=False).logits
