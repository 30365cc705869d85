"""Labelled images that classifiers are right or wrong on, image by image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from bequest.errors import InputError
from bequest.evaluation.image_classes import ClassMap, Groups, read_groups
from bequest.evaluation.image_data import IMAGE, class_names, contents, labels_of, read_images
from bequest.evaluation.image_models import class_map, load_processor
from bequest.evaluation.items import ItemScores, numbered, require_finite
from bequest.evaluation.models import Candidate, LoadedModel
from bequest.losses.processes import add_up, rank_and_size, share_of
from bequest.losses.spool import Spool, finished_batches


class ImageTask:
    """Labelled images; an item is 1 if the model's best class is the image's, else 0.

    With groups, the best class is the group whose probabilities add up to the most: so a classifier
    of many fine classes is tested on few coarse ones without training a head.

    Args:
        source: as for `read_images`.
        split: part of it.
        image: the column of images.
        label: the column of labels.
        groups: those of the maps whose classes are this data's are used, if there are any.
        limit: so many images only, evenly spaced: data is often sorted by class.
        batch_size: images read at once; it changes no result but in rounding.
        original_head: whether fine-tuned models run with the head that they had before.

    Raises:
        InputError: the data is at fault.
    """

    def __init__(
        self,
        source: str,
        *,
        split: str | None,
        image: str,
        label: str,
        groups: Sequence[Groups],
        limit: int | None,
        batch_size: int,
        original_head: bool = False,
    ) -> None:
        self.name = Path(source).name
        self._field = f"images {source}"
        rows = read_images(
            source,
            split,
            image=image,
            label=label,
            field="images",
            columns=("image_column", "label_column"),
        )
        if limit is not None and limit < len(rows):
            rows = rows.select(np.linspace(0, len(rows) - 1, limit).round().astype(int))
        self._rows, self._labels, self._batch_size = rows, labels_of(rows), batch_size
        self.classes = class_names(rows)
        self.groups = next((one for one in groups if set(one) == set(self.classes)), None)
        stored = [
            hashlib.sha256(f"{label} ".encode() + image).hexdigest()[:16]
            for image, label in contents(rows)
        ]
        self._ids = numbered(stored)
        asked = ["images", original_head, self.classes, self.groups, self._ids]
        self.fingerprint = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    @property
    def num_items(self) -> int:
        """Images."""
        return len(self._labels)

    def flops(self, candidate: Candidate) -> float:
        """About how many floating-point operations a model takes for all images."""
        assert candidate.images is not None
        return candidate.images.flops * len(self._labels)

    def check(self, candidate: Candidate) -> None:
        """Refuse a model that has no classes for those of the images.

        Raises:
            InputError: it has none, or nothing says which they are.
        """
        class_map(candidate, self.classes, self.groups, self._field)

    def measure(
        self, model: LoadedModel, *, progress: bool, scratch: Path | None
    ) -> ItemScores | None:
        """Let a model classify every image; all processes of a run share the work.

        Args:
            model: the classifier.
            progress: show a bar.
            scratch: a folder for unfinished work, taken up by the next call.

        Raises:
            InputError: the model does not load, or its logits are not finite.
        """
        rank, size = rank_and_size()
        classes = class_map(model.candidate, self.classes, self.groups, self._field)
        folder = None if scratch is None else scratch / f"batches-of-{self._batch_size}"
        header = {"task": self.fingerprint, "model": model.candidate.identity}
        known = {} if folder is None else finished_batches(folder, header)
        count = len(self._labels)
        starts = range(0, count, self._batch_size)
        mine = share_of(starts, rank, size, in_step=False)
        right = torch.zeros(count, dtype=torch.float64)
        for start in mine:
            if start in known:
                right[start : start + len(known[start])] = torch.tensor(known[start]).double()
        left = [start for start in mine if start not in known]
        for start, found in self._found(model, left, classes, progress and rank == 0):
            right[start : start + len(found)] = torch.from_numpy(found).double()
            if folder is not None:
                with Spool(folder, rank, header) as spool:
                    spool.append(start, found)
        add_up(right)
        is_finite = np.isfinite(right.numpy())
        require_finite(is_finite, model=model.candidate.label, task=self.name)
        return ItemScores(
            task=self.name,
            metric="accuracy",
            ids=tuple(self._ids),
            values=right.numpy(),
            sizes=np.ones(count),
            higher_is_better=True,
        )

    @torch.inference_mode()
    def _found(
        self, model: LoadedModel, starts: Sequence[int], classes: ClassMap, progress: bool
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the first row of each batch, and which of its images are right; NaN: none can be."""
        if not starts:
            return
        network: Any = model.classifier
        processor = load_processor(model.candidate.folder)
        for start in tqdm(starts, unit="batch", desc=self.name, disable=not progress):
            labels = self._labels[start : start + self._batch_size]
            images = [one.convert("RGB") for one in self._rows[start : start + len(labels)][IMAGE]]
            pixels = processor(images=images, return_tensors="pt")["pixel_values"]
            logits = network(pixel_values=pixels.to(network.device, network.dtype)).logits
            scores = logits.double().cpu().numpy()
            # The best of logits that are no numbers is whichever stands first.
            sound = np.isfinite(scores).all(axis=1)
            right = classes.right(scores, labels)
            yield start, np.where(sound, right, np.nan).astype(np.float32)


def image_tasks(sources: Sequence[str], maps: Sequence[str], **settings: Any) -> list[ImageTask]:
    """Read the images of an evaluation.

    Args:
        sources: as for `read_images`.
        maps: JSON files for `read_groups`, each for the data whose classes it names.
        **settings: further arguments of `ImageTask`.

    Raises:
        InputError: the data or a map is at fault, or a map is for none of the data.
    """
    groups = [read_groups(path, "image_classes") for path in maps]
    tasks = [ImageTask(source, groups=groups, **settings) for source in sources]
    for path, one in zip(maps, groups, strict=True):
        if not any(task.groups is one for task in tasks):
            odd = sorted(set(one) ^ set(tasks[0].classes))
            raise InputError(
                f"image_classes {path} and the classes of {tasks[0].name} differ by {odd[0]!r}; "
                "give a list for every class of the data, by its name"
            )
    return tasks
