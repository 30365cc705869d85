"""The student's rivals: each begins as it is said to, and stands in the same table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from bequest.checkpoints.lineage import read_lineage
from bequest.cli.main import main
from bequest.errors import InputError
from bequest.inheritance.half_width import half_width
from bequest.inheritance.stack import stack
from bequest.training import inheritune_stage
from bequest.training.inheritune import InherituneResult, run_inheritune
from bequest.training.inheritune_config import BASELINES
from bequest.training.inheritune_stop import paired_gap
from training.tiny_inheritune import STEPS, plan, settings, weights, write_reference

TOKENS = STEPS * 2 * 16
"""Of a round."""
KEPT: dict[str, Any] = {"keep_checkpoints": True}
"""Whoever runs in the shared folder keeps what the other tests read there, in whatever order."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reference(tmp_path_factory.mktemp("baselines"))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("all") / "out"


@pytest.fixture(scope="module")
def result(given: Path, out: Path) -> InherituneResult:
    return run_inheritune(plan(given, out, max_rounds=1, baselines=BASELINES, **KEPT))


def place(out: Path, name: str) -> Path:
    return out / "baselines" / "02-blocks" / name


def test_inherited_rivals_begin_with_other_blocks(
    result: InherituneResult, given: Path, out: Path
) -> None:
    reference = weights(given / "reference")
    for name, blocks in (("last-blocks", (2, 3)), ("every-other", (0, 2))):
        start = weights(place(out, name) / "start")
        for key, tensor in start.items():
            for new, old in enumerate(blocks):
                key = key.replace(f"layers.{new}.", f"layers.-{old}.")
            assert torch.equal(tensor, reference[key.replace("layers.-", "layers.")]), key
        assert len(start) == len(weights(out / "round-01" / "start"))


def test_scratch_is_the_students_shape_drawn_from_the_seed(
    result: InherituneResult, given: Path, out: Path
) -> None:
    student = LlamaForCausalLM.from_pretrained(out / "round-01" / "model")
    for name, times in (("scratch", 1), ("scratch-2x", 2)):
        done = next(one for one in result.baselines if one.name == name)
        model = LlamaForCausalLM.from_pretrained(done.folder)
        shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
        assert shapes == {key: tensor.shape for key, tensor in student.state_dict().items()}
        assert done.tokens == times * TOKENS
        record = read_lineage(done.folder)
        assert record["settings"]["steps"] == times * STEPS and record["inputs"] == []
        log = json.loads(
            (
                done.folder.with_name("model.run")
                / f"checkpoint-{times * STEPS}"
                / "trainer_state.json"
            ).read_text()
        )["log_history"]
        # Drawn anew, it knows nothing: its first loss is that of a uniform guess.
        assert log[0]["loss"] == pytest.approx(np.log(270), abs=0.1)


def test_stacking_trains_half_and_doubles_it(
    result: InherituneResult, given: Path, out: Path
) -> None:
    folder = place(out, "stacking")
    few, start = weights(folder / "few" / "model"), weights(folder / "start")
    for key, tensor in start.items():
        assert torch.equal(tensor, few[key.replace("layers.1.", "layers.0.")]), key
    assert len(start) == len(few) + sum("layers.0." in key for key in few)
    done = next(one for one in result.baselines if one.name == "stacking")
    assert done.tokens == 2 * TOKENS and done.depth == 2
    assert read_lineage(folder / "start")["settings"]["source_blocks"] == [0, 0]


def test_half_width_has_the_first_head_and_half_of_the_neurons(
    result: InherituneResult, given: Path, out: Path
) -> None:
    """The narrow model against the whole one with everything beyond the first half silenced."""
    start = AutoModelForCausalLM.from_pretrained(place(out, "half-width") / "start").double()
    assert start.config.num_hidden_layers == 4 and start.config.hidden_size == 8
    assert start.config.num_attention_heads == 1 and start.config.head_dim == 8
    whole = AutoModelForCausalLM.from_pretrained(given / "reference").double()
    with torch.no_grad():
        whole.model.embed_tokens.weight[:, 8:] = 0
        for block in whole.model.layers:
            block.self_attn.o_proj.weight[8:] = 0
            block.self_attn.o_proj.weight[:, 8:] = 0
            block.mlp.down_proj.weight[8:] = 0
            block.mlp.down_proj.weight[:, 16:] = 0
        # The norm divides by the mean over all dimensions, half of which are 0 here.
        for module in whole.modules():
            if type(module).__name__ == "LlamaRMSNorm":
                module.weight /= 2**0.5
                module.variance_epsilon /= 2
    ids = torch.arange(12)[None]
    torch.testing.assert_close(start(ids).logits, whole(ids).logits)


def test_the_table_pairs_each_with_reference_and_student(
    result: InherituneResult, out: Path
) -> None:
    assert [one.name for one in result.baselines] == list(BASELINES)
    student = result.rounds[-1].losses["trained"]
    for one in result.baselines:
        own = one.losses["trained"]
        assert one.gap == paired_gap(own, result.reference)
        assert one.gap_to_student == paired_gap(own, student)
        assert one.gap_to_student.mean == pytest.approx(own.loss - student.loss, abs=1e-6)
    (table, *_) = json.loads((out / "results.json").read_text())["sections"]
    assert table == {"title": "Rounds", "type": "table", "data": result.sections[0].data}
    columns, rows = table["data"]["columns"], table["data"]["rows"]
    assert [row[0] for row in rows] == ["reference", "round 1", *BASELINES]
    assert columns[-3:] == ["gap to the student", "low", "high"]
    assert [row[-3] for row in rows[:2]] == [None, 0.0]
    for row, one in zip(rows[2:], result.baselines, strict=True):
        gap = one.gap_to_student
        assert row[1:4:2] == [one.depth, one.tokens] and row[-3:] == [gap.mean, gap.low, gap.high]
    assert (
        rows[1][2]
        == rows[2][2]
        == sum(t.numel() for t in weights(out / "round-01" / "model").values())
    )


def test_run_again_it_reads_what_is_there_and_adds_what_is_asked_for(
    result: InherituneResult, given: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr(inheritune_stage, "run_pretrain", never)
    names = ("half-width", "scratch")
    again = run_inheritune(plan(given, out, max_rounds=1, baselines=names, **KEPT))
    by_name = {one.name: one.gap_to_student for one in result.baselines}
    assert [one.gap_to_student for one in again.baselines] == [by_name[name] for name in names]


@pytest.mark.parametrize("death", [1, 2, 3, 4])
def test_broken_off_in_a_baseline_it_ends_with_the_same_bytes(
    death: int, result: InherituneResult, given: Path, out: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It dies after the few blocks' shape, their training, the stack, and in the last training."""
    from bequest.training.pretrain_trainer import PretrainTrainer

    def dying(real: Any, call: int) -> Any:
        calls = []

        def die(*arguments: Any, **named: Any) -> Any:
            made = real(*arguments, **named)
            calls.append(1)
            if len(calls) == call:
                raise KeyboardInterrupt
            return made

        return die

    if death in (1, 3):
        real = inheritune_stage.write_start
        monkeypatch.setattr(inheritune_stage, "write_start", dying(real, 2 if death == 1 else 3))
    elif death == 2:
        monkeypatch.setattr(
            inheritune_stage, "run_pretrain", dying(inheritune_stage.run_pretrain, 2)
        )
    else:
        step = PretrainTrainer.training_step
        monkeypatch.setattr(PretrainTrainer, "training_step", dying(step, 2 * STEPS + 3))
    with pytest.raises(KeyboardInterrupt):
        run_inheritune(plan(given, tmp_path / "out", max_rounds=1, baselines=("stacking",)))
    monkeypatch.undo()
    done = run_inheritune(plan(given, tmp_path / "out", max_rounds=1, baselines=("stacking",)))
    (one,) = done.baselines
    whole = place(out, "stacking") / "model" / "model.safetensors"
    assert (one.folder / "model.safetensors").read_bytes() == whole.read_bytes()


def test_a_padded_vocabulary_stays(tmp_path: Path) -> None:
    given = write_reference(tmp_path, vocab_size=288)
    changes = {"max_rounds": 1, "baselines": ("scratch",), "steps_per_round": 1}
    done = run_inheritune(plan(given, tmp_path / "out", **changes))
    model = load_file(done.baselines[0].folder / "model.safetensors")
    assert model["model.embed_tokens.weight"].shape == (288, 16)


def test_stacking_by_epochs_and_an_odd_depth(given: Path, tmp_path: Path) -> None:
    """Three blocks are two, and the first of them again."""
    torch.manual_seed(1)
    few = LlamaForCausalLM.from_pretrained(given / "reference")
    few.model.layers = few.model.layers[:2]
    few.config.num_hidden_layers = 2
    few.config.layer_types = None
    few.save_pretrained(tmp_path / "few")
    made = stack(tmp_path / "few", given / "reference", tmp_path / "deep", layers=3)
    assert made.source_blocks == (0, 1, 0)
    deep = LlamaForCausalLM.from_pretrained(tmp_path / "deep")
    assert torch.equal(
        deep.model.layers[2].mlp.up_proj.weight, few.model.layers[0].mlp.up_proj.weight
    )
    training = {"per_device_train_batch_size": 2, "num_train_epochs": 1.5}
    planned = plan(
        given, tmp_path / "out", steps_per_round=None, baselines=("scratch-2x",),
        pretrain={"training": training},
    )  # fmt: skip
    from bequest.training.inheritune_baselines import baseline_stages

    (stage,) = baseline_stages(planned.config, "scratch-2x", 2, 4)
    assert planned.settings(stage).training["num_train_epochs"] == 3.0


def test_half_of_gpt2_whose_projections_are_fused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=16, n_head=4, n_layer=2, n_positions=32)
    whole = GPT2LMHeadModel(config)
    whole.save_pretrained(tmp_path / "whole")
    half_width(tmp_path / "whole", tmp_path / "half")
    half = GPT2LMHeadModel.from_pretrained(tmp_path / "half")
    assert (half.config.n_embd, half.config.n_head) == (8, 2)
    query, key, value = whole.transformer.h[1].attn.c_attn.weight.split(16, dim=1)
    wanted = torch.cat([part[:8, :8] for part in (query, key, value)], dim=1)
    assert torch.equal(half.transformer.h[1].attn.c_attn.weight, wanted)
    assert torch.equal(half.transformer.wpe.weight, whole.transformer.wpe.weight[:, :8])
    assert torch.equal(half.lm_head.weight, whole.lm_head.weight[:, :8])


@pytest.mark.parametrize(
    ("shape", "names", "found"),
    [
        ({}, ("scratch", "smaller"), "baselines has 'smaller'; choose among scratch"),
        ({}, ("scratch", "scratch"), "baselines has scratch twice"),
        (
            {"num_attention_heads": 1, "head_dim": 8},
            ("half-width",),
            "num_attention_heads 1, which",
        ),
        (
            {"layer_types": ["sliding_attention", *["full_attention"] * 3], "sliding_window": 8},
            ("stacking",),
            "baselines has stacking, which this reference cannot have",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_a_file_is_made(
    shape: dict[str, Any], names: tuple[str, ...], found: str, tmp_path: Path
) -> None:
    if "layer_types" in shape:
        from transformers import Qwen3Config, Qwen3ForCausalLM

        from training.tiny_inheritune import SHAPE

        write_reference(tmp_path)
        config = Qwen3Config(**SHAPE | shape, head_dim=8, use_sliding_window=True)
        Qwen3ForCausalLM(config).save_pretrained(tmp_path / "reference")
    else:
        write_reference(tmp_path, **shape)
    with pytest.raises(InputError, match=found):
        plan(tmp_path, tmp_path / "out", baselines=names)
    assert not (tmp_path / "out").exists()


def test_as_a_command(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.yaml"
    rivals = ["every-other", "half-width"]
    changes = {"max_rounds": 1, "baselines": rivals, "steps_per_round": 1}
    config.write_text(yaml.safe_dump(settings(given, tmp_path / "out", **changes)))
    assert main(["inheritune", "--config", str(config)]) == 0
    told = capsys.readouterr()
    assert "every-other: 2 blocks" in told.out and "gap to the student" in told.out
    # Nor do bars of the library's own stand between them.
    assert "half-width: 4 blocks" in told.out and "Writing" not in told.err
    assert main(["inheritune", "--config", str(config), "--baselines", "widest"]) == 2
    assert "widest" in capsys.readouterr().err
