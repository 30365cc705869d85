"""The model card of an output: the source's licence, its place on the hub, and what was done."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_BEGIN, _END = "<!-- bequest:begin -->", "<!-- bequest:end -->"
_INHERITED_METADATA = ("license", "license_name", "license_link", "language")


def write_model_card(
    folder: Path,
    *,
    title: str,
    source: Path,
    repo_id: str | None,
    paragraphs: Sequence[str],
    library: str = "transformers",
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

    Raises:
        OSError: writing failed.
    """
    import yaml

    metadata: dict[str, Any] = {"library_name": library, "tags": ["bequest"]}
    earlier = _metadata(source / "README.md")
    metadata |= {key: earlier[key] for key in _INHERITED_METADATA if key in earlier}
    base = repo_id or earlier.get("base_model")
    if base is not None:
        metadata["base_model"] = base
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    body = "\n\n".join(paragraphs)
    text = f"---\n{front}---\n\n# {title}\n\n{_BEGIN}\n{body}\n{_END}\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def _metadata(card: Path) -> dict[str, Any]:
    """Read a card's metadata; a card that cannot be read has none to pass on."""
    import yaml

    try:
        text = card.read_text(encoding="utf-8")
        match = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
        loaded = yaml.safe_load(match[1]) if match else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
