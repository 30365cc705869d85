"""Which weight each row of a prepared data set has, and what stands in the way of saying so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bequest.errors import InputError
from bequest.training.method import UNSCORED, check_weighting
from bequest.training.token_weights import Weights
from bequest.weighting.given import checked_weights
from bequest.weighting.schemes import TOKEN_SCHEMES, weigh
from bequest.weighting.score_file import ScoreTable, read_scores


@dataclass(frozen=True, kw_only=True)
class Weighing:
    """What FlowTrainer was told about weights, checked."""

    scores: ScoreTable | NDArray[np.float32] | None
    """Losses to make weights of, the weights themselves for each row, or None."""
    scheme: str | None
    """`flow`, `flow-token`, `stm`, `uniform`, `dft`; None: `flow`, or the score file's own."""
    temperature: float | str | None
    """Of the schemes that have one; None: the median, or the score file's own."""
    normalizer: str
    """What the sum of weighted losses is divided by: `tokens` or `weights`."""

    @classmethod
    def of(cls, scores: Any, scheme: str | None, temperature: Any, normalizer: str) -> Weighing:
        """Read and check the trainer's arguments."""
        check_weighting(scheme, temperature, normalizer, has_scores=scores is not None)
        if isinstance(scores, str | Path):
            scores = read_scores(scores)
        elif scores is not None and not isinstance(scores, ScoreTable):
            scores = checked_weights("scores", scores)
        if isinstance(scores, np.ndarray) and (scheme, temperature) != (None, None):
            raise InputError("scores holds weights, which scheme and temperature cannot change")
        if (
            isinstance(scores, ScoreTable)
            and scores.token_losses is None
            and (scheme or scores.metadata.get("scheme")) in TOKEN_SCHEMES
        ):
            raise InputError(
                "scores has no losses of tokens, which the scheme needs; run `bequest score` with "
                "--tokens"
            )
        return cls(scores=scores, scheme=scheme, temperature=temperature, normalizer=normalizer)

    @property
    def is_static(self) -> bool:
        """Whether weights are known before training and travel with the tokens."""
        return self.scheme not in UNSCORED

    @property
    def needs_scores(self) -> bool:
        """Whether losses are still to be computed."""
        return self.is_static and self.scores is None


def weights_by_hash(
    table: ScoreTable, weighing: Weighing, hashes: NDArray[np.str_], rows: NDArray[np.int64]
) -> Weights:
    """Join scores to prepared samples.

    Args:
        table: The scores, of these samples and perhaps others; a temperature of `median` is the
            median of them all.
        weighing: The scheme and the temperature.
        hashes: The name of each prepared sample.
        rows: The row of each in the data set as the user gave it, for messages.

    Raises:
        InputError: A sample has no score.
    """
    weights = table_weights(table, weighing)
    place = {name: position for position, name in enumerate(table.row_hash.tolist())}
    missing = [row for name, row in zip(hashes.tolist(), rows, strict=True) if name not in place]
    if missing:
        raise InputError(
            f"train_dataset[{missing[0]}] and {len(missing) - 1} other rows have no score: they "
            "are not tokenized, truncated or masked as when they were scored; score the same data "
            "with the same tokenizer, max_length and masks"
        )
    return [weights[place[name]] for name in hashes.tolist()]


def table_weights(table: ScoreTable, weighing: Weighing) -> Weights:
    """Return the weight of each scored sample: the file's own, unless the trainer was told how."""
    own = table.metadata.get("scheme")
    scheme: Any = weighing.scheme or own or "flow"
    temperature = weighing.temperature
    if (weighing.scheme, temperature) == (None, None) and own and own not in TOKEN_SCHEMES:
        return list(checked_weights("the weight column of scores", table.weight))
    if temperature is None and scheme == own:
        temperature = table.metadata.get("temperature")
    found = weigh(scheme, table.loss, table.token_losses, temperature)
    return list(found.samples) if found.tokens is None else found.tokens
