"""The real EfficientNet-Lite0 with its ImageNet weights, on real images by grouped classes."""

from __future__ import annotations

import pytest
import torch

from assets.bring import stamp_of
from bequest.evaluation.image_classes import match_classes, read_groups
from bequest.evaluation.image_data import class_names, labels_of, read_images
from bequest.training.vision_config import TASK, ImageConfig, ImageData
from bequest.training.vision_data import ImageBatches
from bequest.training.vision_source import load_source
from bequest.training.vision_stages import read_through
from experiments import vision

NAMES = ("efficientnet-lite0", "efficientnet-lite-code", "cifar10-test")
MISSING = [name for name in NAMES if not stamp_of(vision.ASSETS / name).exists()]


@pytest.mark.assets
@pytest.mark.skipif(
    bool(MISSING), reason=f"358 MB that `python -m assets {' '.join(MISSING)}` brings"
)
def test_it_knows_the_classes_of_cifar10() -> None:
    """57 % of the first 300 test images at 96 pixels; 10 % would be guessing."""
    settings = vision.Settings()
    config = ImageConfig(
        task=TASK,
        model="experiments.vision:efficientnet_lite0",
        out="out",
        data=ImageData(train="train"),
        size=settings.size,
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
    )
    source = load_source(config)
    assert source.classifier.head.out_features == 1000
    file = str(vision.ASSETS / "cifar10-test" / "test.parquet")
    rows = read_images(file, "test[:300]", image="image", label="label", field="images")
    classes = match_classes(
        source.classes,
        class_names(rows),
        read_groups(str(vision.GROUPS), "groups"),
        field="images",
        option="groups",
        model="the model",
    )
    logits = read_through(
        source.classifier,
        rows,
        ImageBatches(source.processor),
        batch_size=50,
        features=False,
        device=torch.device("cpu"),
    )
    right = classes.right(logits.double().numpy(), labels_of(rows))
    assert len(right) == 300
    assert abs(right.mean() - 0.57) <= 0.06
