"""`bequest average` as a user runs it: its words, its exit codes, and what every end leaves."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from averaging import runs
from bequest.averaging.coefficients import coefficient_vector
from bequest.results import results_document
from evaluation.test_bits_per_byte import TEXTS, byte_tokenizer
from zoo.command import Outcome, environment, mounted, run, run_warm

NEW, OLD = (400, 500, 600), (200, 300)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = runs.write_trainer_run(tmp_path_factory.mktemp("command") / "run")
    for checkpoint in folder.iterdir():
        byte_tokenizer(258).save_pretrained(checkpoint)
    return folder


def hold_to_reference(folder: Path, steps: tuple[int, ...]) -> None:
    vector = coefficient_vector("uniform", len(steps))
    exact = runs.exact_average(map(runs.state_of, steps), vector)
    runs.same_bits(runs.read(folder), exact, torch.float32)


def assert_refused(outcome: Outcome, code: int) -> None:
    assert outcome.code == code, outcome
    assert outcome.stdout == ""
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert outcome.stderr.startswith("bequest average: error: ")
    assert "Traceback" not in outcome.stderr


def test_it_averages_and_says_what_it_did(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = run("average", trained, out, "--window", 3, "--spacing", 100)
    assert (outcome.code, outcome.stderr) == (0, "")
    for step in NEW:
        assert f"checkpoint-{step}" in outcome.stdout
    hold_to_reference(out, NEW)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_torch_is_imported(trained: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from bequest.cli.main import main\n"
        f"assert main(['average', {str(trained)!r}, {str(tmp_path / 'out')!r}]) == 0\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


def test_other_words(trained: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    place = tmp_path / "place"
    place.mkdir()
    quiet = run_warm("average", trained, place / "a", "--quiet", log=log)
    assert (quiet.code, quiet.stdout, quiet.stderr) == (0, "", "")
    told = run_warm("average", trained, place / "b", "--json", log=log)
    assert told.code == 0
    document = json.loads(told.stdout)
    assert document.keys() == results_document("command", []).keys()
    dry = run_warm("average", trained, place / "c", "--dry-run", "--verify", log=log)
    assert dry.code == 0, dry
    assert "model.safetensors" in dry.stdout
    assert sorted(path.name for path in place.iterdir()) == ["a", "b"]
    (tmp_path / "average.yaml").write_text(
        f"sources: [{trained}]\nout: {place / 'd'}\nwindow: 2\ncoefficients: linear\n"
    )
    configured = run_warm("average", "--config", tmp_path / "average.yaml", "--window", 3, log=log)
    assert configured.code == 0, configured
    settings = json.loads((place / "d" / "bequest.json").read_text())["settings"]
    assert settings["steps"] == list(NEW)
    assert settings["coefficients"] == "linear"


def test_explicit_checkpoints(trained: Path, tmp_path: Path) -> None:
    paths = [trained / f"checkpoint-{step}" for step in (100, 600)]
    outcome = run_warm("average", *paths, tmp_path / "out", log=tmp_path / "log")
    assert outcome.code == 0, outcome
    hold_to_reference(tmp_path / "out", (100, 600))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--window", "7"],
        ["--window", "two"],
        ["--window", "0"],
        ["--window", "3", "--spacing", "30"],
        ["--end", "601"],
        ["--coefficients", "0.5,0.6"],
        ["--blend", "2"],
        ["--exclude", "("],
        ["--dtype", "float8"],
        ["--repo", "some/one"],
        ["--revisions", "step1"],
        ["--config-from", "nowhere"],
        ["--max-shard-size", "5 bananas"],
        ["--no-such-flag"],
        ["--config", "nowhere.yaml"],
        ["--texts", "held_out.jsonl"],
        ["--discard"],
        ["--windows", "2,3"],
        ["--keep", "2"],
        ["--sliding", "--search"],
        ["--sliding", "--texts", "nowhere.jsonl"],
        ["--sliding", "--discard"],
        ["--sliding", "--discard", "--dry-run"],
        ["--search", "--dry-run"],
        ["--follow", "--poll", "0", "--dry-run"],
        ["--search"],
        ["--follow", "--poll", "0"],
        ["--follow", "--keep", "0"],
    ],
    ids=" ".join,
)
def test_bad_arguments(arguments: list[str], trained: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    outcome = run_warm("average", trained, place / "out", *arguments, log=tmp_path / "log")
    assert outcome.code == 2, outcome
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("mode", ["sliding", "search", "follow"])
def test_a_dry_run_of_every_mode(mode: str, trained: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    texts = tmp_path / "texts.txt"
    texts.write_text("Some text.")
    words = [trained, place / "out", f"--{mode}", "--dry-run"]
    words += ["--texts", texts] if mode == "search" else ["--window", "2"]
    told = run_warm("average", *words, log=tmp_path / "log")
    assert (told.code, told.stderr) == (0, ""), told
    assert "500, 600" in told.stdout
    assert "bytes to read" in told.stdout
    assert "Nothing was written: dry run." in told.stdout
    document = json.loads(run_warm("average", *words, "--json", log=tmp_path / "log").stdout)
    assert [section["title"] for section in document["sections"]] == ["averages", "what it takes"]
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["run"], ["missing", "out"]])
def test_bad_places(arguments: list[str], tmp_path: Path) -> None:
    outcome = run_warm("average", *arguments, log=tmp_path / "log")
    assert_refused(outcome, 2)


def test_memory_does_not_grow_with_the_checkpoints(tmp_path: Path) -> None:
    """Five members of 200 MB within an address space that holds not one of them."""
    weights = {f"w{n}": np.full((1000, 5000), 0.5, np.float32) for n in range(10)}
    for step in range(5):
        (tmp_path / f"step{step}").mkdir()
        if step:
            source = tmp_path / "step0" / "model.safetensors"
            os.link(source, tmp_path / f"step{step}" / "model.safetensors")
        else:
            save_file(weights, tmp_path / "step0" / "model.safetensors")
    del weights

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (150 << 20, 150 << 20))

    outcome = run(
        "average",
        tmp_path,
        tmp_path / "out",
        env=environment() | {"OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=limited,
    )
    assert outcome.code == 0, outcome
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert name.startswith("w")
        assert (tensor == 0.5).all()


@pytest.mark.parametrize("size", ["16k", "30k"])
def test_a_full_disk(size: str, trained: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={size}", "tmpfs") as disk:
        outcome = run_warm("average", trained, disk / "out", log=tmp_path / "log")
        assert_refused(outcome, 1)
        assert "space" in outcome.stderr
        assert list(disk.iterdir()) == []


def _average(
    trained: Path, place: Path, log: Path, *flags: str, moment: int | None = None
) -> Outcome:
    flags = ("--window", "3", "--max-shard-size", "20KB", *flags)
    return run_warm("average", trained, place / "out", *flags, log=log, moment=moment)


@pytest.mark.parametrize("overwrite", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_at_any_moment(overwrite: bool, trained: Path, tmp_path: Path) -> None:
    """What stands at the target is the old average, none, or the new one, and it is whole."""
    old, log = tmp_path / "old", tmp_path / "log"
    flags = ["--overwrite"] if overwrite else []
    if overwrite:
        assert run_warm("average", trained, old, "--end=300", "--window=2", log=log).code == 0
    (tmp_path / "counted").mkdir()
    if overwrite:
        shutil.copytree(old, tmp_path / "counted" / "out")
    assert _average(trained, tmp_path / "counted", log, *flags).code == 0
    kinds = [line.split()[0] for line in (log / "moments").read_text().splitlines()]
    moments = [n for n, kind in enumerate(kinds) if kind != kinds[n - 1]]

    def killed(moment: int) -> bool:
        place = tmp_path / str(moment)
        place.mkdir()
        if overwrite:
            shutil.copytree(old, place / "out")
        ended = _average(trained, place, tmp_path / f"log{moment}", *flags, moment=moment)
        # Threads take turns as they like: the count of calls may end before the moment.
        assert ended.code in (-9, 0)
        is_new = (place / "out").exists() and (place / "out" / "results.json").exists()
        if is_new:
            steps = json.loads((place / "out" / "bequest.json").read_text())["settings"]["steps"]
            is_new = steps == list(NEW)
            hold_to_reference(place / "out", NEW if is_new else OLD)
        else:
            assert not overwrite
            assert not (place / "out").exists()
        assert _average(trained, place, tmp_path / f"log{moment}", "--overwrite").code == 0
        assert [path.name for path in place.iterdir()] == ["out"]
        return is_new

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(killed, moments)) == {True, False}


def test_along_a_run_on_held_out_text(trained: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    # The tiny model has 64 tokens, the byte tokenizer 258: give the run a model that fits it.
    run_folder = tmp_path / "run"
    for step in (1, 2, 3):
        folder = run_folder / f"step{step}"
        runs.model(step, vocab_size=258, max_position_embeddings=8192).save_pretrained(folder)
        byte_tokenizer(258).save_pretrained(folder)
    slid = run(
        "average",
        run_folder,
        tmp_path / "slid",
        "--sliding",
        "--window",
        2,
        "--texts",
        texts,
        "--discard",
    )
    assert (slid.code, slid.stderr) == (0, ""), slid
    sections = json.loads((tmp_path / "slid" / "results.json").read_text())["sections"]
    raw, averaged = sections[1]["data"]["series"]
    assert raw["x"] == averaged["x"] == [2, 3]
    # Averages of unrelated random weights are closer to nothing: to log2(258) bits a byte.
    assert all(a < r for a, r in zip(averaged["y"], raw["y"], strict=True))
    found = run("average", run_folder, tmp_path / "best", "--search", "--texts", texts)
    assert (found.code, found.stderr) == (0, ""), found
    settings = json.loads((tmp_path / "best" / "bequest.json").read_text())["settings"]
    rows = json.loads((tmp_path / "best" / "results.json").read_text())["sections"][2]["data"][
        "rows"
    ]
    assert len(rows) == 4  # windows of 1, 2 (two spacings) and 3
    assert ", ".join(map(str, settings["steps"])) == min(rows, key=lambda row: row[3])[2]
