"""A classifier of images whose head is known: loaded, taken apart and put together again."""

from __future__ import annotations

import copy
import hashlib
import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from bequest.checkpoints.locate import locate
from bequest.checkpoints.model_identity import PROCESSOR
from bequest.errors import InputError, explained
from bequest.evaluation.image_models import load_network, load_processor
from bequest.training.vision_config import ImageConfig
from bequest.training.vision_data import PixelValues

State = dict[str, Tensor]


class ImageClassifier(nn.Module):
    """A network from pixels to logits whose last linear layer, the head, is known by name.

    Args:
        network: a transformers image classifier, or a module whose output is the logits.
        head: the name of a module of it that is an `nn.Linear`.

    Raises:
        InputError: `head` is not the name of a linear layer.
    """

    def __init__(self, network: nn.Module, head: str) -> None:
        super().__init__()
        self.network = network
        self.head_name = head
        try:
            found = network.get_submodule(head)
        except AttributeError:
            found = None
        if not isinstance(found, nn.Linear):
            linear = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
            raise InputError(
                f"head is {head!r}, which is no linear layer of the model; its linear layers end "
                f"with {', '.join(linear[-3:]) or 'none at all'}"
            )

    @property
    def head(self) -> nn.Linear:
        """The last linear layer."""
        found = self.network.get_submodule(self.head_name)
        assert isinstance(found, nn.Linear)
        return found

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return `logits` (B, C), and their mean cross-entropy as `loss` if there are labels."""
        out = self.network(pixel_values)
        logits = out if torch.is_tensor(out) else out["logits"]
        if labels is None:
            return {"logits": logits}
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    def features(self, pixel_values: Tensor) -> Tensor:
        """Return what the head reads, shape (B, D).

        Raises:
            InputError: the head reads something else than one vector an image.
        """
        kept: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _head, given: kept.append(given[0]))
        try:
            self.network(pixel_values)
        finally:
            hook.remove()
        if len(kept) != 1 or kept[0].ndim != 2:
            raise InputError(
                f"head {self.head_name!r} does not read one vector an image; name another layer"
            )
        return kept[0]

    def with_head(self, head: nn.Linear) -> ImageClassifier:
        """Return a copy with another head; neither shares a tensor with the other."""
        other = copy.deepcopy(self)
        parent, _, name = self.head_name.rpartition(".")
        setattr(other.network.get_submodule(parent), name, copy.deepcopy(head))
        return other

    def with_state(self, state: Mapping[str, Tensor]) -> ImageClassifier:
        """Return a copy of the same shape with other weights and statistics."""
        other = copy.deepcopy(self)
        other.load_state_dict(dict(state))
        return other

    def is_of_head(self, key: str) -> bool:
        """Say whether a key of the state belongs to the head."""
        return key.startswith(f"network.{self.head_name}.")

    def normalization_keys(self) -> set[str]:
        """Return the keys of BatchNorm's weights and running statistics."""
        return {
            f"{name}.{key}"
            for name, part in self.named_modules()
            if isinstance(part, _BatchNorm)
            for key in part.state_dict()
        }


def new_head(classifier: ImageClassifier, num_classes: int, seed: int) -> nn.Linear:
    """Make a head for other classes, with the weights that nn.Linear draws."""
    old = classifier.head
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(old.in_features, num_classes, bias=True)


def restored(trained: ImageClassifier, start: ImageClassifier) -> ImageClassifier:
    """Put the original head and BatchNorm's weights and statistics back into a trained body.

    Source: FLOW's released code for images, where pre-training accuracy is measured so.

    Args:
        trained: the model after fine-tuning, with any head.
        start: the model before, with its original head.
    """
    kept = start.normalization_keys()
    before, after = start.state_dict(), trained.state_dict()
    return start.with_state(
        {key: before[key] if key in kept or start.is_of_head(key) else after[key] for key in before}
    )


def blended(trained: ImageClassifier, start: ImageClassifier, share: float) -> ImageClassifier:
    """Return the model `(1 - share) * start + share * trained` (WiSE-FT, arXiv 2109.01903).

    Running statistics are blended like weights; counters are those of `trained`.

    Args:
        trained: the model after fine-tuning.
        start: the model that fine-tuning started from, with the same head's shape.
        share: of the trained weights.
    """
    before, after = start.state_dict(), trained.state_dict()
    return trained.with_state(
        {
            key: torch.lerp(before[key].double(), value.double(), share).to(value.dtype)
            if value.is_floating_point()
            else value
            for key, value in after.items()
        }
    )


def state_hash(module: nn.Module) -> str:
    """Return a hash of all weights and statistics of a module, by name."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_classifier(config: ImageConfig) -> tuple[ImageClassifier, Any]:
    """Load the model that is to be fine-tuned, and what turns images into its pixels.

    Raises:
        InputError: there is no such model, weights are missing, or it has no head or processor.
    """
    if ":" in config.model:
        network, processor = _call(config.model), None
    else:
        network, processor = _load(config)
    if processor is None:
        if config.size is None:
            raise InputError(
                f"model {config.model} brings no image processor; set size, and mean and std if "
                "they are not ImageNet's"
            )
        processor = PixelValues(config.size, config.mean, config.std)
    classifier = ImageClassifier(network.float(), config.head or last_linear(network))
    return classifier.eval(), processor


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


def _call(name: str) -> nn.Module:
    module, _, function = name.partition(":")
    with explained(f"model {name} cannot be made"):
        made = getattr(importlib.import_module(module), function)()
    if not isinstance(made, nn.Module):
        raise InputError(f"model {name} returned a {type(made).__name__}; return a torch.nn.Module")
    return made


def _load(config: ImageConfig) -> tuple[nn.Module, Any]:
    location = locate(config.model, revision=config.revision, field="model")
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
