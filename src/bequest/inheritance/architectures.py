"""What each architecture ties to depth: which fields of a configuration change with the blocks.

A cut that forgets one of these loads and runs and is silently wrong, so an architecture is inherited
only once its facts stand here: every use of the depth and of a block's number in its configuration
and model was searched for, and tiny models were cut and held to the whole one. The facts are checked
on every cut, too: the configuration of the result may differ in these fields only (`config_cut`),
and every block must come out as the block it was (`identity`).
"""

from __future__ import annotations

from dataclasses import dataclass

from bequest.inheritance.depth_limits import (
    AlwaysFirst,
    Follower,
    HomeOfShared,
    LastKind,
    NotOfKind,
    NumberInMath,
    OnlyInLast,
    PaddedForAll,
    PlaceInList,
    SharedTail,
)
from bequest.inheritance.depth_periods import (
    ExpertRange,
    Period,
    PeriodAndOffset,
    PeriodOfOthers,
    RepeatedKinds,
    SparseStep,
)
from bequest.inheritance.depth_rules import (
    BlockNumbers,
    DepthRule,
    LeadingBlocks,
    NumbersInside,
    OfInitialization,
    PerLayerConfig,
    PerLayerList,
    RootOfDepth,
    RunsOfKinds,
    SameAsDepth,
    Superseded,
)
from bequest.inheritance.packed import Packed
from bequest.inheritance.prediction import PredictionBlocks


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The facts of one `model_type`."""

    rules: tuple[DepthRule, ...] = ()
    """What follows depth beyond `num_hidden_layers` and the lists that every type may have."""
    depth: str | None = None
    """Field that counts the blocks, where it is not what transformers calls `num_hidden_layers`."""
    packed: tuple[Packed, ...] = ()
    """Tensors outside the blocks in which every block has a slice."""


EVERYWHERE: tuple[DepthRule, ...] = (
    PerLayerList("layer_types"),
    PerLayerList("mlp_layer_types"),
    PerLayerConfig(),
    PredictionBlocks(),
)
"""What every configuration may have: three fields of transformers' own, and prediction blocks."""


def _facts(*rules: DepthRule, packed: tuple[Packed, ...] = ()) -> Architecture:
    return Architecture(rules=rules, packed=packed)


_DEPTH_ALONE = [
    "apertus",
    "apertus1p5_text",
    "arcee",
    "aria_text",
    "biogpt",
    "bitnet",
    "bloom",
    "codegen",
    "cohere",
    "cpmant",
    "ctrl",
    "cwm",
    "dbrx",
    "doge",
    "ernie4_5",
    "exaone",
    "falcon",
    "falcon_h1",
    "falcon_mamba",
    "flex_olmo",
    "gemma",
    "gemma2",
    "git",
    "glm",
    "glm4",
    "gpt_bigcode",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "granite",
    "granitemoe",
    "granitemoehybrid",
    "granitemoeshared",
    "helium",
    "hunyuan_v1_dense",
    "hy_v3",
    "hyperclovax",
    "internlm3",
    "iquestcoder",
    "jais2",
    "jetmoe",
    "kolibri1",
    "lara_mini",
    "lfm3",
    "llama",
    "mamba",
    "mamba2",
    "mellum",
    "minimax_m2",
    "ministral",
    "ministral3",
    "mistral",
    "mixtral",
    "modernbert-decoder",
    "moshi",
    "mpt",
    "nanochat",
    "nemotron",
    "olmo",
    "olmo2",
    "olmo3",
    "olmo_hybrid",
    "olmoe",
    "openai-gpt",
    "opt",
    "persimmon",
    "phi",
    "phi3",
    "phi4_multimodal",
    "phimoe",
    "rwkv",
    "seed_oss",
    "stablelm",
    "starcoder2",
    "vaultgemma",
    "xglm",
    "xlnet",
    "youtu",
    "zaya",
]
"""Types whose blocks follow from the depth and from `layer_types` and its like alone."""

_DENSE_FIRST = LeadingBlocks("first_k_dense_replace")
_WINDOWED = LeadingBlocks("max_window_layers")
_DENSE_THEN_EXPERTS = (
    "deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe glm4_moe_lite glm4v_moe_text sarvam_mla sarvam_moe "
    "solar_open"
)
_WINDOWS_LAST = "qwen2 qwen2_5_vl_text qwen2_vl_text qwen3"
_GPT2 = _facts(NumberInMath("scale_attn_by_inverse_layer_idx"))
_TYPES_FROM_COUNT = _facts(Superseded("first_k_dense_replace"), Superseded("moe_layer_freq"))
_INTERVAL = Superseded("full_attention_interval")
_PATTERN = Superseded("sliding_window_pattern")
_SHARED_INDEX = Follower("indexer_types", leader="full", follower="shared")
_GEMMA4 = (SharedTail(), LastKind("layer_types", "full_attention"))
_PER_LAYER_EMBEDDINGS = (
    Packed("embed_tokens_per_layer.weight", axis=1),
    Packed("per_layer_model_projection.weight", axis=0),
)

ARCHITECTURES: dict[str, Architecture] = {
    **{model_type: Architecture() for model_type in _DEPTH_ALONE},
    **{model_type: _facts(_DENSE_FIRST) for model_type in _DENSE_THEN_EXPERTS.split()},
    **{model_type: _facts(_WINDOWED) for model_type in _WINDOWS_LAST.split()},
    "afmoe": _facts(LeadingBlocks("num_dense_layers"), Period("global_attn_every_n_layers")),
    "axk1": _TYPES_FROM_COUNT,
    "axk2": _TYPES_FROM_COUNT,
    "bailing_hybrid": _facts(_DENSE_FIRST, PeriodOfOthers("layer_group_size", "layer_types")),
    "bamba": _facts(BlockNumbers("attn_layer_indices")),
    "beam": _facts(AlwaysFirst("how its output is scaled before it is added")),
    "cohere2": _facts(_PATTERN),
    "cohere2_moe": _facts(Superseded("first_k_dense_replace")),
    "cohere_compass_text": _facts(_PATTERN),
    "deepseek_v4": _facts(Superseded("compress_ratios"), Superseded("num_hash_layers")),
    "diffllama": _facts(AlwaysFirst("its lambda_init")),
    "dots1": _facts(_DENSE_FIRST, _WINDOWED),
    "dots3_note_text": _TYPES_FROM_COUNT,
    "ernie4_5_moe": _facts(ExpertRange()),
    "emu3_text_model": Architecture(),
    "exaone4": _facts(Period("sliding_window_pattern")),
    "exaone_moe": _facts(_DENSE_FIRST, Period("sliding_window_pattern")),
    "flint": _facts(SparseStep()),
    "gemma3_text": _facts(Period("sliding_window_pattern")),
    "gemma3n_text": _facts(
        SharedTail(),
        PerLayerList("intermediate_size"),
        PerLayerList("activation_sparsity_pattern"),
        packed=_PER_LAYER_EMBEDDINGS,
    ),
    "gemma4_text": _facts(*_GEMMA4, packed=_PER_LAYER_EMBEDDINGS),
    "gemma4_unified_text": _facts(*_GEMMA4),
    "glm_moe_dsa": _facts(
        _DENSE_FIRST,
        _SHARED_INDEX,
        Superseded("index_topk_pattern"),
        Period("index_topk_freq"),
        Period("index_skip_topk_offset"),
    ),
    "glm4v_text": Architecture(),
    "gpt2": _GPT2,
    "gpt-sw3": _GPT2,
    "gpt_neo": _facts(RunsOfKinds("attention_types", "attention_layers")),
    "gpt_neox_japanese": _facts(OnlyInLast("a bias behind its attention")),
    "granite_swa": _facts(PerLayerList("layer_rope_theta")),
    "granitemoe_swa": _facts(PerLayerList("layer_rope_theta")),
    "hunyuan_v1_moe": _facts(
        PerLayerList("num_experts"),
        PerLayerList("moe_topk"),
        PerLayerList("num_shared_expert"),
        PerLayerList("moe_intermediate_size"),
    ),
    "hy_v4": _facts(_SHARED_INDEX),
    "inkling_text": _facts(BlockNumbers("local_layer_ids"), Superseded("dense_mlp_idx")),
    "jamba": _facts(
        PeriodAndOffset("attn_layer_period", "attn_layer_offset"),
        PeriodAndOffset("expert_layer_period", "expert_layer_offset"),
    ),
    "kimi_linear": _facts(
        NumbersInside("linear_attn_config", ("full_attn_layers", "kda_layers"), first=1),
        _DENSE_FIRST,
    ),
    "laguna": _facts(PerLayerList("num_attention_heads_per_layer")),
    "lfm2": _facts(BlockNumbers("full_attn_idxs")),
    "lfm2_moe": _facts(LeadingBlocks("num_dense_layers")),
    "llama4_text": _facts(
        PerLayerList("no_rope_layers"),
        Period("no_rope_layer_interval"),
        BlockNumbers("moe_layers"),
        Period("interleave_moe_layer_step"),
    ),
    "longcat_flash": Architecture(depth="num_layers"),
    "mimo_v2_flash": _facts(Superseded("hybrid_layer_pattern"), Superseded("moe_layer_freq")),
    "minicpm3": _facts(RootOfDepth("scale_depth")),
    "minimax": _facts(NotOfKind("layer_types", "linear_attention", "the decay")),
    "minimax_m3_vl_text": _facts(
        Superseded("moe_layer_freq"), Superseded("sparse_attention_config")
    ),
    "mllama_text_model": _facts(BlockNumbers("cross_attention_layers")),
    "nemotron_h": _facts(Superseded("hybrid_override_pattern")),
    "qwen2_moe": _facts(_WINDOWED, SparseStep()),
    "qwen3_vl_text": Architecture(),
    "qwen3_vl_moe_text": _facts(SparseStep()),
    "qwen3_5_moe_text": _facts(_INTERVAL),
    "qwen3_5_text": _facts(_INTERVAL),
    "qwen3_moe": _facts(_WINDOWED, SparseStep()),
    "qwen3_next": _facts(SparseStep(), _INTERVAL),
    "qwen4_exp_text": _facts(
        PlaceInList("ple_layer_ids", first=1, what="the hash of the n-grams"),
        BlockNumbers("ple_layer_ids", first=1),
        _INTERVAL,
    ),
    "recurrent_gemma": _facts(
        RepeatedKinds("block_types"),
        OfInitialization("final_w_init_variance_scale", 2.0),
    ),
    "reformer": _facts(PaddedForAll(), PerLayerList("attn_layers")),
    "smollm3": _facts(PerLayerList("no_rope_layers"), Period("no_rope_layer_interval")),
    "xlstm": _facts(SameAsDepth("num_blocks")),
    "zamba": _facts(HomeOfShared("layers_block_type", "hybrid")),
}
"""The facts by `model_type`, from transformers 5.24's configurations and models."""

MULTIMODAL = [
    "aria",
    "aya_vision",
    "cohere2_vision",
    "glm46v",
    "glm4v",
    "glm4v_moe",
    "idefics2",
    "idefics3",
    "internvl",
    "lfm2_vl",
    "lighton_ocr",
    "llava",
    "llava_next",
    "llava_next_video",
    "llava_onevision",
    "mistral3",
    "ovis2",
    "paligemma",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "smolvlm",
    "video_llava",
    "vipllava",
]
"""Types with a nested decoder that transformers does not list as causal language models."""

NESTED: dict[str, str] = dict.fromkeys(
    [
        *MULTIMODAL,
        "dots3_note",
        "emu3",
        "fuyu",
        "gemma3",
        "gemma4",
        "gemma4_unified",
        "got_ocr2",
        "llama4",
        "mllama",
        "moss_transcribe_diarize",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen4_exp",
    ],
    "text_config",
)
"""Types whose decoder has a configuration of its own, and the field that holds it."""

FLAT = ("qwen2_5_vl", "qwen2_vl")
"""Nested types whose configurations on hubs hold the decoder's fields beside those of the towers."""
