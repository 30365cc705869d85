"""The models that are compared: found, judged and known by their contents before any is loaded."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bequest.checkpoints.checkpoint import open_checkpoint
from bequest.checkpoints.model_identity import ContentHashes
from bequest.errors import InputError, explained
from bequest.evaluation.wholeness import is_whole
from bequest.losses.device import device

_BYTES_PER_TOKEN = 4
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class ImageForm:
    """What a classifier of images adds to a candidate."""

    classes: tuple[str, ...]
    """Names of its classes; numbers where nothing names them."""
    restores: bool
    """Whether it runs with the head that it had before fine-tuning."""
    flops: float
    """Floating-point operations for one image."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that is to be evaluated."""

    label: str
    """What tables call it; several candidates of one label are runs of one method."""
    name: str
    """Its hub id or path."""
    folder: Path
    """Where its files are."""
    identity: str
    """Hash of what it is: every byte of its weights, its configuration, tokenizer and code."""
    num_parameters: int
    """Of the model, tied ones counted once."""
    dtype: str
    """In which it runs."""
    judged: bool = True
    """Whether all its weights were found in its files; if not, loading finds out."""
    images: ImageForm | None = None
    """Of a classifier of images; None of a causal language model."""

    def flops_on_text(self, num_bytes: int) -> float:
        """Return about how many floating-point operations some bytes of text take."""
        return 2.0 * self.num_parameters * num_bytes / _BYTES_PER_TOKEN


def find_candidates(
    models: Sequence[str],
    *,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    images: bool = False,
    original_head: bool = False,
    contents: ContentHashes | None = None,
) -> list[Candidate]:
    """Find the models, and refuse what is no whole causal language model with a tokenizer.

    Args:
        models: folders or hub ids, each possibly as LABEL=MODEL.
        dtype: one of `DTYPES`.
        trust_remote_code: let Python files of a model's folder run.
        images: the models are classifiers of images with a processor instead.
        original_head: of those, run fine-tuned ones with the head that they had before.
        contents: what is known of their files already.

    Raises:
        InputError: a model does not exist or does not load whole, or all have one label.
    """
    contents = ContentHashes() if contents is None else contents
    named = [_label_and_source(model) for model in models]
    labels = _labels([label for label, _ in named], [source for _, source in named])
    if len(labels) > 1 and len(set(labels)) == 1:
        raise InputError(
            f"models are all called {labels[0]!r}; give the one before a label of its own"
        )
    found = []
    for label, (_, source) in zip(labels, named, strict=True):
        if (Path(source).expanduser() / "adapter_config.json").is_file():
            raise InputError(
                f"model {source} is an adapter, not a whole model; merge it into its base model "
                "first"
            )
        if images:
            from bequest.evaluation.image_models import find_image_model

            found.append(
                find_image_model(
                    label,
                    source,
                    dtype=dtype,
                    trust_remote_code=trust_remote_code,
                    original_head=original_head,
                    contents=contents,
                )
            )
        else:
            found.append(_find(label, source, dtype, trust_remote_code, contents))
    return found


def _label_and_source(model: str) -> tuple[str | None, str]:
    label, equals, source = model.partition("=")
    # A path may hold the sign too; a label holds no separator.
    if equals and "/" not in label and not Path(model).expanduser().exists():
        if not label or not source:
            raise InputError(f"models holds {model!r}; give MODEL, or LABEL=MODEL")
        return label, source
    return None, model


def _labels(given: Sequence[str | None], sources: Sequence[str]) -> list[str]:
    """Call each model as asked, or by as much of the end of its path as tells it from the others."""
    labels = []
    for label, source in zip(given, sources, strict=True):
        if label is not None:
            labels.append(label)
            continue
        parts = Path(source).expanduser().absolute().parts
        others = [other for other, named in zip(sources, given, strict=True) if named is None]
        for count in range(1, len(parts) + 1):
            labelled = "/".join(parts[-count:])
            alike = [
                other
                for other in others
                if "/".join(Path(other).expanduser().absolute().parts[-count:]) == labelled
            ]
            if len(alike) == 1 and labelled not in given:
                break
        labels.append(labelled)
    return labels


def _find(
    label: str, source: str, dtype: str, trust_remote_code: bool, contents: ContentHashes
) -> Candidate:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    checkpoint = open_checkpoint(source, field="model")
    folder = checkpoint.folder
    trust = {"trust_remote_code": trust_remote_code}
    with explained(f"model {source} is no causal language model"):
        config = AutoConfig.from_pretrained(folder, **trust)
        asked = None if dtype == "auto" else getattr(torch, dtype)
        kind = asked or getattr(config, "dtype", None) or torch.float32
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config, dtype=kind, **trust)
        judged = is_whole(checkpoint, config, "AutoModelForCausalLM", **trust)
    with explained(f"model {source} has no tokenizer that loads"):
        AutoTokenizer.from_pretrained(folder, **trust)
    return Candidate(
        label=label,
        name=checkpoint.location.name,
        folder=folder,
        identity=contents.identity(checkpoint),
        num_parameters=skeleton.num_parameters(),
        dtype=str(kind).removeprefix("torch."),
        judged=judged,
    )


class LoadedModel:
    """A candidate's weights in memory, each form of it made when it is first asked for."""

    def __init__(
        self, candidate: Candidate, *, batch_size: str, trust_remote_code: bool = False
    ) -> None:
        self.candidate = candidate
        self.batch_size = batch_size
        self._trust = trust_remote_code

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.candidate.folder, trust_remote_code=self._trust)

    @cached_property
    def model(self) -> Any:
        """The causal language model, on its device.

        Raises:
            InputError: it does not load, or not all of it is there.
        """
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        name = self.candidate.name
        logging.disable_progress_bar()
        with explained(f"model {name} cannot be loaded"):
            model, told = AutoModelForCausalLM.from_pretrained(
                self.candidate.folder,
                dtype=getattr(torch, self.candidate.dtype),
                output_loading_info=True,
                trust_remote_code=self._trust,
            )
            missing = sorted([*told["missing_keys"], *told["mismatched_keys"]])
            if missing:
                raise InputError(
                    f"model {name} lacks {missing[0]} and would run with random weights there; "
                    "name the folder of a whole model"
                )
            return model.to(device()).eval()

    @cached_property
    def classifier(self) -> Any:
        """The classifier of images, on its device.

        Raises:
            InputError: it does not load, or not all of it is there.
        """
        import torch

        from bequest.evaluation.image_models import load_network, restore_original

        candidate = self.candidate
        network = load_network(
            candidate.folder,
            candidate.name,
            dtype=getattr(torch, candidate.dtype),
            trust_remote_code=self._trust,
        )
        if candidate.images is not None and candidate.images.restores:
            restore_original(network, candidate.folder)
        return network.to(device()).eval()

    @cached_property
    def harness(self) -> Any:
        """The model as lm-eval runs it, loaded by lm-eval from its path.

        Given a path, lm-eval places the model of each process itself. Probabilities are taken in
        float32, for those of bfloat16 are so coarse that choices tie.
        """
        if not self.candidate.judged:
            _ = self.model  # lm-eval would go on with random weights where some are missing.
        self.release_model()
        from lm_eval.models.huggingface import HFLM

        with explained(f"model {self.candidate.name} cannot be loaded by lm-eval"):
            return HFLM(
                pretrained=str(self.candidate.folder),
                dtype=self.candidate.dtype,
                softmax_dtype="float32",
                device=str(device()),
                batch_size=self.batch_size,
                trust_remote_code=self._trust,
            )

    def release_model(self) -> None:
        """Give the memory of `model` or `classifier` back."""
        self.__dict__.pop("model", None)
        self.__dict__.pop("classifier", None)
        gc.collect()

    def release(self) -> None:
        """Give all memory back."""
        self.__dict__.pop("harness", None)
        self.release_model()
