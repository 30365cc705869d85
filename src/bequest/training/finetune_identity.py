"""What a fine-tuned model depends on, so that no run is taken up as another one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.checkpoints.checkpoint import open_checkpoint
from bequest.checkpoints.lineage import file_hash
from bequest.checkpoints.model_identity import ContentHashes
from bequest.training.finetune_config import FinetuneConfig
from bequest.training.response_losses import row_hashes
from bequest.training.score_plan import ScorePlan

if TYPE_CHECKING:
    from trl import SFTConfig

    from bequest.training.sft_data import TokenizedSamples


def run_identity(
    config: FinetuneConfig,
    args: SFTConfig,
    scoring: ScorePlan,
    read: list[Any],
    contents: ContentHashes,
) -> dict[str, Any]:
    """Describe all that the finished weights depend on, for the day the run is taken up again.

    Args:
        config: what is asked.
        args: the trainer's settings.
        scoring: the model and the training samples.
        read: what else was read, in any form that prints whole.
        contents: what is known of the model's files.

    Raises:
        InputError: a file of the model changes while it is read.
        OSError: a file cannot be read.
    """
    asked = dataclasses.asdict(config)
    for name in ("out", "run_dir", "overwrite", "hash", "merge", "weights"):
        del asked[name]
    read = [*read, sample_hashes(scoring.tokenized)]
    scores = config.method.scores
    if scores is not None:
        read = [*read, file_hash(Path(scores).expanduser())]
    digest = hashlib.sha256(repr(read).encode())
    source = open_checkpoint(scoring.location.folder, field="model")
    identity = {
        **asked,
        "contents of the data": digest.hexdigest()[:16],
        "contents of model": contents.identity(source)[:16],
        "processes": int(args.world_size),
        "device": args.device.type,
    }
    # As it comes back from its file.
    made: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return made


def sample_hashes(tokenized: TokenizedSamples | None) -> list[str]:
    """Return a hash of each sample's tokens and labels; of no samples none."""
    if tokenized is None:
        return []
    hashes: list[str] = row_hashes(tokenized.input_ids, tokenized.labels).tolist()
    return hashes
