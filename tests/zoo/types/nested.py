"""Language models inside multimodal configurations: the sub-configurations that make them tiny."""

from __future__ import annotations

from typing import Any

_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
_QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 8,
    "num_position_embeddings": 16,
}

NESTED: dict[str, dict[str, Any]] = {
    "emu3": {
        "vq_config": {
            "codebook_size": 16,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "hidden_size": 32,
            "attn_resolutions": [1],
        },
        "vocabulary_map": {"<image>": 3},
    },
    "fuyu": {"text_config": {"model_type": "persimmon"}, "patch_size": 4},
    "gemma3": {"vision_config": _VISION, "mm_tokens_per_image": 4},
    "gemma4": {
        "vision_config": _VISION
        | {"num_key_value_heads": 2, "head_dim": 8}
        | {"position_embedding_size": 16},
        "audio_config": None,
    },
    "gemma4_unified": {
        "vision_config": {"patch_size": 4, "mm_embed_dim": 16, "mm_posemb_size": 8}
        | {"output_proj_dims": 16},
        "audio_config": {"audio_embed_dim": 16},
    },
    "git": {"vision_config": _VISION},
    "got_ocr2": {
        "text_config": {"model_type": "qwen2", "max_window_layers": 3},
        "vision_config": _VISION
        | {"mlp_dim": 24, "output_channels": 8, "window_size": 2}
        | {"global_attn_indexes": [1]},
    },
    "llama4": {
        "vision_config": _VISION
        | {"vision_output_dim": 16, "projector_input_dim": 16}
        | {"projector_output_dim": 16}
    },
    "mllama": {
        "text_config": {"cross_attention_layers": [1, 4]},
        "vision_config": _VISION
        | {"attention_heads": 2, "num_global_layers": 1}
        | {"vision_output_dim": 32, "intermediate_layers_indices": [0]},
    },
    "moshi": {},
    "moss_transcribe_diarize": {
        "audio_config": {"num_mel_bins": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"intermediate_size": 24, "hidden_size": 16, "max_source_positions": 16},
        "text_config": {"model_type": "qwen3"},
    },
    "phi4_multimodal": {
        "vision_config": _VISION,
        "audio_config": {"hidden_size": 16, "intermediate_size": 24, "num_blocks": 2}
        | {"num_attention_heads": 2, "ext_pw_out_channel": 16, "nemo_conv_channels": 8}
        | {"depthwise_separable_out_channel": 16, "input_size": 16},
    },
    "qwen3_5": {"vision_config": _QWEN_VISION},
    "qwen3_5_moe": {"vision_config": _QWEN_VISION},
    "qwen4_exp": {"vision_config": _QWEN_VISION},
    "dots3_note": {
        "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
        | {"num_attention_heads": 2, "patch_size": 4, "moe_intermediate_size": 8}
        | {"mlp_layer_types": ["dense", "dense"], "adapter_in_dim": 16, "adapter_out_dim": 32},
        "audio_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
        | {"num_attention_heads": 2, "feature_size": 16, "downsample_hidden_size": 4}
        | {"adapter_input_size": 16, "adapter_out_dim": 32},
    },
    "blt": {
        name: {"hidden_size": 32, "hidden_size_global": 32, "num_attention_heads": 4}
        | {"num_hidden_layers": depth, "intermediate_size": 48}
        for name, depth in {"encoder_config": 1, "decoder_config": 2, "global_config": 6}.items()
    }
    | {"patcher_config": {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}}
    | {"encoder_hash_byte_group_vocab": 32},
}
"""Sub-configurations that hold a decoder take the settings of its own type, too."""
