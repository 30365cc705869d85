"""Find the teacher of a distillation and refuse one that speaks of other tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from bequest.checkpoints.model_identity import ContentHashes
from bequest.errors import InputError
from bequest.training.distillation_config import DistillationConfig
from bequest.training.starting_model import StartingModel, find_start, load_tokenizer

_SPREAD = ("fsdp", "deepspeed", "torch_compile")
"""Arguments of the trainer under which the model's hidden states cannot be watched."""


def find_teacher(
    config: DistillationConfig,
    *,
    start: StartingModel,
    tokenizer: PreTrainedTokenizerBase,
    block_length: int,
    settings: Mapping[str, Any],
    trust_remote_code: bool,
) -> StartingModel:
    """Find a teacher without reading its weights.

    Args:
        config: which one.
        start: the model that is trained.
        tokenizer: its tokenizer.
        block_length: tokens that the teacher reads at once.
        settings: the trainer's arguments by name.
        trust_remote_code: let Python files of the teacher's folder run.

    Raises:
        InputError: there is no such teacher, it has other tokens or too few positions, or an
            argument of the trainer rules a teacher out.
    """
    for name in _SPREAD:
        if settings.get(name):
            raise InputError(
                f"training.{name} and distillation exclude each other, because the teacher is "
                "compared with hidden states of the whole model; leave one out"
            )
    try:
        teacher = find_start(
            config.teacher,
            {},
            from_scratch=False,
            revision=config.revision,
            trust_remote_code=trust_remote_code,
        )
        own = load_tokenizer(None, teacher)
    except InputError as error:
        raise InputError(f"distillation.teacher cannot be used: {error}") from error
    if own.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"distillation.teacher {config.teacher} has another tokenizer than the model, so their "
            "distributions are over different tokens; name a teacher with the model's tokenizer"
        )
    sizes = [int(one.config.get_text_config().vocab_size) for one in (start, teacher)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"distillation.teacher {config.teacher} predicts {sizes[1]:,} tokens and the model "
            f"{sizes[0]:,}; name another teacher, or for a model from scratch set "
            f"model_config.vocab_size to {sizes[1]}"
        )
    room = getattr(teacher.config.get_text_config(), "max_position_embeddings", None)
    if room is not None and block_length > room:
        raise InputError(
            f"block_length is {block_length}, but distillation.teacher {config.teacher} has {room} "
            "positions; give less"
        )
    return teacher


def distillation_record(
    config: DistillationConfig, teacher: StartingModel, contents: ContentHashes
) -> dict[str, Any]:
    """Return what of a distillation decides a run's numbers: the teacher itself, not its place."""
    assert teacher.checkpoint is not None
    identity = contents.identity(teacher.checkpoint)[:16]
    return {"weight": config.weight, "temperature": config.temperature, "teacher": identity}
