"""`bequest diagnose` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import bequest
from bequest.cli.main import main
from bequest.errors import InputError
from bequest.inheritance import diagnose, diagnose_measure
from bequest.inheritance.diagnose_plan import cut_sequences
from evaluation.test_bits_per_byte import byte_tokenizer

TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.4,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"{i} {TEXT}"}) + "\n" for i in range(6)))
    return file


SMALL = ["--sequences", "5", "--length", "20", "--sequences-per-batch", "2"]


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["diagnose", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_it_diagnoses_and_says_what_it_saw(
    model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [model, "--texts", texts, "--out", tmp_path / "out", *SMALL]
    more = ["--leave-one-out", "--leave-one-out-sequences", "3"]
    code, told, err = run(*words, *more, capsys=capsys)
    assert (code, err) == (0, "")
    for said in ("about", "MaxRank", "LlamaAttention", "loss increase", "proposed depth", "out in"):
        assert said in told
    left = json.loads((tmp_path / "out" / "results.json").read_text())
    kinds = [section["type"] for section in left["sections"]]
    assert kinds == ["table"] * 2 + ["heatmap"] * 4 + ["lines"] * 3 + ["table"]
    rank = left["sections"][2]["data"]
    assert (len(rank["x"]), len(rank["y"])) == (4, 3), "heads x blocks"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]

    code, _, err = run(*words, capsys=capsys)
    assert code == 2 and "--overwrite" in err
    code, told, _ = run(*words, *more, "--overwrite", "--json", capsys=capsys)
    assert code == 0 and json.loads(told)["sections"][:-1] == left["sections"][:-1]


def test_a_dry_run_writes_nothing(
    model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [model, "--texts", texts, "--out", tmp_path / "out", *SMALL, "--dry-run"]
    code, told, _ = run(*words, capsys=capsys)
    assert code == 0 and "estimated time" in told and not (tmp_path / "out").exists()


def test_an_interrupted_run_goes_on(
    model: Path,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [model, "--texts", texts, *SMALL, "--quiet"]
    real, calls = diagnose_measure.measure, []

    def stop_at_third(*args: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(diagnose_measure, "measure", stop_at_third)
    code, _, err = run(*words, "--out", tmp_path / "out", capsys=capsys)
    assert code == 130 and "goes on from here" in err
    assert not (tmp_path / "out" / "results.json").exists()
    assert run(*words, "--out", tmp_path / "out", capsys=capsys)[0] == 0
    assert len(calls) == 4, "two batches were kept, the third and last was measured again"
    monkeypatch.undo()
    assert run(*words, "--out", tmp_path / "whole", capsys=capsys)[0] == 0
    one, other = (
        json.loads((tmp_path / name / "results.json").read_text())["sections"]
        for name in ("out", "whole")
    )
    # All but the seconds.
    assert one[:-1] == other[:-1]


def test_interrupted_it_goes_on_with_the_loss_of_more_sequences(
    model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the batches of fewer sequences gave is not taken for those of more."""
    words = [model, "--texts", texts, *SMALL, "--quiet", "--leave-one-out"]
    few = [*words, "--leave-one-out-sequences", 3, "--out", tmp_path / "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnose, "write_results", interrupt)
        assert run(*few, capsys=capsys)[0] == 130
    more = [*words, "--leave-one-out-sequences", 5]
    assert run(*more, "--out", tmp_path / "out", capsys=capsys)[0] == 0
    assert run(*more, "--out", tmp_path / "whole", capsys=capsys)[0] == 0
    one, other = (
        json.loads((tmp_path / name / "results.json").read_text())["sections"]
        for name in ("out", "whole")
    )
    lines = [section for section in one if section["type"] == "lines"]
    assert any("loss" in section["data"]["y_label"] for section in lines)
    assert lines == [section for section in other if section["type"] == "lines"]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--length", "12"], "length is 12"),
        (["--length", "129"], "128 positions"),
        (["--length", "120", "--sequences", "50"], "sequences of 120 tokens, and 50 are asked"),
        (["--threshold", "1"], "threshold is 1.0"),
        (["--sequences", "0"], "sequences is 0"),
        (["--dtype", "int8"], "dtype is 'int8'"),
        (["--leave-one-out"], "leave_one_out_sequences is 20, but there are 5"),
        (["--revision", "main"], "revision"),
        (["--heads", "3"], "--heads"),
    ],
)
def test_wrong_use_is_one_line(
    words: list[str],
    found: str,
    model: Path,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        given = [model, "--texts", texts, "--out", tmp_path / "out", *SMALL, *words]
        code, _, err = run(*given, capsys=capsys)
    except SystemExit as ended:
        code, err = int(ended.code or 0), capsys.readouterr().err
    assert code == 2 and found in err
    assert not (tmp_path / "out").exists()


def test_wrong_folders_are_one_line(
    model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", tmp_path / "out"]
    for words, found in [
        ([tmp_path / "none", "--texts", texts, *out], "does not exist"),
        ([tmp_path, "--texts", texts, *out], "cannot be read"),
        ([model, "--texts", tmp_path / "none.jsonl", *out], "none.jsonl"),
        ([model, "--texts", texts], "out is missing"),
        ([model, *out], "texts is missing"),
        ([model, "--texts", texts, "--out", texts], "cannot be written"),
    ]:
        code, _, err = run(*words, capsys=capsys)
        assert code == 2 and found in err and err.count("\n") == 1, err


def test_weights_that_are_missing_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="random weights"):
        bequest.diagnose(broken, [TEXT] * 5, sequences=5, length=20)


def test_from_python(model: Path) -> None:
    diagnosis = bequest.diagnose(
        model, [TEXT] * 5, sequences=5, length=20, leave_one_out=True, leave_one_out_sequences=2
    )
    assert diagnosis.num_layers == 3 and diagnosis.skipped == ()
    assert diagnosis.rank(0).shape == (4,) and diagnosis.losses is not None
    assert diagnosis.losses.shape == (4, 2)
    assert diagnosis.proposal[0] >= 2


def test_sequences_are_cut_from_the_beginnings_first() -> None:
    tokenizer = byte_tokenizer()
    texts = ["short", "also short", "a" * 100, "b" * 30]
    one, two, three = cut_sequences(tokenizer, texts, 3, 20)
    decoded = tokenizer.decode(one)
    assert decoded.startswith("short\n\nalso short")
    assert set(tokenizer.decode(two)) == {"b"} and set(tokenizer.decode(three)) == {"a"}
    with pytest.raises(InputError, match="one str"):
        cut_sequences(tokenizer, "text", 1, 20)
