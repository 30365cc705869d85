"""Every Python block of README and docs runs, on small models under the names that it uses.

A block that leaves arguments out (`...`) is held to the names and keywords that it writes.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bequest
from bequest.training.held_out_losses import HeldOutLosses, save_losses
from pages.blocks import Block, of_language
from reporting.samples import every_kind, write_run
from training.tiny_pretraining import texts, write_texts
from training.tiny_sft import PAIRS, save_model

BLOCKS = of_language("python")
HUB = "HuggingFaceTB/SmolLM2-135M"
DEPTHS = {"models/big": 18, f"{HUB}": 16, f"{HUB}-Instruct": 2, "half": 1}
"""Models that blocks read, and how many blocks they need to have."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that blocks read from where they run."""
    folder = tmp_path_factory.mktemp("world")
    for name, depth in DEPTHS.items():
        _deep_model(folder / name, depth)
    for seed, name in enumerate(("models/before", "models/after")):
        save_model(folder / name, seed=seed)
    write_texts(folder / "texts.jsonl", texts(300))
    write_texts(folder / "held_out.jsonl", texts(20, seed=1))
    (folder / "texts.txt").write_text("\n\n".join(" ".join(texts(20, seed)) for seed in range(20)))
    for name in ("student-run", "lawa", "scores"):
        write_run(folder / name, every_kind()[:1], f"bequest make {name}")
    (folder / "small").mkdir()
    losses = HeldOutLosses(
        token_losses=np.ones(6, dtype=np.float32),
        tokens_per_document=np.array([2, 4]),
        bytes_per_document=np.array([5, 9]),
    )
    save_losses(folder / "small", {"trained": losses, "lawa": losses})
    return folder


def _deep_model(folder: Path, depth: int) -> None:
    from transformers import LlamaForCausalLM

    save_model(folder)
    config = LlamaForCausalLM.from_pretrained(folder).config
    config.num_hidden_layers, config.layer_types = depth, None
    torch.manual_seed(depth)
    LlamaForCausalLM(config).save_pretrained(folder)


def _dataset() -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"prompt": a, "completion": f" {b}"} for a, b in PAIRS])


def _model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained("models/before")


def _arguments() -> Any:
    from transformers import TrainingArguments

    return TrainingArguments("run", report_to="none", use_cpu=True)


def _trainer() -> Any:
    from transformers import Trainer

    return Trainer(_model(), _arguments(), train_dataset=_rows())


def _sft_config() -> Any:
    import functools

    from trl import SFTConfig

    return functools.partial(SFTConfig, report_to="none", use_cpu=True, num_train_epochs=1)


def _rows() -> list[dict[str, Any]]:
    return [{"input_ids": [1, 2, 3], "labels": [1, 2, 3], "weight": 0.5}] * 2


def _from_batch(name: str) -> Callable[[], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {
        "hidden_states": torch.randn(2, 5, 32, generator=generator),
        "labels": torch.randint(9, (2, 5), generator=generator),
        "weights": torch.rand(2, 5, generator=generator),
    }
    return lambda: made[name]


STAND_INS: dict[str, Callable[[], Any]] = {
    "bequest": lambda: bequest,
    "Path": lambda: Path,
    "SFTConfig": _sft_config,
    "args": _arguments,
    "batches": lambda: [None, None],
    "dataset": _dataset,
    "evaluate": lambda: lambda _model: None,
    "frozen": _model,
    "hidden_states": _from_batch("hidden_states"),
    "input_ids": lambda: [[1, 2, 3, 4, 5], [6, 7, 8, 9, 1]],
    "labels": _from_batch("labels"),
    "model": _model,
    "num_items_in_batch": lambda: 8,
    "optimizer": lambda: torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]),
    "rows": _rows,
    "texts": lambda: texts(3),
    "trainer": _trainer,
    "weights": _from_batch("weights"),
}
"""What stands for the names that a block uses and does not make."""


def assigned(tree: ast.Module) -> set[str]:
    """Names that a block imports, assigns or defines."""
    nodes = list(ast.walk(tree))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    made = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    made |= {arg.arg for arg in nodes if isinstance(arg, ast.arg)}
    made |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(one.asname or one.name).split(".")[0] for one in node.names}
    return made


def free_names(tree: ast.Module) -> set[str]:
    """Names that a block reads and does not make."""
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return read - assigned(tree) - set(dir(builtins))


def is_sketch(tree: ast.Module) -> bool:
    """Whether a block leaves arguments of a call out."""
    return any(
        isinstance(part, ast.Constant) and part.value is ...
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for part in (*node.args, *(keyword.value for keyword in node.keywords))
    )


def faults(tree: ast.Module) -> list[str]:
    """Names of bequest's that a block writes and that there are not, and keywords likewise."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bequest"):
            module = importlib.import_module(node.module or "")
            found += [one.name for one in node.names if not hasattr(module, one.name)]
        if not isinstance(node, ast.Attribute) or ast.unparse(node.value) != "bequest":
            continue
        if not hasattr(bequest, node.attr):
            found.append(node.attr)
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        name = ast.unparse(call.func).removeprefix("bequest.")
        if f"bequest.{name}" != ast.unparse(call.func) or not hasattr(bequest, name):
            continue
        parameters = inspect.signature(getattr(bequest, name)).parameters
        if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            found += [
                f"{name}({word.arg}=)" for word in call.keywords if word.arg not in parameters
            ]
    return found


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_its_names_are_there(block: Block) -> None:
    tree = ast.parse(block.text)
    assert not faults(tree)
    known = {*STAND_INS, "Trainer"}
    for other in BLOCKS:
        if other.page == block.page and other.line < block.line:
            known |= assigned(ast.parse(other.text))
    assert free_names(tree) <= known, "give STAND_INS what stands for it"


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS}))
def test_the_blocks_of_a_page_run(
    page: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, each seeing what those before it made."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    if page == "docs/report.md":
        (tmp_path / "student-run").rename(tmp_path / "student")
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    for block in [block for block in BLOCKS if block.page == page]:
        tree = ast.parse(block.text)
        if is_sketch(tree):
            continue
        for name in free_names(tree) - known.keys():
            known[name] = STAND_INS[name]()
        exec(compile(tree, str(block), "exec"), known)


def test_what_is_not_there_is_seen() -> None:
    tree = ast.parse(
        "from bequest.results import Sections\n"
        "trainer = bequest.FlowTrainers(model=...)\n"
        "bequest.inherit('a', 'b', layer=2)\n"
    )
    assert faults(tree) == ["Sections", "FlowTrainers", "inherit(layer=)"]
    assert is_sketch(tree) and free_names(tree) == {"bequest"}
    assert len(BLOCKS) > 15
