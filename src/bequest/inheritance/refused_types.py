"""Types of transformers' list of causal language models that are not cut, and why."""

from __future__ import annotations

_OF_ANOTHER = "its blocks read keys and values that another model computed"
_LOOPED = "some of its blocks run several times in a row, so a block has no place in depth"
REFUSED: dict[str, str] = {
    "blt": "it has four stacks of blocks that work on different units (bytes and patches)",
    "dory": _LOOPED,
    "gemma3n": "its image tower needs timm, without which transformers cannot build it for the check",
    "gemma4_assistant": _OF_ANOTHER,
    "gemma4_unified_assistant": _OF_ANOTHER,
    "hrm_text": "it runs two stacks of blocks several times each, so a block has no place in depth",
    "inkling2_loop_text": _LOOPED,
    "inkling2_text": "parts of its blocks are stored under other names than the blocks themselves",
    "zamba2": "adapters of each hybrid block are stored, by count, inside blocks that others share",
}
"""Decoders that cannot be cut correctly yet, and why."""

ENCODER_DECODERS = [
    "bart",
    "bigbird_pegasus",
    "blenderbot",
    "blenderbot-small",
    "marian",
    "mbart",
    "musicgen",
    "musicgen_melody",
    "mvp",
    "pegasus",
    "plbart",
    "prophetnet",
    "trocr",
    "whisper",
]
"""Types of transformers' list of causal language models that read an encoder."""
ENCODERS = [
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "megatron-bert",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
]
"""Types of that list that are encoders, trained on masked language."""
