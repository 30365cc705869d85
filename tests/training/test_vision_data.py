"""Augmentation: what it does to an image, and that it follows from seed, epoch and row alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from bequest.training.vision_data import ImageBatches, PixelValues
from tests.training.tiny_images import pictures

PROCESSOR = PixelValues(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def rows(count: int = 24) -> list[dict[str, Any]]:
    images, labels = pictures(count, 0)
    return [
        {"image": image, "label": label, "row": number}
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def pixels_of(augment: str, chosen: list[dict[str, Any]], epoch: int = 0, seed: int = 1) -> Any:
    batches = ImageBatches(PROCESSOR, augment, seed)
    batches.epoch = epoch
    return batches(chosen)["pixel_values"]


def test_it_depends_on_seed_epoch_and_row_alone() -> None:
    data = rows()
    whole = pixels_of("crop+flip", data)
    torch.manual_seed(99)
    mixed = pixels_of("crop+flip", [*reversed(data[5:9])])
    assert torch.equal(mixed, whole[5:9].flip(0))
    for other in (pixels_of("crop+flip", data, epoch=1), pixels_of("crop+flip", data, seed=2)):
        # A few images may be moved alike.
        same = sum(torch.equal(one, two) for one, two in zip(whole, other, strict=True))
        assert same < 12


@pytest.mark.parametrize("augment", ["flip", "crop"])
def test_what_it_does_to_an_image(augment: str) -> None:
    data = rows(60)
    plain, made = pixels_of("none", data), pixels_of(augment, data)
    found = set()
    for before, after in zip(plain, made, strict=True):
        if augment == "flip":
            possible = {False: before, True: before.flip(-1)}
        else:
            padded = functional.pad(before[None], (2, 2, 2, 2), mode="replicate")[0]
            possible = {
                (y, x): padded[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)
            }
        (which,) = (name for name, image in possible.items() if torch.equal(image, after))
        found.add(which)
    # Of two kinds both are drawn, of 25 nearly all.
    assert len(found) == 2 if augment == "flip" else len(found) > 15
