"""The package as a user gets it: built, installed into an empty environment, quick to answer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from bequest.cli.main import COMMANDS

REPOSITORY = Path(__file__).resolve().parent.parent
CLI = REPOSITORY / "src" / "bequest" / "cli"
HEAVY = {"torch", "transformers", "datasets", "trl"}
"""What takes a second or more to import."""


def run(*command: str | Path, **settings: str) -> str:
    """Run a command away from the repository, without its environment; return what it printed."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"}
    }
    ended = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=environment | settings,
        stdin=subprocess.DEVNULL,
    )
    assert ended.returncode == 0, f"{command} ended with {ended.returncode}:\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, REPOSITORY)
    return folder


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    """The one wheel."""
    (found,) = distributions.glob("*.whl")
    return found


def empty_environment(folder: Path) -> Path:
    """A new virtual environment that sees no package of this one; its interpreter."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    return folder / "bin" / "python"


def install(python: Path, *what: str | Path) -> None:
    quiet = ["--quiet", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *quiet, *what)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    sources = {
        path.relative_to(REPOSITORY / "src").as_posix()
        for path in CLI.parent.rglob("*")
        if path.suffix in {".py", ".css", ".js", ".jinja", ".typed", ".yaml"}
    }
    assert sources == {name for name in names if not re.match(r"bequest-[^/]*\.dist-info/", name)}


def test_the_sdist_holds_what_a_packager_needs(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "tests/test_house.py"} <= names
    assert not any(name.startswith((".cache", ".venv")) for name in names)


def test_an_empty_environment_gets_help(wheel: Path, tmp_path: Path) -> None:
    python = empty_environment(tmp_path / "venv")
    install(python, "--no-deps", wheel)
    install(python, f"jsonargparse[signatures]=={version('jsonargparse')}")
    installed = run(python, "-c", "import bequest; print(bequest.__file__)")
    assert installed.startswith(str(tmp_path))
    printed = run(tmp_path / "venv" / "bin" / "bequest", "--help")
    for command, summary in COMMANDS.items():
        assert re.search(rf"^ +{command} +{summary}$", printed, re.MULTILINE)


@pytest.mark.slow
def test_a_full_installation_cuts_a_model(wheel: Path, tmp_path: Path) -> None:
    python = empty_environment(tmp_path / "venv")
    constraints = REPOSITORY / "constraints.txt"
    install(python, "-c", constraints, "torch")
    install(python, "-c", constraints, wheel)
    make_model = (
        "from transformers import LlamaConfig, LlamaForCausalLM as Model\n"
        "Model(LlamaConfig(hidden_size=16, intermediate_size=32, num_attention_heads=2,\n"
        "      num_hidden_layers=4, vocab_size=64)).save_pretrained('source')"
    )
    inside = f"import os, sys; os.chdir({str(tmp_path)!r})\n"
    run(python, "-c", inside + make_model)
    source, out = tmp_path / "source", tmp_path / "out"
    run(tmp_path / "venv" / "bin" / "bequest", "inherit", source, out, "--layers", "2")
    load = "from transformers import AutoModelForCausalLM as Auto\n"
    load += "print(Auto.from_pretrained('out').config.num_hidden_layers)"
    assert run(python, "-c", inside + load).strip() == "2"
    # What needs a trainer's packages says so; everything else is there.
    public = (
        "import bequest\nmissing = []\nfor name in bequest.__all__:\n"
        "    try: getattr(bequest, name)\n"
        "    except ImportError as error:\n"
        "        assert 'bequest[train]' in str(error), error\n"
        "        missing.append(name)\n"
        "print(*missing)"
    )
    assert set(run(python, "-c", public).split()) <= {"FlowTrainer", "score"}


def loaded_after(code: str) -> set[str]:
    """The packages that are loaded once the code has run in a new interpreter."""
    ask = "import sys\nprint('loaded:', *sys.modules)"
    printed = run(sys.executable, "-c", f"{code}\n{ask}", PYTHONPATH=str(REPOSITORY / "src"))
    return set(printed.rpartition("loaded:")[2].split())


def help_of(*arguments: str) -> str:
    """Code that asks for a help text as the installed command would."""
    return (
        "import sys\n"
        f"sys.argv = ['bequest', {', '.join(map(repr, [*arguments, '--help']))}]\n"
        "from bequest.cli.main import main\n"
        "try: code = main()\n"
        "except SystemExit as ended: code = ended.code\n"
        "assert not code, code"
    )


def test_a_heavy_package_would_be_seen() -> None:
    assert "torch" in loaded_after("import torch") & HEAVY


def test_import_is_light() -> None:
    loaded = loaded_after("import bequest; bequest.BequestError; dir(bequest)")
    assert not loaded & (HEAVY | {"numpy"})


def test_every_help_is_light() -> None:
    assert not loaded_after(help_of()) & (HEAVY | {"numpy", "jsonargparse"})
    assert {"inherit", "grow", "lineage"} <= set(COMMANDS)
    for name in COMMANDS:
        assert not loaded_after(help_of(name)) & HEAVY, name
