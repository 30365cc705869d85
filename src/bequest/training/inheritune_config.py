"""What `bequest inheritune` is asked to do, as one YAML file says it; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.errors import InputError

GROWTH = ("restart", "continue")
BASELINES = ("scratch", "scratch-2x", "stacking", "last-blocks", "every-other", "half-width")
_OWN = {
    "out": "set out of inheritune",
    "model": "set reference",
    "model_config": "the rounds have the reference's shape",
    "from_scratch": "the rounds inherit",
    "revision": "set revision of inheritune",
    "run_dir": "each round has its own beside its model",
    "cache_dir": "the rounds share one in out",
    "tokenizer": "the rounds have the reference's",
    "train_tokenizer": "the rounds have the reference's",
    "overwrite": "set overwrite of inheritune",
    "trust_remote_code": "set trust_remote_code of inheritune",
}
"""Fields of a round that are not the user's, and what to do instead."""


@dataclass(frozen=True, kw_only=True)
class InherituneConfig:
    """What `bequest inheritune` is asked to do."""

    reference: str
    """The big model: a folder, or a hub id."""
    out: str
    """Folder for the rounds; each keeps its model in round-NN/model."""
    pretrain: dict[str, Any]
    """Settings of every round, by their names in `bequest pretrain`: data, held_out, block_length,
    schedule, averages, weights (which candidate of a round counts), training and so on; the
    teacher of distillation is the reference if it names none."""
    start_depth: int | None = None
    """Blocks of the first round; half of the reference's if not given."""
    blocks_per_round: int = 2
    """Blocks that each further round adds."""
    steps_per_round: int | None = None
    """Optimizer steps of a round; if not given, what pretrain.training says."""
    growth: str = "restart"
    """What a further round starts from: restart inherits more of the reference's blocks anew,
    continue appends the reference's next blocks to what was trained."""
    tolerance: float = 0.0
    """Stop once the upper end of the interval of student - reference loss is at most this, in nats
    a token."""
    confidence: float = 0.95
    """Of that interval."""
    max_rounds: int | None = None
    """Stop after so many rounds."""
    max_tokens: int | None = None
    """Begin no round that would read more tokens than this in all rounds together."""
    baselines: tuple[str, ...] = ()
    """Rivals of the last round's student, trained and measured as it is and put into the same
    table: scratch and scratch-2x (its shape drawn anew, for one and two times the steps), stacking
    (half of its blocks from scratch, then twice on one another), last-blocks and every-other (of the
    reference's blocks), half-width (all blocks, the first half of heads and neurons)."""
    revision: str | None = None
    """Branch, tag or commit, if the reference is a hub id."""
    keep_checkpoints: bool = False
    """Keep the checkpoints of finished trainings, some times as large as their models."""
    overwrite: bool = False
    """Throw away a run of other settings that stands in out."""
    trust_remote_code: bool = False
    """Let Python files of the reference's folder run."""

    @property
    def folder(self) -> Path:
        """Where the rounds live."""
        return Path(self.out).expanduser()


def check_inheritune(config: InherituneConfig) -> None:
    """Refuse what is wrong whatever the reference and the data are.

    Raises:
        InputError: a field has a value that it cannot have, or contradicts another.
    """
    for name, instead in _OWN.items():
        if name in config.pretrain:
            raise InputError(f"pretrain.{name} is not a round's own; {instead}")
    if config.growth not in GROWTH:
        raise InputError(f"growth is {config.growth!r}; choose one of {', '.join(GROWTH)}")
    for name in config.baselines:
        if name not in BASELINES:
            raise InputError(f"baselines has {name!r}; choose among {', '.join(BASELINES)}")
        if config.baselines.count(name) > 1:
            raise InputError(f"baselines has {name} twice; name each once")
    for name in ("start_depth", "blocks_per_round", "steps_per_round", "max_rounds", "max_tokens"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1")
    if not 0 < config.confidence < 1:
        raise InputError(f"confidence is {config.confidence}; give a share between 0 and 1")
    training = config.pretrain.get("training") or {}
    if config.steps_per_round is not None and "max_steps" in training:
        raise InputError(
            "steps_per_round and pretrain.training.max_steps both count a round's steps; drop one"
        )
