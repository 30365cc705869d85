"""How a checkpoint lies on disk: one file, shards, PyTorch's two `.bin` formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from zoo.specimen import Specimen, State


def write(specimen: Specimen, layout: str, folder: Path) -> None:
    """Build `specimen` and write it to `folder` in the named layout."""
    model = specimen.build()
    # Dropped blocks of a hub's layout are not always what `save_pretrained` would write, so the
    # tensors go through one plain file first.
    model.save_pretrained(folder)
    weights = folder / "model.safetensors"
    state = load_file(weights)
    weights.unlink()
    if specimen.hub_state is not None:
        state = specimen.hub_state(state)
    LAYOUTS[layout](state, folder)
    if specimen.hub_config is not None:
        path = folder / "config.json"
        path.write_text(json.dumps(specimen.hub_config(json.loads(path.read_text())), indent=2))


def _single(state: State, folder: Path) -> None:
    contiguous = {key: value.contiguous() for key, value in state.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})


def _sharded(state: State, folder: Path) -> None:
    """Shards that cut through blocks, with block numbers in no order."""
    names = sorted(state, key=lambda key: key[::-1])
    _shards(state, names, folder, "model", "safetensors", save_file)


def _bin_sharded(state: State, folder: Path) -> None:
    names = list(state)
    _shards(state, names, folder, "pytorch_model", "bin", torch.save)


def _shards(
    state: State,
    names: list[str],
    folder: Path,
    stem: str,
    ending: str,
    save: Callable[..., None],
    count: int = 3,
) -> None:
    weight_map = {}
    for number in range(count):
        file = f"{stem}-{number + 1:05d}-of-{count:05d}.{ending}"
        part = names[number::count]
        weight_map |= dict.fromkeys(part, file)
        save({name: state[name].clone().contiguous() for name in part}, folder / file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    name = f"{stem}.{ending}.index.json"
    (folder / name).write_text(json.dumps(index, indent=2))


def _bin(state: State, folder: Path) -> None:
    torch.save(state, folder / "pytorch_model.bin")


def _bin_legacy(state: State, folder: Path) -> None:
    """From before PyTorch 1.6: pickles in a row, no zip."""
    path = folder / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=False)


def _bin_views(state: State, folder: Path, legacy: bool = False) -> None:
    """Tensors that share a storage: at an offset, transposed, and every matrix with gaps."""
    views: State = {}
    for key, tensor in state.items():
        if tensor.ndim == 2:
            wide = torch.full((tensor.shape[1], 2 * tensor.shape[0] + 3), 7.0, dtype=tensor.dtype)
            view = wide[:, 3::2].t()
        else:
            view = torch.full((5 + tensor.numel(),), 7.0, dtype=tensor.dtype)[5:].view(tensor.shape)
        views[key] = view.copy_(tensor)
    options = {"_use_new_zipfile_serialization": False} if legacy else {}
    torch.save(views, folder / "pytorch_model.bin", **options)


def _bin_views_legacy(state: State, folder: Path) -> None:
    _bin_views(state, folder, legacy=True)


LAYOUTS: dict[str, Callable[[State, Path], None]] = {
    "single": _single,
    "sharded": _sharded,
    "bin": _bin,
    "bin_legacy": _bin_legacy,
    "bin_sharded": _bin_sharded,
    "bin_views": _bin_views,
    "bin_views_legacy": _bin_views_legacy,
}
