"""The `training` mapping of a fine-tuning run: TRL's SFTConfig, for samples that are tokenized."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from trl import SFTConfig

from bequest.errors import InputError
from bequest.training.sft_data import SETTINGS
from bequest.training.training_arguments import make_arguments, read_training

_OURS = {
    "output_dir": "set out or run_dir",
    "resume_from_checkpoint": "run the same command again, and it goes on by itself",
    "model_init_kwargs": "set dtype or revision",
    "save_only_model": "a run without its optimizer cannot be resumed; leave it out",
    "ignore_data_skip": "a run that sees samples twice is not resumed exactly; leave it out",
    "dataset_kwargs": "the samples are prepared as TRL prepares them; leave it out",
}
"""Settings that would contradict the rest of the configuration, and what to do instead."""
_PREPARED = ("assistant_only_loss", "completion_only_loss", "chat_template_path")
"""Settings that are done with once samples are tokenized and masked."""


def read_settings(training: Mapping[str, Any], *, evaluates: bool) -> dict[str, Any]:
    """Check the names of a mapping of SFTConfig's settings, and add our defaults.

    Args:
        training: the mapping, as the user gave it.
        evaluates: whether there is data to evaluate on.

    Raises:
        InputError: SFTConfig has no such field, the run sets it itself, or its value is of another
            kind.
    """
    defaults = {
        "report_to": "none",
        "save_total_limit": 2,
        "eval_strategy": "epoch" if evaluates else "no",
    }
    settings = read_training(SFTConfig, training, defaults=defaults, reserved=_OURS)
    if evaluates and settings["eval_strategy"] == "no":
        raise InputError(
            "training.eval_strategy is 'no', but there is data to evaluate on; set it to steps or "
            "epoch, or leave the data out"
        )
    if not evaluates and settings["eval_strategy"] != "no":
        raise InputError(
            f"training.eval_strategy is {settings['eval_strategy']!r}, but there is nothing to "
            "evaluate on; give data.eval or data.eval_fraction"
        )
    if settings.get("load_best_model_at_end") and settings["save_total_limit"] == 1:
        raise InputError(
            "training.save_total_limit is 1, with which the best checkpoint would push the last "
            "one out; give at least 2"
        )
    if settings.get("max_length") is not None and not settings["max_length"] >= 2:
        raise InputError(f"training.max_length is {settings['max_length']}; give at least 2")
    return settings


def make_sft_config(settings: Mapping[str, Any], run: Path) -> SFTConfig:
    """Make the SFTConfig of a run, whose samples are tokenized already; joins the processes.

    Args:
        settings: from `read_settings`.
        run: the run's folder, which is not made.

    Raises:
        InputError: SFTConfig refuses a value.
    """
    values = {name: value for name, value in settings.items() if name not in _PREPARED}
    return make_arguments(SFTConfig, values, run)


def scored_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the settings that decide what of a sample is trained on."""
    return {name: settings[name] for name in SETTINGS if settings.get(name) is not None}


def kept_length(args: SFTConfig) -> int | None:
    """Return how many tokens a sample keeps; None where packing cuts it up instead."""
    if args.packing and args.packing_strategy != "bfd":
        return None
    return cast("int | None", args.max_length)
