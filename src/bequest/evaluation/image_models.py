"""Classifiers of images: judged before their weights are read, loaded, and given their old head."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging

from bequest.checkpoints.checkpoint import open_checkpoint
from bequest.checkpoints.header import read_header
from bequest.checkpoints.model_identity import ORIGINAL, PROCESSOR, ContentHashes
from bequest.errors import InputError, explained
from bequest.evaluation.image_classes import ClassMap, Groups, match_classes
from bequest.evaluation.models import Candidate, ImageForm
from bequest.evaluation.wholeness import is_whole


def find_image_model(
    label: str,
    source: str,
    *,
    dtype: str,
    trust_remote_code: bool,
    original_head: bool,
    contents: ContentHashes,
) -> Candidate:
    """Find a classifier of images by its configuration, header and processor alone.

    Args:
        label: what tables call it.
        source: folder or hub id.
        dtype: in which it runs; auto is that of its files.
        trust_remote_code: let Python files of its folder run.
        original_head: it will run with what its file `ORIGINAL` holds, where it has one.
        contents: what is known of its files already.

    Raises:
        InputError: it is no such model, or no whole one, or has no processor.
    """
    checkpoint = open_checkpoint(source, field="model")
    folder = checkpoint.folder
    trust = {"trust_remote_code": trust_remote_code}
    with explained(f"model {source} is no image classifier"):
        config = AutoConfig.from_pretrained(folder, **trust)
        asked = None if dtype == "auto" else getattr(torch, dtype)
        kind = asked or getattr(config, "dtype", None) or torch.float32
        with torch.device("meta"):
            skeleton = AutoModelForImageClassification.from_config(config, dtype=kind, **trust)
        judged = is_whole(checkpoint, config, "AutoModelForImageClassification", **trust)
    if not (folder / PROCESSOR).is_file():
        raise InputError(
            f"model {source} has no {PROCESSOR}, which says how images become its pixels; save its "
            "image processor there"
        )
    names: tuple[str, ...] = tuple(
        str(config.id2label.get(number, number)) for number in range(config.num_labels)
    )
    restores = original_head and (folder / ORIGINAL).is_file()
    if restores:
        # The names in config.json are those of the classes it was fine-tuned for.
        names = tuple(str(number) for number in range(_original_classes(skeleton, folder)))
    return Candidate(
        label=label,
        name=checkpoint.location.name,
        folder=folder,
        identity=contents.identity(checkpoint),
        num_parameters=skeleton.num_parameters(),
        dtype=str(kind).removeprefix("torch."),
        judged=judged,
        images=ImageForm(
            classes=names,
            restores=restores,
            flops=_flops(skeleton, load_processor(folder), source),
        ),
    )


def _flops(skeleton: nn.Module, processor: Any, source: str) -> float:
    """Floating-point operations for one image, counted on a model without data."""
    from PIL import Image
    from torch.utils.flop_counter import FlopCounterMode

    with explained(f"model {source} has a processor that does not work"):
        shape = processor(images=[Image.new("RGB", (64, 64))], return_tensors="pt")[
            "pixel_values"
        ].shape
    counted = FlopCounterMode(display=False)
    # Only an estimate of time: what cannot run without data counts as each weight used once.
    with contextlib.suppress(Exception), torch.no_grad(), counted:
        dtype = next(skeleton.parameters()).dtype
        skeleton(pixel_values=torch.empty(shape, device="meta", dtype=dtype))
    return float(counted.get_total_flops() or 2 * sum(p.numel() for p in skeleton.parameters()))


def load_processor(folder: Path) -> Any:
    """Load what turns images into a model's pixels; its PIL form needs no torchvision.

    Raises:
        InputError: it does not load.
    """
    with explained(f"the image processor of {folder} cannot be loaded"):
        return AutoImageProcessor.from_pretrained(folder, backend="pil")


def load_network(folder: Path, name: str, *, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """Load a classifier of images, all of whose weights must be there.

    Args:
        folder: with its files.
        name: what messages call it.
        dtype: of its weights.
        trust_remote_code: let Python files of the folder run.

    Raises:
        InputError: it does not load, or weights are missing.
    """
    logging.disable_progress_bar()
    with explained(f"model {name} cannot be loaded"):
        network, told = AutoModelForImageClassification.from_pretrained(
            folder, output_loading_info=True, dtype=dtype, trust_remote_code=trust_remote_code
        )
    missing = sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]]))
    if missing:
        raise InputError(
            f"model {name} lacks {missing[0]} and would have random weights there; name the folder "
            "of a whole image classifier"
        )
    return network


def restore_original(network: nn.Module, folder: Path) -> None:
    """Put the head, and BatchNorm's weights and statistics, of before fine-tuning back in place.

    Args:
        network: the fine-tuned model.
        folder: its folder, with the file `ORIGINAL`.

    Raises:
        InputError: the file is of another model.

    Source: FLOW's released code for images, where pre-training accuracy is measured so.
    """
    from safetensors.torch import load_file

    kept = load_file(folder / ORIGINAL)
    _original_classes(network, folder)
    heads = {key.rpartition(".")[0] for key in kept if _is_linear(network, key)}
    for name in heads:
        parent, _, own = name.rpartition(".")
        weight = kept[f"{name}.weight"]
        old = network.get_submodule(name)
        assert isinstance(old, nn.Linear)
        head = nn.Linear(weight.shape[1], weight.shape[0], bias=f"{name}.bias" in kept)
        head.to(old.weight.device, old.weight.dtype)
        setattr(network.get_submodule(parent), own, head)
    state = network.state_dict()
    for key, value in kept.items():
        if key not in state or state[key].shape != value.shape:
            raise InputError(f"{folder / ORIGINAL} holds {key}, which the model beside it has not")
        state[key].copy_(value)


def _is_linear(network: nn.Module, key: str) -> bool:
    try:
        return isinstance(network.get_submodule(key.rpartition(".")[0]), nn.Linear)
    except AttributeError:
        return False


def _original_classes(network: nn.Module, folder: Path) -> int:
    """Return how many classes the original head has, from the file's header."""
    entries, _ = read_header(folder / ORIGINAL)
    heads = [
        entry.shape[0]
        for entry in entries
        if entry.name.endswith(".weight") and _is_linear(network, entry.name)
    ]
    if len(heads) != 1:
        raise InputError(f"{folder / ORIGINAL} holds {len(heads)} heads of the model; expected one")
    return int(heads[0])


def class_map(
    candidate: Candidate, names: Sequence[str], groups: Groups | None, field: str
) -> ClassMap:
    """Return for each class of some data the classes of a model that stand for it.

    Args:
        candidate: the model.
        names: of the data's classes.
        groups: the model's classes for each of them, by number or name.
        field: what the caller calls the data, for messages.

    Raises:
        InputError: the model has no such classes, or nothing says which they are.
    """
    assert candidate.images is not None
    hint = ""
    if not candidate.images.restores and (candidate.folder / ORIGINAL).is_file():
        hint = ", or --original-head for the head it had before fine-tuning"
    return match_classes(
        candidate.images.classes,
        names,
        groups,
        field=field,
        option="image_classes",
        model=f"model {candidate.label}",
        hint=hint,
    )
