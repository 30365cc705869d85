"""Let transformers judge a plan: would `from_pretrained` load exactly these weights, and all?

The planned files are written as sparse ones (headers, no data) and loaded on the meta device, so
that transformers' own renames and conversions of keys decide. Checkpoint keys are not module keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.checkpoints.companions import copy_companions
from bequest.checkpoints.locate import Location
from bequest.checkpoints.shards import Shard, TensorSpec
from bequest.checkpoints.sparse import write_sparse
from bequest.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHOWN = 3


def require_trust(
    location: Location, config: Mapping[str, Any], *, trust_remote_code: bool
) -> None:
    """Refuse a model that brings code of its own, unless the user trusts it.

    Args:
        location: where the model is.
        config: its parsed `config.json`.
        trust_remote_code: whether the user does.

    Raises:
        UnsupportedModelError: the configuration has an `auto_map` and it is not trusted.
    """
    if config.get("auto_map") and not trust_remote_code:
        raise UnsupportedModelError(
            f"{location.name} brings code of its own (auto_map in config.json); read it and pass "
            "--trust-remote-code, or remove auto_map if transformers' own code is meant."
        )


def verify_loadable(
    shards: tuple[Shard[TensorSpec], ...],
    config: Mapping[str, Any],
    folder: Path,
    *,
    model: str,
    model_class: str = "AutoModelForCausalLM",
    code: tuple[Path, list[Path]] | None = None,
) -> PreTrainedModel:
    """Load planned weights on the meta device and raise unless every one finds its place.

    Args:
        shards: the planned files.
        config: the planned `config.json`.
        folder: an empty folder for the sparse files; the caller removes it.
        model: what the plan makes, for messages.
        model_class: the class of transformers whose `from_pretrained` judges.
        code: a folder and its Python files, for a model with remote code that the user trusts.

    Returns:
        The model, all its tensors on the meta device.

    Raises:
        CheckpointError: a tensor would be missing, unexpected, of another shape, or drawn anew.
    """
    write_sparse(shards, config, folder)
    if code is not None:
        copy_companions(code[0], folder, code[1])
    return load_on_meta(
        folder, model=model, model_class=model_class, trust_remote_code=code is not None
    )


def load_on_meta(
    folder: Path,
    *,
    model: str,
    model_class: str = "AutoModelForCausalLM",
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a folder on the meta device and raise unless every weight finds its place.

    Only headers are read of safetensors files, so that this judges a model of any size at once.

    Args:
        folder: with `config.json` and weights.
        model: what messages call it.
        model_class: the class of transformers whose `from_pretrained` judges.
        trust_remote_code: let Python files of the folder run.

    Returns:
        The model, all its tensors on the meta device.

    Raises:
        CheckpointError: a tensor is missing, unexpected, of another shape, or would be drawn anew.
    """
    import transformers

    with _quiet():
        try:
            loaded, info = getattr(transformers, model_class).from_pretrained(
                folder,
                device_map="meta",
                dtype="auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
            )
        except Exception as error:  # Whatever it is, the folder would not load.
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{model} would not load in transformers: {reason}") from error
    faults = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "of another shape": sorted(str(key) for key in info["mismatched_keys"]),
        "unreadable": sorted(str(key) for key in info.get("error_msgs") or ()),
    }
    found = [f"{kind}: {_shortened(keys)}" for kind, keys in faults.items() if keys]
    if found:
        raise CheckpointError(f"{model} would not load whole in transformers; {'; '.join(found)}.")
    result: PreTrainedModel = loaded
    return result


def _shortened(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bar and load report off the terminal: the faults are raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
