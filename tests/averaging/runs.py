"""Small training runs on the disk, in the forms that programs leave them, and their exact averages."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

State = dict[str, torch.Tensor]

TINY = LlamaConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
    tie_word_embeddings=True,
)
STEPS = (100, 200, 300, 400, 500, 600)


def model(step: int, dtype: torch.dtype = torch.float32, **settings: Any) -> LlamaForCausalLM:
    """A tiny model whose every weight depends on the step."""
    config = LlamaConfig(**{**TINY.to_dict(), **settings})
    made = LlamaForCausalLM(config)
    for name, tensor in made.named_parameters():
        generator = torch.Generator().manual_seed(step * 7919 + zlib.crc32(name.encode()))
        with torch.no_grad():
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return made.to(dtype)


def state_of(step: int, dtype: torch.dtype = torch.float32) -> State:
    """The tiny model's tensors as `save_pretrained` names them."""
    state = {k: v.detach() for k, v in model(step, dtype).state_dict().items()}
    state.pop("lm_head.weight")
    return state


def write_model(folder: Path, step: int, dtype: torch.dtype = torch.float32, **save: Any) -> None:
    """A transformers folder, as `save_pretrained` writes it."""
    model(step, dtype).save_pretrained(folder, **save)


def write_trainer_run(run: Path, steps: Iterable[int] = STEPS, **save: Any) -> Path:
    """A run of Trainer: the model, its state, and an optimizer's file in each checkpoint."""
    for step in steps:
        write_trainer_checkpoint(run, step, **save)
    return run


def write_trainer_checkpoint(run: Path, step: int, **save: Any) -> Path:
    """One checkpoint in the order in which Trainer writes it."""
    folder = run / f"checkpoint-{step}"
    write_model(folder, step, **save)
    (folder / "training_args.bin").write_bytes(b"")
    torch.save({"step": step}, folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text(
        json.dumps({"global_step": step, "max_steps": STEPS[-1]})
    )
    return folder


def write_state_dicts(
    run: Path, name: Callable[[int], str], steps: Iterable[int] = STEPS, prefix: str = ""
) -> Path:
    """A run of a program of one's own: bare state dicts, `.safetensors` or PyTorch's."""
    run.mkdir(parents=True, exist_ok=True)
    for step in steps:
        state = {prefix + key: value for key, value in state_of(step).items()}
        path = run / name(step)
        if path.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save(state, path)
    return run


def exact_average(states: Iterable[Mapping[str, Any]], vector: Iterable[float]) -> dict[str, Any]:
    """The average in float64, summed one after the other, whole tensors at a time."""
    total: dict[str, NDArray[np.float64]] = {}
    for state, coefficient in zip(states, vector, strict=True):
        for name, tensor in state.items():
            term = tensor.to(torch.float64).numpy() * float(coefficient)
            total[name] = total[name] + term if name in total else term
    return total


def rounded(values: NDArray[np.float64], dtype: torch.dtype) -> torch.Tensor:
    """Round float64 once, to nearest-even, by the definition."""
    bits, least = {
        torch.float64: (53, -1021),
        torch.float32: (24, -125),
        torch.float16: (11, -13),
        torch.bfloat16: (8, -125),
    }[dtype]
    exponent = np.maximum(np.frexp(values)[1], least) - bits
    nearest = np.ldexp(np.rint(np.ldexp(values, -exponent)), exponent)
    return torch.from_numpy(nearest).to(dtype)


def read(folder: Path) -> State:
    """All tensors of a folder's safetensors files."""
    state: State = {}
    for file in sorted(folder.glob("*.safetensors")):
        part = load_file(file)
        assert not part.keys() & state.keys()
        state |= part
    return state


def same_bits(found: State, expected: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Hold a state to an exact average, in every bit."""
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == dtype, name
        wanted = rounded(expected[name], dtype)
        assert torch.equal(tensor.view(torch.uint8), wanted.view(torch.uint8)), name
