"""The `training` mapping of a run's configuration: checked, and made into a trainer's arguments."""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments

from bequest.errors import InputError

Arguments = TypeVar("Arguments", bound=TrainingArguments)

_LEAST = {
    "learning_rate": 0,
    "num_train_epochs": 0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
}
"""What would otherwise be noticed when the first batch is made, or never."""
_STRATEGIES = ("eval_strategy", "save_strategy", "logging_strategy")
_PUBLISHED = "the run's folder, caches and raw checkpoints included, would go there; upload out"
_IN_PLACE = "evaluations would cast the weights for good, and those be published; set bf16 or fp16"
_REFUSED = {
    "push_to_hub": f"{_PUBLISHED} when it is finished (hf upload NAME OUT)",
    "hub_token": "it would stand in the lineage; log in (hf auth login) and leave it out",
    "bf16_full_eval": _IN_PLACE,
    "fp16_full_eval": _IN_PLACE,
}
"""Settings that would quietly spoil every run of ours, and what to do instead."""
_RESUMED = {
    "split_batches": (False, "batches would be smaller than per_device_train_batch_size says"),
    "dispatch_batches": (None, "a resumed run would read other batches"),
    "use_seedable_sampler": (True, "a resumed run would read other batches"),
}
"""Settings of accelerator_config that would do so: what they must be (None: not true), and why."""
_FALLING = ("bits_per_byte", "bits_per_byte_error", "loss_error")
"""Ends of the names of our metrics that are better the lower they are; transformers knows "loss"."""


def read_training(
    arguments_class: type[TrainingArguments],
    training: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any],
    reserved: Mapping[str, str],
) -> dict[str, Any]:
    """Check the names and kinds of a mapping of a trainer's arguments, and add our defaults.

    Text is read as the number or truth value that the field holds: YAML takes `1e-5` for a text,
    and a bare `no` for false. Of bits per byte the lowest is best.

    Args:
        arguments_class: TrainingArguments, or a class made from it, such as SFTConfig.
        training: the mapping, as the user gave it.
        defaults: values for what it does not name.
        reserved: fields that the run sets itself, and what to do instead.

    Raises:
        InputError: there is no such field, the run sets it itself, its value is of another kind, or
            would spoil the run.
    """
    name_of_class = arguments_class.__name__
    kinds = typing.get_type_hints(arguments_class)
    known = {field.name for field in dataclasses.fields(arguments_class) if field.init}
    for name in training:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"see {name_of_class}'s documentation"
            raise InputError(f"training has {name!r}, which is no field of {name_of_class}; {hint}")
        if name in reserved:
            raise InputError(f"training.{name} is not yours to set: {reserved[name]}")
    given = {
        name: "no"
        if name in _STRATEGIES and value is False
        else _typed(f"training.{name}", value, kinds[name])
        for name, value in training.items()
    }
    for name, reason in _REFUSED.items():
        if given.get(name):
            shown = "set" if name == "hub_token" else given[name]
            raise InputError(f"training.{name} is {shown}: {reason}")
    settings = {**_for_this_machine(given), **defaults, **given}
    for name, least in _LEAST.items():
        if settings.get(name) is not None and not settings[name] >= least:
            raise InputError(f"training.{name} is {settings[name]}; give at least {least}")
    falls = str(settings.get("metric_for_best_model") or "").endswith(_FALLING)
    if falls and settings.get("greater_is_better") is None:
        settings["greater_is_better"] = False
    return settings


def make_arguments(
    arguments_class: type[Arguments], settings: Mapping[str, Any], run: Path
) -> Arguments:
    """Make a trainer's arguments; in a distributed run this joins the processes.

    Args:
        arguments_class: TrainingArguments, or a class made from it.
        settings: from `read_training`.
        run: the run's folder, which is not made.

    Raises:
        InputError: the class refuses a value, the run could not be resumed with one, or a tracker
            is not installed.
    """
    try:
        with warnings.catch_warnings():
            # Libraries set fields that transformers has renamed.
            warnings.simplefilter("ignore", FutureWarning)
            made: Arguments = arguments_class(output_dir=str(run), **settings)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # Enumerations, devices and accelerate raise kinds of their own.
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        name = arguments_class.__name__
        raise InputError(f"training is not what {name} takes: {reason[:300]}") from error
    _check_batches(made)
    _check_trackers(made)
    return made


def _check_batches(made: TrainingArguments) -> None:
    for name, (wanted, reason) in _RESUMED.items():
        value = getattr(made.accelerator_config, name, wanted)
        if bool(value) != bool(wanted):
            raise InputError(
                f"training.accelerator_config.{name} is {value}: {reason}; leave it out"
            )


def _check_trackers(made: TrainingArguments) -> None:
    """Refuse now what the trainer would refuse once the data is prepared."""
    asked = [name for name in made.report_to if name != "none"]
    if not asked:
        return
    from transformers.integrations import (
        get_available_reporting_integrations,
        get_reporting_integration_callbacks,
    )

    try:
        get_reporting_integration_callbacks(asked)
    except ValueError as error:
        raise InputError(f"training.report_to is {', '.join(asked)}: {error}") from error
    available = get_available_reporting_integrations()
    for name in asked:
        # Whether flyte is there, transformers does not list.
        if name not in available and name != "flyte":
            raise InputError(
                f"training.report_to is {name!r}, whose package is not installed; install it, or "
                "leave report_to out"
            )


def _for_this_machine(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without which the trainer would not run, or would warn, on a machine without a GPU."""
    if torch.cuda.is_available() and not given.get("use_cpu"):
        return {}
    settings: dict[str, Any] = {"use_cpu": True, "bf16": False, "dataloader_pin_memory": False}
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        settings["ddp_backend"] = "gloo"
    return settings


def _typed(name: str, value: Any, kind: Any) -> Any:
    """Read a text as a number or a truth value where the field holds one and no text."""
    allowed = set(_members(kind))
    numeric = {int, float, bool}
    wanted = "true or false" if bool in allowed else "a number"
    if not isinstance(value, str) or str in allowed or not allowed & numeric:
        held = allowed | ({int} if float in allowed else set())
        if allowed <= numeric | {types.NoneType} and not isinstance(value, tuple(held)):
            raise InputError(f"{name} is {value!r}; give {wanted}")
        if (
            isinstance(value, bool)
            and bool not in allowed
            and allowed <= numeric | {types.NoneType}
        ):
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
