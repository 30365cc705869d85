"""Sharded weights as `torch.distributed.checkpoint` writes them, read without torch.

A folder holds `.metadata`, a pickle that says which chunk of which tensor lies where, and `.distcp`
files, in which every chunk is what `torch.save` makes of a tensor.

Source: torch.distributed.checkpoint's `metadata.py` and `filesystem.py`.
"""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bequest.checkpoints import dtypes
from bequest.checkpoints.locate import require_plain_name
from bequest.checkpoints.pieces import Piece
from bequest.checkpoints.torch_pickle import data_start, load_records
from bequest.errors import CheckpointError

METADATA = ".metadata"
_NOT_WEIGHTS = {"optim", "optimizer", "optimizers", "optim_state", "lr_scheduler", "scheduler"}
"""Names under which programs save what is not the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScatteredTensor:
    """A tensor whose parts lie in several places."""

    name: str
    """Key of the tensor in the model."""
    dtype: str
    """Safetensors dtype, such as "BF16"."""
    shape: tuple[int, ...]
    """Extents of the whole tensor, outermost first."""
    pieces: tuple[Piece, ...]
    """Where its elements are: all of them, in order, without holes."""

    @property
    def num_bytes(self) -> int:
        """Bytes the tensor takes."""
        return dtypes.num_bytes(self.dtype, self.shape)

    @property
    def num_elements(self) -> int:
        """Elements the tensor has."""
        return math.prod(self.shape)


def read_dcp(folder: Path) -> list[ScatteredTensor]:
    """Find the model's tensors in a folder of `torch.distributed.checkpoint`.

    What lies under an optimizer's name is left out, and the name under which the program nested the
    model (accelerate's `model`) is taken off.

    Args:
        folder: a folder with `.metadata`.

    Returns:
        The tensors in the order of their files and bytes.

    Raises:
        CheckpointError: the folder is damaged, incomplete, unsafe, or of an unknown layout.
    """
    path = folder / METADATA
    try:
        with path.open("rb") as file:
            metadata = load_records(file)
        paths = metadata.planner_data or {}
        stored = {
            name: record
            for name, record in metadata.state_dict_metadata.items()
            if hasattr(record, "chunks")
        }
        places = {
            (index.fqn, tuple(getattr(index, "offset", None) or ())): info
            for index, info in metadata.storage_data.items()
        }
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or unsafe: {error}.") from error
    keys = _model_keys(stored, paths, path)
    with _Archives(folder) as archives:
        tensors = [_tensor(key, name, stored[name], places, archives) for name, key in keys.items()]
    return sorted(tensors, key=_place)


def _place(tensor: ScatteredTensor) -> tuple[str, int]:
    return (str(tensor.pieces[0].file), tensor.pieces[0].start) if tensor.pieces else ("", 0)


def _model_keys(stored: Mapping[str, Any], paths: Mapping[str, Any], file: Path) -> dict[str, str]:
    """Return the model's key of every tensor that is a weight."""
    split = {name: tuple(map(str, paths.get(name, (name,)))) for name in stored}
    kept = {name: path for name, path in split.items() if not _NOT_WEIGHTS & set(path[:-1])}
    nests = sorted({path[:-1] for path in kept.values()})
    if len(nests) > 1:
        models = [nest for nest in nests if nest and nest[-1] == "model"]
        if len(models) != 1:
            shown = ", ".join("/".join(nest) or "the top" for nest in nests[:4])
            raise CheckpointError(
                f"{file} holds tensors under {shown}; save the model's state dict alone, or under "
                "the name model."
            )
        nests = models
    if not nests:
        raise CheckpointError(f"{file} holds no weights.")
    return {name: path[-1] for name, path in kept.items() if path[:-1] == nests[0]}


def _tensor(
    key: str,
    name: str,
    record: Any,
    places: Mapping[tuple[str, tuple[int, ...]], Any],
    archives: _Archives,
) -> ScatteredTensor:
    file = archives.folder / METADATA
    try:
        dtype = record.properties.dtype
        shape = tuple(record.size)
        chunks = [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in record.chunks]
        infos = [places[name, offsets] for offsets, _ in chunks]
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged: it does not place tensor {name!r}.") from error
    if not isinstance(dtype, str) or dtype not in dtypes.BITS:
        raise CheckpointError(f"{file}: tensor {name!r} has a dtype that is unknown here.")
    pieces: list[Piece] = []
    for (offsets, sizes), info in zip(chunks, infos, strict=True):
        if math.prod(sizes):
            path, start = archives.data(name, info, dtype, sizes)
            width = dtypes.num_bytes(dtype, ())
            for done, (first, count) in enumerate(_runs(shape, offsets, sizes)):
                at = start + done * count * width
                pieces.append(Piece(first=first, count=count, file=path, start=at))
    pieces.sort(key=lambda piece: piece.first)
    ends = [0, *(piece.first + piece.count for piece in pieces)]
    if [piece.first for piece in pieces] != ends[:-1] or ends[-1] != math.prod(shape):
        raise CheckpointError(f"{file}: the chunks of tensor {name!r} do not fill its shape.")
    return ScatteredTensor(name=key, dtype=dtype, shape=shape, pieces=tuple(pieces))


def _runs(
    shape: tuple[int, ...], offsets: tuple[int, ...], sizes: tuple[int, ...]
) -> Iterator[tuple[int, int]]:
    """Cut a chunk into runs of elements that follow one another in the whole tensor.

    Yields:
        The number of each run's first element in the whole, and the run's length, which is the
        same for all; in the order in which the chunk stores them.
    """
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    # The innermost axis that the chunk does not span starts a run; all inside it is whole.
    cut = next((a for a in reversed(range(len(shape))) if sizes[a] != shape[a]), 0)
    length = math.prod(sizes[cut:])
    for outer in itertools.product(*(range(size) for size in sizes[:cut])):
        index = (*outer, *(0 for _ in sizes[cut:]))
        first = sum((i + o) * stride for i, o, stride in zip(index, offsets, strides, strict=True))
        yield first, length


class _Archives:
    """The zip archives within a folder's `.distcp` files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[Path, BinaryIO] = {}

    def __enter__(self) -> _Archives:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    def data(self, name: str, info: Any, dtype: str, sizes: tuple[int, ...]) -> tuple[Path, int]:
        """Return the file of a chunk, and the byte at which its elements start."""
        path = self.folder / require_plain_name(str(info.relative_path), self.folder / METADATA)
        if getattr(info, "transform_descriptors", None):
            raise CheckpointError(f"{path} is compressed or encrypted; save it without extensions.")
        try:
            if path not in self._open:
                self._open[path] = path.open("rb")
            start = data_start(self._open[path], info.offset, info.length, dtype, sizes)
            return path, start
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
        except (KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{path}: tensor {name!r} cannot be read: {error}.") from error
