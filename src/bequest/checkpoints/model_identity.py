"""What a model is, as one hash: the same wherever its folder lies, another when its answers may be.

Results carry it, so that they are found again, and put into the card of no other model.
"""

from __future__ import annotations

import hashlib

from bequest.checkpoints.checkpoint import Checkpoint
from bequest.checkpoints.lineage import file_hash, identity_hash, structure_hash

ORIGINAL = "pretrained.safetensors"
"""What `bequest finetune` leaves of an image classifier as it was before: its head, and BatchNorm's
weights and statistics."""
PROCESSOR = "preprocessor_config.json"
_READ_WITH_THE_WEIGHTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    PROCESSOR,
    ORIGINAL,
)
"""Files that change what a model says, beside its weights."""


def model_identity(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 of names, shapes and samples of a model's weights, and of its small files.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256(structure_hash(checkpoint.tensors.values()).encode())
    digest.update(identity_hash(checkpoint.tensors).encode())
    folder = checkpoint.folder
    for file in sorted([*(folder / name for name in _READ_WITH_THE_WEIGHTS), *folder.glob("*.py")]):
        if file.is_file():
            digest.update(f"{file.name} {file_hash(file)}".encode())
    return digest.hexdigest()
