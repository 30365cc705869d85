"""What a cut or grown checkpoint is held to, whatever its architecture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from zoo import reference
from zoo.raw import Raw, read_folder
from zoo.specimen import Specimen

DEPTH_FIELDS = {
    "num_hidden_layers",
    "n_layer",
    "layer_types",
    "max_window_layers",
    "no_rope_layers",
    "no_rope_layer_interval",
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "mlp_only_layers",
    "decoder_sparse_step",
    "first_k_dense_replace",
    "num_nextn_predict_layers",
    "num_mtp_layers",
}
"""The only fields of a configuration that a change of depth may touch."""
BOOKKEEPING = {"_name_or_path", "transformers_version", "dtype", "architectures"}


def load_whole(folder: Path) -> PreTrainedModel:
    """Load a folder and hold the loader's report to be empty."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert {kind: found for kind, found in report.items() if found} == {}
    return model.eval()


def cut_tensors(specimen: Specimen, source: Path, selection: Sequence[int]) -> dict[str, Raw]:
    """The tensors a cut must hold: chosen blocks renumbered, what is no block as it was."""
    expected = {}
    slots = {index: slot for slot, index in enumerate(selection)}
    pattern = re.compile(re.escape(specimen.blocks) + r"(\d+)\.(.*)")
    for key, raw in read_folder(source).items():
        match = pattern.fullmatch(key)
        if match is None:
            expected[key] = raw
        elif int(match[1]) in slots:
            expected[f"{specimen.blocks}{slots[int(match[1])]}.{match[2]}"] = raw
    return expected


def assert_tensors(
    found: Mapping[str, Raw], expected: Mapping[str, Raw], specimen: Specimen
) -> None:
    """Hold two sets of tensors equal, byte for byte; only what no model reads may be left out."""
    assert found.keys() <= expected.keys()
    left_out = expected.keys() - found.keys()
    assert [
        key for key in sorted(left_out) if not key.endswith(specimen.disposable or ("\0",))
    ] == []
    assert [key for key in sorted(found) if found[key] != expected[key]] == []


def assert_config(folder: Path, source: Path, selection: Sequence[int]) -> None:
    """Hold the configuration to its depth, its per-layer lists, and to nothing else changed."""
    before, after = AutoConfig.from_pretrained(source), AutoConfig.from_pretrained(folder)
    assert after.num_hidden_layers == len(selection)
    for field in ("layer_types", "no_rope_layers"):
        if getattr(before, field, None) is not None:
            assert getattr(after, field) == [getattr(before, field)[index] for index in selection]
    assert _rest(after.to_dict()) == _rest(before.to_dict())


def _rest(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in DEPTH_FIELDS | BOOKKEEPING}


def assert_behaves(model: PreTrainedModel, by_hand: PreTrainedModel) -> None:
    """Hold logits and greedy generation equal, bit for bit."""
    assert torch.equal(reference.logits(model), reference.logits(by_hand))
    assert torch.equal(reference.greedy(model), reference.greedy(by_hand))
