"""How long a pre-training run is: tokens and steps, counted or estimated."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase, TrainingArguments

from bequest.averaging.recipes import Recipe
from bequest.errors import InputError
from bequest.training.average_recipes import TRAINED
from bequest.training.documents import Documents
from bequest.training.learning_rate import scheduler_arguments
from bequest.training.pretrain_config import PretrainConfig
from bequest.training.token_blocks import cached, fingerprint, tokenize
from bequest.training.tokenizer_training import train_tokenizer

_SAMPLED_DOCUMENTS = 64
_SAMPLED_CHARACTERS = 20_000
_SAMPLED_FOR_TOKENIZER = 2_000_000


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """How much there is to read, and how much is read."""

    training_tokens: int
    """Tokens of all training text."""
    held_out_tokens: int
    """Tokens that each evaluation predicts."""
    exact: bool
    """Whether the numbers of tokens are counted, not estimated from a sample."""
    block_length: int
    """Tokens of a block."""
    blocks_per_step: int
    """Of all processes; an epoch's last step has fewer where they do not come out even."""
    blocks_per_epoch: int
    """Blocks that an epoch reads: of several processes some twice, so that all read as many."""
    steps: int
    """Optimizer steps."""

    @property
    def tokens_per_step(self) -> int:
        """Of all processes, in all steps but an epoch's last."""
        return self.blocks_per_step * self.block_length

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that read the training text once."""
        return max(1, -(-self.blocks_per_epoch // self.blocks_per_step))

    def tokens_after(self, steps: int) -> int:
        """Return the tokens that are read in the first steps, repetitions included."""
        epochs, more = divmod(steps, self.steps_per_epoch)
        begun = min(more * self.blocks_per_step, self.blocks_per_epoch)
        return (epochs * self.blocks_per_epoch + begun) * self.block_length

    @property
    def tokens_trained(self) -> int:
        """Tokens that the run reads, repetitions included."""
        return self.tokens_after(self.steps)

    @property
    def epochs(self) -> float:
        """How often the training text is read, of which less than a block at its end never is."""
        whole = self.training_tokens // self.block_length * self.block_length
        return self.tokens_trained / max(1, whole)


def run_length(
    arguments: TrainingArguments,
    block_length: int,
    *,
    training_tokens: int,
    held_out_tokens: int,
    exact: bool,
) -> RunLength:
    """Count steps as the trainer will."""
    sequences = arguments.train_batch_size * arguments.world_size
    blocks = training_tokens // block_length
    batches = blocks // sequences if arguments.dataloader_drop_last else -(-blocks // sequences)
    # Several processes fill the last batch up from the beginning.
    is_filled = arguments.dataloader_drop_last or arguments.world_size > 1
    length = RunLength(
        training_tokens=training_tokens,
        held_out_tokens=held_out_tokens,
        exact=exact,
        block_length=block_length,
        blocks_per_step=sequences * arguments.gradient_accumulation_steps,
        blocks_per_epoch=batches * sequences if is_filled else blocks,
        steps=arguments.max_steps,
    )
    if length.steps > 0:
        return length
    steps = math.ceil(arguments.num_train_epochs * length.steps_per_epoch)
    return dataclasses.replace(length, steps=steps)


def check_length(
    config: PretrainConfig, recipes: Mapping[str, Recipe], length: RunLength
) -> dict[str, Any]:
    """Return the schedule's arguments for a run of this length.

    Raises:
        InputError: the schedule does not fit, or the weights to publish would never exist.
    """
    if length.steps < 1:
        raise InputError("training asks for no step; set max_steps or num_train_epochs")
    if length.exact and not length.blocks_per_epoch:
        raise InputError(
            f"training.dataloader_drop_last drops all of the text, which is "
            f"{length.training_tokens // length.block_length} blocks where a batch has more; leave "
            "it out"
        )
    if config.weights != TRAINED:
        recipe = recipes[config.weights]
        if not any(recipe.due(step) for step in range(1, length.steps + 1)):
            raise InputError(
                f"weights is {config.weights!r}, but in {length.steps} steps that average takes in "
                "nothing; lower its spacing or start"
            )
    return scheduler_arguments(
        config.schedule,
        steps=length.steps,
        warmup=config.warmup,
        decay=config.decay,
        floor=config.floor,
    )


def estimated_length(
    config: PretrainConfig,
    arguments: TrainingArguments,
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase | None,
) -> RunLength:
    """Count tokens where they are cached, else estimate them from a sample.

    Args:
        config: what is asked.
        arguments: the trainer's.
        documents: what is read.
        tokenizer: None if it is yet to be trained: then one of its size is, on a little text.

    Raises:
        InputError: the text does not give so many tokens as `train_tokenizer` asks for.
    """
    held_out_bytes = int(documents.held_out_bytes.sum())
    if tokenizer is not None:
        key = fingerprint(documents, tokenizer)
        if cached(config.cache_folder, key):
            about = json.loads((config.cache_folder / key / "about.json").read_text())
            return run_length(arguments, config.block_length, exact=True, **about)
    else:
        tokenizer = train_tokenizer(
            documents.training_texts(),
            int(config.train_tokenizer or 0),
            max_bytes=_SAMPLED_FOR_TOKENIZER,
            # The rest of the text may give the tokens that this part does not.
            may_be_smaller=documents.training_bytes > _SAMPLED_FOR_TOKENIZER,
        )
    count = len(documents.training)
    rows = np.unique(np.linspace(0, count - 1, _SAMPLED_DOCUMENTS).astype(int)).tolist()
    texts = [text[:_SAMPLED_CHARACTERS] for text in documents.training[rows][documents.text_field]]
    tokens = sum(map(len, tokenize(tokenizer, texts)))
    rate = tokens / max(1, sum(len(text.encode()) for text in texts))
    return run_length(
        arguments,
        config.block_length,
        training_tokens=round(rate * documents.training_bytes) + count,
        held_out_tokens=round(rate * held_out_bytes),
        exact=False,
    )
