"""Legacy `.bin` files in every form that torch reads: the same bytes come out, or a refusal."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import bequest
from bequest import BequestError
from zoo import checks, keeper
from zoo.raw import read_folder
from zoo.specimen import State

SPECIMEN = keeper.SPECIMENS["llama"]


def _source(folder: Path) -> Path:
    return keeper.copy("llama", folder / "source", "bin") / "pytorch_model.bin"


def _zipped_again(path: Path, method: int, keep: Callable[[str], bool] = lambda name: True) -> None:
    """What unpacking and packing with another tool makes of the file."""
    with zipfile.ZipFile(path) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in records:
            if keep(name):
                archive.writestr(name, content)


def stored(path: Path) -> None:
    """Not where torch's own writer would have put them."""
    _zipped_again(path, zipfile.ZIP_STORED)


def stored_without_marks(path: Path) -> None:
    """As older versions of torch wrote: nothing said about alignment."""
    _zipped_again(path, zipfile.ZIP_STORED, lambda name: name.rpartition("/")[2][0] != ".")


def deflated(path: Path) -> None:
    """Compressed."""
    _zipped_again(path, zipfile.ZIP_DEFLATED)


def deflated_without_marks(path: Path) -> None:
    """Compressed, and nothing said about alignment."""
    _zipped_again(path, zipfile.ZIP_DEFLATED, lambda name: name.rpartition("/")[2][0] != ".")


def big_endian(path: Path) -> None:
    """Saved on a machine of the other byte order."""
    with zipfile.ZipFile(path) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records:
            if name.endswith("byteorder"):
                content = b"big"
            if "/data/" in name:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            archive.writestr(name, content)


@pytest.mark.parametrize(
    "change", [stored, stored_without_marks, deflated, deflated_without_marks, big_endian]
)
def test_a_zip_that_torch_did_not_write(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = _source(tmp_path)
    expected = checks.cut_tensors(SPECIMEN, path.parent, SPECIMEN.chosen)
    change(path)
    assert checks.cut_tensors(SPECIMEN, path.parent, SPECIMEN.chosen) == expected
    bequest.inherit(path.parent, tmp_path / "out", layers=SPECIMEN.chosen)
    assert read_folder(tmp_path / "out") == expected


def parameters(state: State) -> object:
    """`nn.Parameter`s, as `dict(model.named_parameters())` gives."""
    return {key: torch.nn.Parameter(value) for key, value in state.items()}


def with_versions(state: State) -> object:
    """`model.state_dict()` itself, with its `_metadata`."""
    ordered = OrderedDict(state)
    ordered._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return ordered


def _norm(state: State, change: Callable[[torch.Tensor], torch.Tensor]) -> object:
    return {**state, "model.norm.weight": change(state["model.norm.weight"])}


def expanded(state: State) -> object:
    """One number in memory for a whole vector."""
    return _norm(state, lambda norm: norm[:1].expand(32))


def negated(state: State) -> object:
    """A view that carries a sign, with the bytes of its opposite."""
    return _norm(state, torch._neg_view)


def imaginary(state: State) -> object:
    """Every other number of a complex vector, with a sign."""
    return _norm(state, lambda norm: torch.complex(norm, norm).conj().imag)


def one_storage(state: State) -> object:
    """All tensors in one storage."""
    flat = torch.cat([value.reshape(-1) for value in state.values()])
    sizes = [value.numel() for value in state.values()]
    pieces = zip(state.items(), flat.split(sizes), strict=True)
    return {key: piece.view(value.shape) for (key, value), piece in pieces}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "change", [parameters, with_versions, expanded, negated, imaginary, one_storage]
)
def test_tensors_that_are_not_plain(
    change: Callable[[State], object], legacy: bool, tmp_path: Path
) -> None:
    path = _source(tmp_path)
    state = torch.load(path, weights_only=True)
    torch.save(change(state), path, _use_new_zipfile_serialization=not legacy)
    expected = checks.cut_tensors(SPECIMEN, path.parent, SPECIMEN.chosen)
    bequest.inherit(path.parent, tmp_path / "out", layers=SPECIMEN.chosen)
    assert read_folder(tmp_path / "out") == expected


def sparse(state: State) -> object:
    """Coordinates and values."""
    return _norm(state, lambda norm: norm.to_sparse())


def meta(state: State) -> object:
    """A tensor that was never given memory."""
    return _norm(state, lambda norm: norm.to("meta"))


def nested(state: State) -> object:
    """A trainer's own file: the state dict is one level down."""
    return {"state_dict": state, "epoch": 3}


def nothing(state: State) -> object:
    """No tensors."""
    return {}


def a_tensor(state: State) -> object:
    """One tensor without a name."""
    return state["model.norm.weight"]


def numbered(state: State) -> object:
    """Names that are numbers."""
    return dict(enumerate(state.values()))


def a_number_among_them(state: State) -> object:
    """A value that is no tensor."""
    return {**state, "step": 3}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "change", [sparse, meta, nested, nothing, a_tensor, numbered, a_number_among_them]
)
def test_what_is_no_state_dict_of_plain_tensors_is_refused(
    change: Callable[[State], object], legacy: bool, tmp_path: Path
) -> None:
    path = _source(tmp_path)
    state = torch.load(path, weights_only=True)
    torch.save(change(state), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(BequestError) as refusal:
        bequest.inherit(path.parent, tmp_path / "out", layers="2")
    assert refusal.value.exit_code == 2
    assert "\n" not in str(refusal.value)
    assert [place.name for place in tmp_path.iterdir()] == ["source"]


def test_a_module_is_refused(tmp_path: Path) -> None:
    """`torch.save(model)`: a pickle of code."""
    path = _source(tmp_path)
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(BequestError, match="weights_only"):
        bequest.inherit(path.parent, tmp_path / "out", layers="2")
