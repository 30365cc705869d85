"""The header reader against files of any shape: it agrees with safetensors, and never stumbles."""

from __future__ import annotations

import itertools
import json
import struct
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from bequest.checkpoints.header import read_header
from bequest.errors import CheckpointError

DTYPES = ["F32", "BF16", "F16", "I64", "BOOL", "U8", "F8_E4M3", "C64", "F4"]
NUMBERS = st.one_of(
    st.integers(-2, 40),
    st.sampled_from([2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), 10**4000]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=5,
)


@cache
def _room() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="header-")


def write(header: bytes, data: bytes, length: int | None = None) -> Path:
    """A file with that header and data, announcing `length` bytes of header."""
    path = Path(_room().name) / "model.safetensors"
    stated = len(header) if length is None else length
    path.write_bytes(struct.pack("<Q", stated % 2**64) + header + data)
    return path


def theirs(path: Path) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    """What the reference implementation reads; None if it refuses."""
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    except (SafetensorError, OSError, UnicodeDecodeError):
        return None


def ours(path: Path) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    """What bequest reads; None if it refuses, in one sentence that names the file."""
    try:
        entries, _ = read_header(path)
    except CheckpointError as refusal:
        assert str(path) in str(refusal)
        assert len(str(refusal)) < 2000
        return None
    size = path.stat().st_size
    for entry in entries:
        assert 8 <= entry.start <= entry.start + entry.num_bytes <= size
    ends = [(entry.start, entry.start + entry.num_bytes) for entry in entries]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ends))
    return {entry.name: (entry.dtype, entry.shape) for entry in entries}


def compare(path: Path) -> None:
    """What bequest accepts, safetensors accepts too, and reads the same."""
    found = ours(path)
    if found is not None:
        assert theirs(path) == found


@st.composite
def whole_files(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """A sound header and its data."""
    names = draw(st.lists(st.text(min_size=1, max_size=6), max_size=5, unique=True))
    header: dict[str, Any] = {}
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3)))
    offset = 0
    for name in names:
        dtype, width = draw(st.sampled_from([("F32", 4), ("BF16", 2), ("U8", 1), ("I64", 8)]))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        end = offset + width
        for extent in shape:
            end = offset + (end - offset) * extent
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    return header, draw(st.binary(min_size=offset, max_size=offset))


def _encode(header: Any) -> bytes:
    return json.dumps(header, ensure_ascii=True).encode()


@given(file=whole_files())
def test_every_sound_file_is_read_as_safetensors_reads_it(file: tuple[Any, bytes]) -> None:
    header, data = file
    path = write(_encode(header), data)
    assert theirs(path) is not None
    assert ours(path) == theirs(path)
    compare(path)


@settings(max_examples=300)
@given(file=whole_files(), draw=st.data())
def test_a_damaged_entry(file: tuple[Any, bytes], draw: st.DataObject) -> None:
    """Overlaps, holes, ranges out of the file, wrong types, counts too big for any machine."""
    header, data = file
    names = [name for name in header if name != "__metadata__"]
    for name in draw.draw(st.lists(st.sampled_from(names), max_size=3)) if names else []:
        field = draw.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more", None]))
        if field is None:
            header[name] = draw.draw(VALUES)
        elif isinstance(header[name], dict):
            header[name][field] = draw.draw(
                st.one_of(VALUES, st.lists(NUMBERS, max_size=4), st.sampled_from(DTYPES))
            )
    try:
        text = _encode(header)
    except ValueError:  # a number too long for Python to print: no file holds it
        return
    compare(write(text, data))


@settings(max_examples=200)
@given(file=whole_files(), draw=st.data())
def test_damaged_bytes(file: tuple[Any, bytes], draw: st.DataObject) -> None:
    """Bytes changed, cut off or added anywhere, and any announced length."""
    header, data = file
    content = bytearray(_encode(header) + data)
    for _ in range(draw.draw(st.integers(0, 4))):
        if content:
            place = draw.draw(st.integers(0, len(content) - 1))
            content[place] = draw.draw(st.integers(0, 255))
    content = content[: draw.draw(st.integers(0, len(content)))] + draw.draw(st.binary(max_size=3))
    stated = draw.draw(st.sampled_from([None, 0, 1, 2**63, 2**64 - 1, 100_000_001, len(content)]))
    size = len(_encode(header)) if stated is None else stated
    compare(write(bytes(content), b"", size))


@given(content=st.binary(max_size=64))
@example(b"")
@example(b"\0" * 8)
@example(struct.pack("<Q", 2) + b"{}")
@example(struct.pack("<Q", 2) + b"[]")
@example(struct.pack("<Q", 4) + b"null")
@example(struct.pack("<Q", 2**64 - 8) + b"{}")
@example(struct.pack("<Q", 20) + b'{"a":' * 4)
def test_any_bytes(content: bytes) -> None:
    path = write(b"", b"")
    path.write_bytes(content)
    compare(path)


def test_a_name_twice_is_refused() -> None:
    """JSON readers keep one of the two, and not all the same one."""
    entry = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    path = write(f'{{"a":{entry},"a":{entry}}}'.encode(), b"x")
    assert ours(path) is None


STUMBLES = {
    "nested too deeply": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of 5000 digits": b'{"a":{"dtype":"U8","shape":[%s],"data_offsets":[0,1]}}'
    % (b"9" * 5000),
    "a product of 200000 digits": b'{"a":{"dtype":"U8","shape":[%s],"data_offsets":[0,1]}}'
    % b",".join([b"9" * 4000] * 50),
    "a number beyond float64": b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":%s}}'
    % (b"9" * 400),
    "an exponent beyond float64": b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1e999}}',
    "half a character": b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    "no number": b'{"a":NaN}',
    "another encoding": "{}".encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("case", STUMBLES)
def test_a_header_that_makes_parsers_stumble(case: str) -> None:
    assert ours(write(STUMBLES[case], b"x")) is None


def test_ten_thousand_dimensions() -> None:
    shape = b",".join([b"1"] * 10_000)
    compare(write(b'{"a":{"dtype":"U8","shape":[%s],"data_offsets":[0,1]}}' % shape, b"x"))


@pytest.mark.parametrize("stated", [3, 2**20, 2**40, 2**63, 2**64 - 1])
def test_an_announced_length_beyond_the_file_reserves_no_memory(stated: int) -> None:
    assert ours(write(b"{}", b"", stated)) is None
