"""Where FlowTrainer's weights come from: score tables, arrays, columns, or the model itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, get_peft_model

from bequest.errors import InputError
from bequest.training.flow_trainer import FlowTrainer
from bequest.training.score import score
from bequest.weighting.score_file import ScoreTable, write_scores
from tests.training.sft_runs import (
    config,
    gap,
    losses,
    parameters,
    same_bits,
    samples,
    tiny_model,
    tokenizer,
    trained,
)

MASKED = Dataset.from_dict({"input_ids": [[5, 6]] * 2, "labels": [[-100, -100]] * 2})


def made(folder: Path, model: Any = None, data: Any = None, **options: Any) -> FlowTrainer:
    """A trainer that has not trained."""
    args = options.pop("args", {})
    return FlowTrainer(
        tiny_model() if model is None else model,
        config(folder, **args),
        train_dataset=samples() if data is None else data,
        processing_class=tokenizer(),
        **options,
    )


@pytest.fixture
def table(tmp_path: Path) -> ScoreTable:
    scores = made(tmp_path).scores
    assert scores is not None
    return scores


def weight_of_first_tokens(run: FlowTrainer) -> list[float]:
    """Each row's weight, read at its last token."""
    return [own[-1] for own in run.train_dataset["loss_weights"]]


def test_a_score_file_gives_the_weights_of_the_model_itself(
    tmp_path: Path, table: ScoreTable
) -> None:
    file = tmp_path / "scores.parquet"
    backwards = {
        name: getattr(table, name)[::-1]
        for name in ("index", "loss", "num_tokens", "row_hash", "weight")
    }
    reverse = dataclasses.replace(table, **backwards, token_losses=table.token_losses[::-1])
    write_scores(file, reverse)
    for scheme in ("flow", "flow-token", "stm"):
        own = trained(tmp_path, scheme=scheme)
        read = trained(tmp_path, scheme=scheme, scores=file)
        held = trained(tmp_path, scheme=scheme, scores=reverse)
        assert losses(own) == losses(read) == losses(held)
        assert same_bits(parameters(own), parameters(read))


def test_a_file_that_says_how_it_weighs_is_taken_at_its_word(
    tmp_path: Path, table: ScoreTable
) -> None:
    edited = np.arange(1, 9, dtype=np.float32)
    told = dataclasses.replace(
        table, weight=edited, metadata={"scheme": "flow", "temperature": 2.0}
    )
    assert weight_of_first_tokens(made(tmp_path, scores=told)) == edited.tolist()
    again = made(tmp_path, scores=told, temperature=3.0)
    assert weight_of_first_tokens(again) == pytest.approx(np.exp(-table.loss / 3.0))
    tokens = dataclasses.replace(told, metadata={"scheme": "flow-token", "temperature": 2.0})
    wanted = [np.exp(-own[-1] / 2.0) for own in table.token_losses or ()]
    assert weight_of_first_tokens(made(tmp_path, scores=tokens)) == pytest.approx(wanted)


def test_weights_follow_their_rows_through_shuffling_and_dropping(tmp_path: Path) -> None:
    rows = 12
    lengths = [4 + row for row in range(rows)]
    data = Dataset.from_dict(
        {
            "input_ids": [[3 + row] * length for row, length in enumerate(lengths)],
            # The response of the odd rows is beyond what truncation leaves.
            "labels": [
                [-100] * (length if row % 2 else 1) + [3 + row] * (0 if row % 2 else length - 1)
                for row, length in enumerate(lengths)
            ],
        }
    )
    for args in ({}, {"packing": True}, {"packing": True, "packing_strategy": "wrapped"}):
        run = made(
            tmp_path,
            data=data,
            scores=np.arange(rows) + 0.5,
            args={"shuffle_dataset": True, "max_length": 9, **args},
        )
        seen = set()
        for row in run.train_dataset:
            for token, label, weight in zip(
                row["input_ids"], row["labels"], row["loss_weights"], strict=True
            ):
                assert weight == (0.0 if label == -100 else token - 3 + 0.5)
                seen.add(token - 3)
        assert seen >= set(range(0, rows, 2))


def test_text_is_tokenized_truncated_and_scored(tmp_path: Path) -> None:
    data = Dataset.from_dict(
        {
            "prompt": ["w3 w4", "w5", "w6 w7 w8"],
            "completion": [" w9 w10", " w11 w12 w13 w14 w15", " w16"],
        }
    )
    run = made(tmp_path, data=data, args={"max_length": 5})
    assert run.train_dataset["input_ids"][0] == [3, 4, 9, 10, 2]
    assert run.train_dataset["labels"][1] == [-100, 11, 12, 13, 14]
    assert run.scores is not None
    assert run.scores.num_tokens.tolist() == [3, 4, 2]
    wanted = np.exp(-run.scores.loss / np.median(run.scores.loss))
    assert weight_of_first_tokens(run) == pytest.approx(wanted)
    assert [own[0] for own in run.train_dataset["loss_weights"]] == [0, 0, 0]


@pytest.mark.parametrize("wrapped", [False, True])
def test_lora_trains_the_adapter_with_the_weights_of_the_model_under_it(
    tmp_path: Path, wrapped: bool
) -> None:
    lora = LoraConfig(r=4, target_modules="all-linear", exclude_modules=["lm_head"])
    # Not zero at the start: only with the adapter off are these the pre-trained model's losses.
    lora.init_lora_weights = False
    how = {} if wrapped else {"peft_config": lora}

    def model() -> Any:
        return get_peft_model(tiny_model(), lora) if wrapped else tiny_model()

    run = made(tmp_path, model(), **how)
    wanted = made(tmp_path).scores
    assert run.scores is not None and wanted is not None
    assert np.array_equal(run.scores.loss, wanted.loss)
    before = parameters(run)
    run.train()
    after = parameters(run)
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved and all("lora_" in name for name in moved)
    plain = made(tmp_path, model(), scheme="uniform", **how)
    plain.train()
    assert gap(parameters(plain), after) > 1e-4


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_adapters_that_change_the_weights_under_them_need_a_score_file(
    tmp_path: Path, table: ScoreTable, start: str
) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=start)
    with pytest.raises(InputError, match="run `bequest score` first"):
        made(tmp_path, peft_config=lora)
    lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=start)
    assert made(tmp_path, peft_config=lora, scores=table).scores is table


def test_a_row_without_a_score_is_named(tmp_path: Path, table: ScoreTable) -> None:
    more = Dataset.from_dict({"input_ids": [[5, 6, 7]], "labels": [[5, 6, 7]]})
    data = concatenate_datasets([samples().select([0, 1]), more])
    with pytest.raises(InputError, match=r"train_dataset\[2\] and 0 other rows have no score"):
        made(tmp_path, data=data, scores=table)
    with pytest.raises(InputError, match=r"train_dataset\[\d\] and \d other rows have no score"):
        made(tmp_path, scores=table, args={"max_length": 6})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": [1.0] * 7}, "scores holds 7 weights, but train_dataset has 8 rows"),
        ({"scores": [1.0] * 7 + [-1.0]}, r"scores\[7\] is -1.0"),
        ({"scores": [float("nan")] * 8}, r"scores\[0\] is nan"),
        ({"scores": [0.0] * 8}, "no weight above 0"),
        ({"scores": [[1.0]] * 8}, "one weight a row"),
        ({"scores": "nowhere.parquet"}, "nowhere.parquet does not exist"),
        ({"scores": [1.0] * 8, "scheme": "flow"}, "scores holds weights"),
        ({"scores": [1.0] * 8, "scheme": "uniform"}, "uses none"),
        ({"scheme": "none"}, "scheme is 'none'"),
        ({"scheme": "stm", "temperature": 2.0}, "scheme stm has none"),
        ({"scheme": "dft", "temperature": 2.0}, "temperature"),
        ({"temperature": 0}, "temperature is 0"),
        ({"normalizer": "sum"}, "normalizer is 'sum'"),
        ({"scheme": "dft", "normalizer": "weights"}, "not scheme 'dft'"),
        ({"args": {"loss_type": "dft"}}, "loss_type is 'dft'"),
        ({"args": {"label_smoothing_factor": 0.1}}, "label_smoothing_factor"),
        ({"args": {"dataset_kwargs": {"skip_prepare_dataset": True}}}, "does not prepare"),
        ({"args": {"packing": True, "max_length": None}}, "packing needs args.max_length"),
        ({"compute_loss_func": print}, "compute_loss_func"),
        ({"data_collator": list}, "data_collator"),
        ({"data": samples().to_iterable_dataset()}, "IterableDataset"),
        ({"data": samples().add_column("weight", [-1.0] * 8)}, r"train_dataset\['weight'\]\[0\]"),
        ({"data": samples().add_column("weight", [1.0] * 8), "scheme": "flow"}, "column 'weight'"),
        ({"data": samples().add_column("token_weights", [[1.0]] * 8)}, "column 'token_weights'"),
        ({"data": MASKED}, "no response token"),
        ({"args": {"max_length": 1}}, "no finite value"),
    ],
)
def test_what_cannot_be_weighed_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        made(tmp_path, **options)


def test_schemes_of_tokens_need_losses_of_tokens(tmp_path: Path, table: ScoreTable) -> None:
    with pytest.raises(InputError, match="--tokens"):
        made(tmp_path, scheme="stm", scores=dataclasses.replace(table, token_losses=None))


def test_partly_loaded_weights_are_not_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=True)
    monkeypatch.setattr(AcceleratorState, "fsdp_plugin", plugin, raising=False)
    with pytest.raises(InputError, match="cpu_ram_efficient_loading"):
        made(tmp_path)


@pytest.mark.parametrize("scheme", ["flow", "flow-token"])
def test_what_bequest_score_writes_is_what_the_trainer_finds_itself(
    tmp_path: Path, scheme: Any
) -> None:
    tiny_model().save_pretrained(tmp_path / "start")
    tokenizer().save_pretrained(tmp_path / "start")
    data = Dataset.from_dict(
        {
            "prompt": [f"w{3 + row} w{row * 5 % 60 + 3}" for row in range(10)],
            "completion": [
                " ".join(f" w{(row * s) % 60 + 3}" for s in range(9)) for row in range(10)
            ],
        }
    )
    file = tmp_path / "scores.parquet"
    score(tmp_path / "start", data, file, scheme=scheme, max_length=8)
    args = {"max_length": 8, "packing": True}
    read = made(tmp_path, data=data, scores=file, args=args)
    own = made(tmp_path, data=data, scheme=scheme, args=args)
    left, right = read.train_dataset["loss_weights"][:], own.train_dataset["loss_weights"][:]
    assert len(left) == len(right)
    for ours, theirs in zip(left, right, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
