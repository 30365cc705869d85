"""Builds a specimen once a session and hands out its folder, which nobody may change."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoModelForCausalLM, PreTrainedModel

from zoo.classic import CLASSIC
from zoo.dense import DENSE
from zoo.experts import EXPERTS
from zoo.layouts import write
from zoo.specimen import Specimen

SPECIMENS: dict[str, Specimen] = {
    specimen.name: specimen for specimen in [*DENSE, *CLASSIC, *EXPERTS]
}


@cache
def _root() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="zoo-")


@cache
def folder(name: str, layout: str = "single") -> Path:
    """The folder of a specimen in a layout; read it only."""
    target = Path(_root().name) / f"{name}-{layout}"
    write(SPECIMENS[name], layout, target)
    return target


def copy(name: str, target: Path, layout: str = "single") -> Path:
    """A copy of a specimen's folder that a test may change."""
    return Path(shutil.copytree(folder(name, layout), target))


def load(path: Path) -> PreTrainedModel:
    """Load a folder as a user would, ready to be run."""
    return AutoModelForCausalLM.from_pretrained(path).eval()


def edit_config(path: Path, **fields: object) -> None:
    """Set fields of a folder's config.json; a field set to `...` is taken out."""
    config = json.loads((path / "config.json").read_text())
    for key, value in fields.items():
        if value is ...:
            config.pop(key, None)
        else:
            config[key] = value
    (path / "config.json").write_text(json.dumps(config, indent=2))
