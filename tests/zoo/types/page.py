"""docs/architectures.md, made from the facts: `PYTHONPATH=src:tests python -m zoo.types.page`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bequest.inheritance import depth_limits as limits
from bequest.inheritance import depth_periods as periods
from bequest.inheritance import depth_rules as rules
from bequest.inheritance.architectures import (
    ARCHITECTURES,
    MULTIMODAL,
    NESTED,
)
from bequest.inheritance.quantized import BESIDE
from bequest.inheritance.refused_types import ENCODER_DECODERS, ENCODERS, REFUSED
from zoo.types import peer

PAGE = Path(__file__).resolve().parents[3] / "docs" / "architectures.md"

_SENTENCES: dict[type[Any], str] = {
    limits.AlwaysFirst: "**first blocks only**: a block's number decides {what}",
    rules.BlockNumbers: "the block numbers in `{field}`",
    periods.ExpertRange: "`{interval}`, `{start}` and `{end}`, where some interval fits",
    limits.Follower: "`{field}`; a {follower!r} block must keep the {leader!r} block it reads",
    limits.HomeOfShared: "**the first {kind} block must stay**: it stores what they all share",
    limits.LastKind: "**the last block must be {kind!r}** in `{field}`",
    rules.LeadingBlocks: "the count `{field}`",
    limits.NotOfKind: "**no {kind!r} blocks**: the depth decides {what} where it is made anew",
    limits.NumberInMath: "**first blocks only** where `{field}` is set",
    rules.NumbersInside: "the block numbers in `{field}`",
    rules.OfInitialization: "`{field}`, which only new weights read",
    limits.OnlyInLast: "**the last block must stay last**: only it has {what}",
    periods.Period: "`{field}` goes where the blocks no longer follow it",
    periods.PeriodOfOthers: "`{field}`, where some period fits",
    periods.PeriodAndOffset: "`{period}` and `{offset}`, where some period fits",
    limits.PaddedForAll: "**a local block must stay with LSH blocks** unless its chunks divide theirs",
    rules.PerLayerList: "the list `{field}`",
    limits.PlaceInList: "**no block of `{field}` without those before it**: {what} counts them",
    periods.RepeatedKinds: "the repeated list `{field}`",
    rules.RootOfDepth: "`{field}`, which is divided by the root of the depth",
    rules.RunsOfKinds: "the runs in `{field}`",
    rules.SameAsDepth: "`{field}`, the depth again",
    limits.SharedTail: "`{field}`; a block that reads another's keys must keep that one",
    periods.SparseStep: "`{dense}` and `{step}`",
    rules.Superseded: "`{field}` gives way to the list it stands for",
}

_OPENING = """# Which architectures are cut

Made from the facts in `src/bequest/inheritance/architectures.py` by `zoo.types.page`; a test holds it
equal to them. Another test cuts a tiny model of each inherited type, to its first half and to blocks
that do not follow one another, and holds both to the whole model with the other blocks skipped:
logits, greedy generation with a cache, and every tensor's bytes. `bequest grow` then makes the whole
again from the half, byte for byte.

In every type the depth, `layer_types`, `mlp_layer_types` and `per_layer_config` follow the blocks.
Multi-token-prediction blocks, numbered on behind the decoder's or under `mtp`, are left out and their
count is set to 0: they predict from the last block's output, which a cut changes. The table says what
else follows. Bold is a limit: another selection is refused with a sentence. So is, in a type that
mixes attention with other blocks, a selection without any attention.
"""


def page() -> str:
    """Return the page's text."""
    decoders = sorted({*ARCHITECTURES, *NESTED} & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    refused = sorted(REFUSED)
    others = [*ENCODER_DECODERS, *ENCODERS]
    total = len(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    lines = [
        _OPENING,
        f"Of the {total} types in transformers' list of causal language models, {len(decoders)} "
        f"are cut, {len(refused)} decoders are refused, and {len(others)} are no decoders.\n",
        "## Inherited\n",
        f"| model_type | what else follows the blocks | mergekit {peer.record()['mergekit']} |\n"
        "|---|---|---|",
        *(f"| {name} | {_facts(name)} | {peer.verdict(name)} |" for name in decoders),
        "\n## Image models outside that list\n",
        "The decoder's blocks are cut and the rest is kept byte for byte; a tiny model of each is held "
        "to the whole one, most of them with an image.\n",
        f"| model_type | mergekit {peer.record()['mergekit']} |\n|---|---|",
        *(f"| {name} | {peer.verdict(name)} |" for name in MULTIMODAL),
        "",
        *peer.section(),
        "## Quantized checkpoints\n",
        "Copied block by block with their scales, the names of blocks in `quantization_config` "
        f"following: {', '.join(BESIDE)}. The result is judged as the unquantized model that it "
        "stands for. Only a cut in fp8 was also loaded and run, dequantized; of the others names and "
        "shapes are tested. Other methods are refused.\n",
        "## Refused, and why\n",
        "| model_type | reason |\n|---|---|",
        *(f"| {model_type} | {REFUSED[model_type]} |" for model_type in refused),
        "\n## No decoders\n",
        f"They read an encoder: {', '.join(ENCODER_DECODERS)}.\n",
        f"They are encoders, trained on masked language: {', '.join(ENCODERS)}.",
    ]
    return "\n".join(lines) + "\n"


def _facts(model_type: str) -> str:
    if model_type in NESTED:
        field = NESTED[model_type]
        config_class = CONFIG_MAPPING[model_type]
        inner = getattr(config_class(), field).model_type
        own = f" (such as {inner})" if inner else ""
        return f"the decoder in `{field}`{own} is cut, the other towers are kept byte for byte"
    facts = ARCHITECTURES[model_type]
    said = [_SENTENCES[type(rule)].format(**vars(rule)) for rule in facts.rules]
    if facts.depth is not None:
        said.append(f"`{facts.depth}` counts the blocks")
    said += [f"every block's slice of `{packed.ending}`" for packed in facts.packed]
    return "; ".join(said) or "nothing"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
