"""The model card of an output: the source's licence, its place on the hub, and what was done.

bequest's part of a card stands between two marks, and within it the results of later commands
between two others: both can be written again without touching what others wrote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bequest.checkpoints.lineage import record_again
from bequest.checkpoints.whole_file import whole_file
from bequest.errors import InputError, StorageError

_BEGIN, _END = "<!-- bequest:begin -->", "<!-- bequest:end -->"
_RESULTS = ("<!-- bequest:results:begin -->", "<!-- bequest:results:end -->")
_FRONT = re.compile(r"---\s*\n(.*?)\n---[ \t]*(?:\n|$)", re.DOTALL)
_INHERITED_METADATA = ("license", "license_name", "license_link", "language")


def write_model_card(
    folder: Path,
    *,
    title: str,
    source: Path,
    repo_id: str | None,
    paragraphs: Sequence[str],
    library: str = "transformers",
    relation: str = "finetune",
) -> None:
    """Write `README.md` with hub metadata and bequest's section.

    The text of the source's card describes another model, so it stays behind; its licence and
    languages come along.

    Args:
        folder: the output.
        title: heading of the card.
        source: folder of the model that this one was made from.
        repo_id: hub id of that model, for `base_model`; None if it has none.
        paragraphs: Markdown that says what was done, as blocks.
        library: what loads the output, for `library_name`.
        relation: what the output is to the model at `repo_id`, for `base_model_relation`: one of
            the hub's "finetune", "merge", "adapter", "quantized", the first of which is also its
            word for a model that was cut. A base that only the source's card names keeps the
            relation that it has there.

    Raises:
        OSError: writing failed.
    """
    metadata: dict[str, Any] = {"library_name": library, "tags": ["bequest"]}
    earlier = _metadata(source / "README.md")
    metadata |= {key: earlier[key] for key in _INHERITED_METADATA if key in earlier}
    base = repo_id or earlier.get("base_model")
    if base is not None:
        metadata["base_model"] = base
        known = earlier.get("base_model_relation") if repo_id is None else None
        metadata["base_model_relation"] = known or relation
    body = "\n\n".join(paragraphs)
    text = f"{_front(metadata)}\n# {title}\n\n{_BEGIN}\n{body}\n{_END}\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def add_results(
    folder: Path, *, markdown: str, metrics: Sequence[Mapping[str, Any]], name: str
) -> None:
    """Put results into a model's card, in place of those that an earlier call put there.

    The card's other text and metadata stay. The lineage beside it is told the card's new hash.

    Args:
        folder: a model with a card.
        markdown: the results, as blocks.
        metrics: `{task, dataset, metric, value}` each, for the metadata's `model-index`.
        name: the model's name, for the same.

    Raises:
        InputError: the folder has no card, or its metadata is not YAML.
        StorageError: writing failed; the card is as it was.
    """
    card = folder / "README.md"
    if not card.is_file():
        raise InputError(f"folder {folder} has no README.md; name a model that bequest wrote.")
    try:
        text = card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{card} cannot be read as UTF-8 text: {error}.") from error
    front, body = _parted(card, text)
    if metrics:
        front["model-index"] = _model_index(name, metrics)
    written = _front(front) + _with_results(body, markdown)
    try:
        with whole_file(card) as file:
            file.write_text(written, encoding="utf-8")
        record_again(folder, card)
    except OSError as error:
        raise StorageError(f"cannot write {card}: {error.strerror or error}.") from error


def _parted(card: Path, text: str) -> tuple[dict[str, Any], str]:
    import yaml

    match = _FRONT.match(text)
    if match is None:
        return {}, text
    try:
        front = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        raise InputError(f"the metadata of {card} is no YAML; mend it: {error}.") from error
    if not isinstance(front, dict):
        raise InputError(f"the metadata of {card} is no mapping; mend it.")
    return front, text[match.end() :]


def _with_results(body: str, markdown: str) -> str:
    begin, end = _RESULTS
    section = f"{begin}\n{markdown}\n{end}"
    before, found, rest = body.partition(begin)
    if found and end in rest:
        return before + section + rest.partition(end)[2]
    before, found, rest = body.rpartition(_END)
    if found:
        return f"{before}\n{section}\n{_END}{rest}"
    return f"{body.rstrip()}\n\n{section}\n"


def _model_index(name: str, metrics: Sequence[Mapping[str, Any]]) -> Any:
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = [
        EvalResult(
            task_type=metric["task"],
            dataset_type=re.sub(r"[^a-z0-9]+", "-", metric["dataset"].lower()).strip("-"),
            dataset_name=metric["dataset"],
            metric_type=re.sub(r"[^a-z0-9]+", "_", metric["metric"].lower()).strip("_"),
            metric_name=metric["metric"],
            metric_value=metric["value"],
        )
        for metric in metrics
    ]
    return eval_results_to_model_index(name, results)


def _front(metadata: Mapping[str, Any]) -> str:
    import yaml

    return f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)}---\n"


def _metadata(card: Path) -> dict[str, Any]:
    """Read a card's metadata; a card that cannot be read has none to pass on."""
    import yaml

    try:
        text = card.read_text(encoding="utf-8")
        match = _FRONT.match(text)
        loaded = yaml.safe_load(match[1]) if match else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
