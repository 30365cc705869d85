"""The `training` mapping of a run's configuration: read, checked and made into an SFTConfig."""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from trl import SFTConfig

from bequest.errors import InputError
from bequest.training.sft_data import SETTINGS

_OURS = {
    "output_dir": "set out or run_dir",
    "resume_from_checkpoint": "run the same command again, and it goes on by itself",
    "model_init_kwargs": "set dtype or revision",
    "save_only_model": "a run without its optimizer cannot be resumed; leave it out",
    "dataset_kwargs": "the samples are prepared as TRL prepares them; leave it out",
}
"""Settings that would contradict the rest of the configuration, and what to do instead."""
_LEAST = {
    "learning_rate": 0,
    "max_length": 2,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
}
"""What would otherwise be noticed when the first batch is made."""
_PREPARED = ("assistant_only_loss", "completion_only_loss", "chat_template_path")
"""Settings that are done with once samples are tokenized and masked."""


def read_settings(training: Mapping[str, Any], *, evaluates: bool) -> dict[str, Any]:
    """Check the names of a mapping of SFTConfig's settings, and add our defaults.

    Text is read as the number that the field holds: YAML takes `1e-5` for a text.

    Args:
        training: the mapping, as the user gave it.
        evaluates: whether there is data to evaluate on.

    Raises:
        InputError: SFTConfig has no such field, or the run sets it itself.
    """
    kinds = typing.get_type_hints(SFTConfig)
    known = {field.name for field in dataclasses.fields(SFTConfig) if field.init}
    for name in training:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "see TRL's SFTConfig"
            raise InputError(f"training has {name!r}, which is no field of SFTConfig; {hint}")
        if name in _OURS:
            raise InputError(f"training.{name} is not yours to set: {_OURS[name]}")
    on_cpu = not torch.cuda.is_available()
    defaults: dict[str, Any] = {
        "report_to": "none",
        "save_total_limit": 2,
        "eval_strategy": "epoch" if evaluates else "no",
    }
    if on_cpu:
        defaults |= {"use_cpu": True, "bf16": False}
    given = {name: _typed(f"training.{name}", value, kinds[name]) for name, value in training.items()}
    settings = defaults | given
    for name, least in _LEAST.items():
        if settings.get(name) is not None and not settings[name] >= least:
            raise InputError(f"training.{name} is {settings[name]}; give at least {least}")
    if settings.get("use_cpu"):
        settings = {"bf16": False, "dataloader_pin_memory": False} | settings
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            settings = {"ddp_backend": "gloo"} | settings
    if evaluates and settings["eval_strategy"] == "no":
        raise InputError(
            "training.eval_strategy is 'no', but there is data to evaluate on; set it to steps or "
            "epoch, or leave the data out"
        )
    return settings


def make_sft_config(settings: Mapping[str, Any], run: Path) -> SFTConfig:
    """Make the SFTConfig of a run, whose samples are tokenized already.

    Args:
        settings: from `read_settings`.
        run: the run's folder.

    Raises:
        InputError: SFTConfig refuses a value.
    """
    values = {name: value for name, value in settings.items() if name not in _PREPARED}
    try:
        with warnings.catch_warnings():
            # TRL sets a field that transformers has renamed.
            warnings.simplefilter("ignore", FutureWarning)
            return SFTConfig(str(run), **values)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # Enumerations, devices and TRL raise kinds of their own.
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(f"training is not what SFTConfig takes: {reason[:300]}") from error


def scored_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the settings that decide what of a sample is trained on."""
    return {name: settings[name] for name in SETTINGS if settings.get(name) is not None}


def kept_length(args: SFTConfig) -> int | None:
    """Return how many tokens a sample keeps; None where packing cuts it up instead."""
    if args.packing and args.packing_strategy != "bfd":
        return None
    return typing.cast("int | None", args.max_length)


def _typed(name: str, value: Any, kind: Any) -> Any:
    """Read a text as a number or a truth value where the field holds one and no text."""
    allowed = set(_members(kind))
    numeric = {int, float, bool}
    wanted = "true or false" if bool in allowed else "a number"
    if not isinstance(value, str) or str in allowed or not allowed & numeric:
        if allowed <= numeric | {types.NoneType} and not isinstance(value, tuple(allowed | {int})):
            raise InputError(f"{name} is {value!r}; give {wanted}")
        return value
    import yaml

    if value.strip().lower() in ("null", "none") and types.NoneType in allowed:
        return None
    for reader in (int, float):
        if reader in allowed:
            try:
                return reader(value)
            except ValueError:
                continue
    read = yaml.safe_load(value)
    if bool in allowed and isinstance(read, bool):
        return read
    raise InputError(f"{name} is {value!r}; give {wanted}")


def _members(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(member for part in typing.get_args(kind) for member in _members(part))
    return (typing.get_origin(kind) or kind,)
