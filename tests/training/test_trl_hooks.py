"""The installed TRL and transformers have every hook that FlowTrainer overrides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trl import SFTTrainer

from bequest.errors import InputError
from bequest.training import trl_hooks
from bequest.training.token_weights import WeighedModel
from tests.training.sft_runs import samples, trained


def test_every_hook_is_there() -> None:
    assert trl_hooks.missing_hooks() == []
    trl_hooks.check_hooks()


def test_a_hook_that_is_gone_or_takes_other_arguments_is_named() -> None:
    methods = {(SFTTrainer, "_gone"): (), (SFTTrainer, "compute_loss"): ("model", "batch")}
    assert trl_hooks.missing_hooks(methods, {SFTTrainer: ("no_such_name_anywhere",)}) == [
        "SFTTrainer._gone()",
        "SFTTrainer.compute_loss(model, batch)",
        "SFTTrainer: no_such_name_anywhere",
    ]


def test_a_trainer_is_refused_when_a_hook_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(SFTTrainer, "_set_signature_columns_if_needed")
    with pytest.raises(InputError, match=r"_set_signature_columns_if_needed\(\).*install 'trl"):
        trained(tmp_path)


def test_a_loss_that_goes_around_the_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def around(self: SFTTrainer, model: WeighedModel, inputs: object, *_: object) -> torch.Tensor:
        return model._model(**inputs, fused_lm_head=True).loss

    run = trained(tmp_path, data=samples())
    monkeypatch.setattr(SFTTrainer, "compute_loss", around)
    with pytest.raises(InputError, match="ran the model 0 times"):
        run.train()
