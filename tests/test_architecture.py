"""The rules of CONTRIBUTING.md that can be read off the source: who imports whom, size, names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parent.parent / "src"
FILES = sorted((SRC / "bequest").rglob("*.py"))

GROUND = {"errors", "papers", "results", "checkpoints", "losses"}
METHODS = {"inheritance", "averaging", "weighting"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "papers": set(),
    "results": {"errors"},
    "checkpoints": GROUND,
    "losses": GROUND,
    **dict.fromkeys(METHODS, GROUND),
    "evaluation": GROUND,
    "reporting": {"errors", "results"},
    "training": GROUND | METHODS | {"evaluation", "reporting"},
    "cli": GROUND | METHODS | {"evaluation", "reporting", "training"},
}
"""Which rooms of bequest each room may import, besides itself and the version number."""

EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
LONGEST = 330


def room_of(module: str) -> str:
    """The part of bequest that a module belongs to; "" for the package itself."""
    return [*module.split("."), ""][1]


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Every module or name that the tree imports, anywhere in it, with its full dotted path."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "transformers":
            yield f"transformers.{node.attr}"


def is_trainer(name: str) -> bool:
    """Whether an imported name is TRL or belongs to transformers' Trainer."""
    parts = name.split(".")
    return parts[0] == "trl" or (
        parts[0] == "transformers" and len(parts) > 1 and parts[1].lower().startswith("train")
    )


def faults(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What in one file's source breaks a rule, in words."""
    tree = ast.parse(source)
    room = room_of(module)
    found = []
    for name in imported(tree, module, is_package):
        # The package itself names everything, lazily; importing a name from it hides whose.
        is_ours = name.startswith("bequest.") and module != "bequest"
        if is_ours and room_of(name) not in {room, "__version__", *MAY_IMPORT[room]}:
            found.append(f"{module} imports {name}, which {room} may not know")
        if is_trainer(name) and room != "training":
            found.append(f"{module} imports {name}: trainers belong to training alone")
    if EMPTY_NAMES & set(module.replace("_", ".").split(".")):
        found.append(f"{module} says nothing about what is in it")
    if source.count("\n") > LONGEST:
        found.append(f"{module} has {source.count(chr(10))} lines; one idea fits in {LONGEST}")
    found += [f"{module}: {name} has no docstring" for name in undocumented(tree)]
    return found


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Public functions, classes and methods without a docstring."""
    for scope in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]:
        if isinstance(scope, ast.ClassDef) and scope.name.startswith("_"):
            continue
        for node in scope.body:
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            if (
                isinstance(node, kinds)
                and not node.name.startswith("_")
                and not any(is_overload(mark) for mark in node.decorator_list)
                and not ast.get_docstring(node)
            ):
                yield node.name


def is_overload(decorator: ast.expr) -> bool:
    return ast.unparse(decorator).split(".")[-1] == "overload"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_file_keeps_the_rules(path: Path) -> None:
    parts = path.relative_to(SRC).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    assert room_of(module) in {"", *MAY_IMPORT}, f"no rule says whom {module} may import"
    assert not faults(path.read_text(encoding="utf-8"), module, is_package=is_package)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bequest.checkpoints.header", "from bequest.inheritance.blocks import find_blocks"),
        ("bequest.losses.token_losses", "import bequest.evaluation"),
        ("bequest.inheritance.grow", "def _f():\n    from bequest.averaging import offline"),
        ("bequest.inheritance.grow", "from ..averaging.offline import average"),
        ("bequest.averaging.live", "from transformers import TrainerCallback"),
        ("bequest.averaging.live", "from transformers.trainer_utils import get_last_checkpoint"),
        ("bequest.averaging.live", "import transformers as _\nclass _A(transformers.Trainer): ..."),
        ("bequest.weighting.score", "import trl.trainer"),
        ("bequest.weighting.score", "from bequest import inherit"),
        ("bequest.evaluation.paired", "from bequest.training import pretrain"),
        ("bequest.reporting.html", "from bequest.evaluation import paired"),
        ("bequest.training.drivers", "from bequest.cli import main"),
        ("bequest.losses.utils", ""),
        ("bequest.losses.loss_helpers", ""),
        ("bequest.losses.long", "x = 1\n" * (LONGEST + 1)),
        ("bequest.losses.bare", "def public(): ..."),
        ("bequest.losses.bare", "class Public:\n    'Text.'\n    def method(self): ..."),
    ],
)
def test_a_broken_rule_is_seen(module: str, source: str) -> None:
    assert len(faults(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bequest.inheritance.grow", "from .blocks import find_blocks"),
        ("bequest.inheritance.grow", "from ..checkpoints import header"),
        ("bequest.inheritance.grow", "from bequest import __version__\nimport transformers"),
        ("bequest.training.flow", "from transformers import Trainer\nfrom trl import SFTTrainer"),
        ("bequest.cli.inherit", "from bequest.inheritance.inherit import inherit"),
        ("bequest.losses.quiet", "def _private(): ...\nclass _Private:\n    def method(self): ..."),
    ],
)
def test_what_keeps_the_rules_passes(module: str, source: str) -> None:
    assert not faults(source, module)
