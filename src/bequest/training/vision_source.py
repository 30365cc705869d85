"""The classifier that is to be fine-tuned: found, loaded, and refused if its head is not its end."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bequest.checkpoints.locate import Location, locate
from bequest.checkpoints.model_identity import PROCESSOR
from bequest.errors import InputError, explained
from bequest.evaluation.image_models import load_network, load_processor
from bequest.training.vision_config import ImageConfig
from bequest.training.vision_data import PixelValues
from bequest.training.vision_model import ImageClassifier

_SIDE = 64
"""Pixels a side of the pictures that a head is tried on, before the processor."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSource:
    """A pre-trained classifier and where it came from."""

    classifier: ImageClassifier
    """With its original head, in evaluation."""
    processor: Callable[..., Mapping[str, Any]]
    """From images to its pixels: one of transformers', or `PixelValues`."""
    location: Location | None
    """Of its folder; None for a module that a function made."""
    code: Path | None
    """The Python file of that function, if it is known."""

    @property
    def classes(self) -> list[str]:
        """What its classes are called by number; numbers where it has no names."""
        count = self.classifier.head.out_features
        names = getattr(getattr(self.classifier.network, "config", None), "id2label", None) or {}
        return [str(names.get(number, number)) for number in range(count)]


def load_source(config: ImageConfig, network: nn.Module | None = None) -> ImageSource:
    """Load the model that is to be fine-tuned, and what turns images into its pixels.

    Args:
        config: names the model.
        network: a module to take instead, from pixels to logits.

    Raises:
        InputError: there is no such model, weights are missing, it has no processor, or its logits
            are not what one linear layer makes of one vector an image.
    """
    location, processor, code = None, None, None
    if network is None and _is_function(config.model):
        network, code = _call(config.model)
    elif network is None:
        location = locate(config.model, revision=config.revision, field="model")
        network, processor = _load(config, location)
    if processor is None:
        if config.size is None:
            raise InputError(
                f"model {config.model} brings no image processor; set size, and mean and std if "
                "they are not ImageNet's"
            )
        processor = PixelValues(config.size, config.mean, config.std)
    classifier = ImageClassifier(network.float(), config.head or last_linear(network)).eval()
    _check_head(classifier, processor, config.model)
    return ImageSource(classifier=classifier, processor=processor, location=location, code=code)


def last_linear(network: nn.Module) -> str:
    """Return the name of the last linear layer of a network, its head as a rule.

    Raises:
        InputError: it has none.
    """
    names: list[str] = [
        name for name, part in network.named_modules() if isinstance(part, nn.Linear)
    ]
    if not names or not names[-1]:
        raise InputError("the model has no linear layer below it that could be its head")
    return names[-1]


def _is_function(model: str) -> bool:
    """Say whether a name is MODULE:FUNCTION; a folder may have a colon in its path."""
    return ":" in model and not Path(model).expanduser().exists()


def _call(name: str) -> tuple[nn.Module, Path | None]:
    module, _, function = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        # A console script does not look where it is called. Last, so that nothing is hidden by it.
        sys.path.append(str(Path.cwd()))
    with explained(f"model {name} cannot be made"):
        imported = importlib.import_module(module)
        network = getattr(imported, function)()
    if not isinstance(network, nn.Module):
        raise InputError(
            f"model {name} returned a {type(network).__name__}; return a torch.nn.Module"
        )
    return network, None if imported.__file__ is None else Path(imported.__file__)


def _load(config: ImageConfig, location: Location) -> tuple[nn.Module, Any]:
    network = load_network(
        location.folder,
        location.name,
        dtype=torch.float32,
        trust_remote_code=config.trust_remote_code,
    )
    if not (location.folder / PROCESSOR).is_file():
        return network, None
    processor = load_processor(location.folder)
    if config.size is not None:
        raise InputError(
            f"size is {config.size}, but model {location.name} brings its own processor; leave it out"
        )
    return network, processor


@torch.no_grad()
def _check_head(classifier: ImageClassifier, processor: Any, model: str) -> None:
    """Refuse a model whose logits are made by more than the head: replacing that would not do."""
    from PIL.Image import fromarray

    noise = np.random.default_rng(0).integers(256, size=(2, _SIDE, _SIDE, 3), dtype=np.uint8)
    with explained(f"model {model} cannot read a picture"):
        pictures = [fromarray(picture) for picture in noise]
        pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
        made: list[Any] = []
        hook = classifier.head.register_forward_hook(lambda _head, _given, out: made.append(out))
        try:
            classifier.features(pixels)
            logits = classifier(pixels)["logits"]
        finally:
            hook.remove()
    same = made[-1].shape == logits.shape and made[-1].allclose(logits, 0, 0, equal_nan=True)
    if not same:
        raise InputError(
            f"head {classifier.head_name!r} does not make the logits of model {model} by itself "
            "(another head or layer has a part in them); name another layer, or take a model with "
            "one linear head"
        )
