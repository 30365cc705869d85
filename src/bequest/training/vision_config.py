"""What `bequest finetune` is asked to do with images, as one YAML file says it; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bequest.errors import InputError
from bequest.training.method import MethodConfig

TASK = "image-classification"
"""The value of `task` that chooses this kind of run."""
AUGMENTATIONS = ("none", "flip", "crop", "crop+flip")
_SCHEMES = (None, "flow", "uniform")


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Labelled images to train on and to test on."""

    train: str
    """A folder with a folder of images a class, a parquet file, a save_to_disk folder, or a hub id."""
    split: str = "train"
    """Part of it, such as train or train[:1000]."""
    eval: str | None = None
    """Images to test on, named like train; left out: eval_split of train."""
    eval_split: str | None = None
    """Part of eval, or of train where eval is not given; left out, of eval the only one, or test
    where there are several."""
    image: str = "image"
    """The column of images."""
    label: str = "label"
    """The column of labels."""


@dataclass(frozen=True, kw_only=True)
class ImageRetention:
    """What the model could do before, measured with its original head."""

    data: str | None = None
    """Labelled images, named like data.train; their labels are the original head's classes, or
    groups of them."""
    split: str | None = None
    """Part of it; left out: the only one, or test where there are several."""
    groups: str | None = None
    """JSON file with the original head's classes, by number or name, for each class of the data,
    by its name."""


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """What `bequest finetune` is asked to do with images."""

    task: str
    """image-classification."""
    model: str
    """A folder or hub id of a transformers image classifier, or MODULE:FUNCTION, which is called
    for a torch.nn.Module from pixels to logits."""
    out: str
    """Folder to write the finished model to."""
    data: ImageData
    """What is trained on."""
    method: MethodConfig = field(default_factory=MethodConfig)
    """scheme (flow or uniform), temperature, linear_probe, l2, wise_ft."""
    training: dict[str, Any] = field(default_factory=dict)
    """Settings of TrainingArguments for the whole model by name; SGD with momentum 0.9 and weight
    decay 5e-4, cosine, batches of 128 unless they say otherwise."""
    head_training: dict[str, Any] = field(default_factory=dict)
    """The same for the two trainings of the head alone."""
    augment: str = "none"
    """While the whole model is trained: none, flip, crop (shifts by up to an eighth) or
    crop+flip."""
    retention: ImageRetention = field(default_factory=ImageRetention)
    """What is measured for forgetting."""
    head: str | None = None
    """Name of the module that is the head's linear layer; left out: the last linear layer."""
    size: int | None = None
    """Pixels a side, for models without a processor, and to run others at another size."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of the three colours between 0 and 1, for models without a processor."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Of the three colours, for models without a processor."""
    seed: int = 42
    """Of the heads' first weights, the order of the images and their augmentation."""
    stages: str | None = None
    """Folder of finished stages, which runs may share; RUN_DIR/stages if not given."""
    revision: str | None = None
    """Branch, tag or commit, if the model is a hub id."""
    run_dir: str | None = None
    """Folder of the run with its stages and checkpoints; OUT.run if not given."""
    overwrite: bool = False
    """Replace a model that stands at out, and a run of other settings that was broken off."""
    hash: bool = False
    """Record the SHA-256 of whole weight files in the lineage."""
    trust_remote_code: bool = False
    """Let Python files of the model's folder run."""

    @property
    def run_folder(self) -> Path:
        """Where the run lives."""
        if self.run_dir is not None:
            return Path(self.run_dir).expanduser()
        out = Path(self.out).expanduser()
        return out.with_name(f"{out.name}.run")

    @property
    def stages_folder(self) -> Path:
        """Where finished stages are kept."""
        return Path(self.stages).expanduser() if self.stages else self.run_folder / "stages"


def check_images(config: ImageConfig) -> None:
    """Refuse what is wrong whatever the model and the data are.

    Raises:
        InputError: a field has a value that it cannot have, or contradicts another.
    """
    if config.task != TASK:
        raise InputError(f"task is {config.task!r}; for images it is {TASK!r}")
    method = config.method
    if method.scheme not in _SCHEMES:
        raise InputError(f"method.scheme is {method.scheme!r}; images take 'flow' or 'uniform'")
    if method.normalizer != "tokens":
        raise InputError(
            f"method.normalizer is {method.normalizer!r}, but weights of augmented images are not "
            "known beforehand; leave it out"
        )
    for name in ("kl", "sfa", "scores"):
        if getattr(method, name):
            raise InputError(f"method.{name} is for language models; leave it out for images")
    if method.linear_probe and (method.l2 or method.wise_ft is not None):
        raise InputError("method.linear_probe trains no body; leave l2 and wise_ft out with it")
    if method.linear_probe and config.training:
        raise InputError("method.linear_probe trains the head alone; set head_training only")
    if config.augment not in AUGMENTATIONS:
        raise InputError(f"augment is {config.augment!r}; choose one of {', '.join(AUGMENTATIONS)}")
    if config.size is not None and config.size < 1:
        raise InputError(f"size is {config.size}; give pixels a side")
    if len(config.mean) != 3 or len(config.std) != 3 or min(config.std) <= 0:
        raise InputError("mean and std are three numbers each, those of std above 0")
    if config.retention.groups and not config.retention.data:
        raise InputError("retention.groups is set, but retention.data is not; name it")
