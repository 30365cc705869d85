"""What torch pickles, read as plain records: nothing in a file is executed, and torch is not needed.

`torch.save` makes a zip archive of a pickle, which describes tensors, and of their bytes as they lie
in memory. The unpickler knows the few classes of such pickles and of `torch.distributed.checkpoint`'s
metadata, and refuses every other name.

Source: torch's `serialization.py` and `_utils.py`.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from bequest.checkpoints import dtypes

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}

_METADATA_RECORDS = {
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "Metadata",
    "MetadataIndex",
    "StorageMeta",
    "TensorProperties",
    "TensorStorageMetadata",
}


def load_records(file: Any) -> Any:
    """Load a pickle whose objects become records: attributes without behaviour.

    Args:
        file: open for reading bytes.

    Raises:
        ValueError: the pickle is damaged, or names something that is not known to be harmless.
        OSError: reading failed.
    """
    try:
        return _Unpickler(file).load()
    except OSError:
        raise
    except Exception as error:  # A damaged pickle raises almost anything.
        raise ValueError(str(error) or type(error).__name__) from error


def data_start(file: BinaryIO, start: int, length: int, dtype: str, shape: tuple[int, ...]) -> int:
    """Return the byte of a file at which the elements of a saved tensor start.

    Args:
        file: the file.
        start: where what `torch.save` wrote begins.
        length: how many bytes that is.
        dtype: safetensors dtype that the tensor must have.
        shape: shape that the tensor must have.

    Raises:
        ValueError: it is damaged, not that tensor, or not stored row by row.
        KeyError: it lacks a part.
        zipfile.BadZipFile: it is no such archive.
        OSError: reading failed.
    """
    part = _Part(file, start, length)
    with zipfile.ZipFile(part) as archive:
        return start + _start_within(archive, part, dtype, shape)


class _Part(io.RawIOBase):
    """A stretch of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        super().__init__()
        self._file, self._start, self._length, self._at = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._length - self._at)
        self._file.seek(self._start + self._at)
        data = self._file.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data


def _start_within(archive: zipfile.ZipFile, part: _Part, dtype: str, sizes: tuple[int, ...]) -> int:
    """Return the byte within an archive at which a tensor's elements start."""
    top = archive.namelist()[0].split("/", 1)[0]
    if archive.read(f"{top}/byteorder") != b"little":
        raise ValueError("its bytes are in another order than this machine's")
    tensor = load_records(io.BytesIO(archive.read(f"{top}/data.pkl")))
    if not isinstance(tensor, _Tensor) or tensor.dtype != dtype or tensor.shape != sizes:
        raise ValueError("it is not the chunk that .metadata describes")
    contiguous = tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))
    for extent, stride, wanted in zip(sizes, tensor.strides, contiguous, strict=True):
        if extent > 1 and stride != wanted:
            raise ValueError("it is stored transposed; save its contiguous copy")
    entry = archive.getinfo(f"{top}/data/{tensor.storage}")
    width = dtypes.num_bytes(dtype, ())
    first = tensor.offset * width
    if (
        entry.compress_type != zipfile.ZIP_STORED
        or first + math.prod(sizes) * width > entry.file_size
    ):
        raise ValueError("its bytes are not all there")
    # The local header, unlike the directory's copy, has padding of its own.
    part.seek(entry.header_offset)
    header = part.read(30)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return entry.header_offset + 30 + lengths + first


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What a pickle says of a tensor."""

    storage: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Record:
    """An object of a known class: its state and nothing of its behaviour."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple):  # TensorProperties
            state = {"dtype": state[0]}
        self.__dict__.update(state)


def _rebuilt(
    storage: tuple[str, str], offset: int, shape: Any, strides: Any, *_: object
) -> _Tensor:
    return _Tensor(storage[0], storage[1], offset, tuple(shape), tuple(strides))


def _nothing(*_: object) -> None:
    return None


def _first(value: Any, *_: object) -> Any:
    return value


def _known(module: str, name: str) -> Any:
    """Return what stands for a global of torch in these pickles; None for any other."""
    if module == "torch.distributed.checkpoint.metadata":
        if name == "_MEM_FORMAT_ENCODING":
            return _nothing
        return _Record if name in _METADATA_RECORDS else None
    if module == "torch":
        if name in dtypes.OF_TORCH or name in _STORAGES:
            return dtypes.OF_TORCH.get(name) or _STORAGES[name]
        return tuple if name == "Size" else None
    return {
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _Record,
        ("torch.serialization", "_get_layout"): _nothing,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
        ("torch._utils", "_rebuild_parameter"): _first,
        ("collections", "OrderedDict"): OrderedDict,
        ("pathlib", "PosixPath"): PurePosixPath,
        ("pathlib", "PurePosixPath"): PurePosixPath,
        ("pathlib._local", "PosixPath"): PurePosixPath,
    }.get((module, name))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _known(module, name)
        if known is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")
        return known

    def persistent_load(self, reference: Any) -> tuple[str, str]:
        _, dtype, key, *_ = reference
        return str(key), str(dtype)
