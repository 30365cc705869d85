"""Both ways to write a file leave the same bytes, whatever it is put together from."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bequest.checkpoints import output_file, shards
from bequest.checkpoints.checkpoint import SAFETENSORS
from bequest.checkpoints.header import read_header
from zoo.command import mounted

SOURCE = bytes(range(251)) * 400
PIECE = st.one_of(
    st.binary(max_size=9000),
    st.tuples(st.integers(0, len(SOURCE) // 2), st.integers(1, len(SOURCE) // 2)),
)


def written(path: Path, pieces: list[bytes | tuple[int, int]], *, past_cache: bool) -> list[int]:
    """Write pieces, bytes or ranges of the source, and return the progress that was told."""
    source = path.parent / "source"
    source.write_bytes(SOURCE)
    told: list[int] = []
    file = os.open(source, os.O_RDONLY)
    try:
        size = len(joined(pieces))
        with output_file.create_output(path, size, past_cache=past_cache) as target:
            for piece in pieces:
                if isinstance(piece, bytes):
                    target.write(piece)
                else:
                    target.copy(file, *piece, told.append)
    finally:
        os.close(file)
    return told


def joined(pieces: list[bytes | tuple[int, int]]) -> bytes:
    return b"".join(p if isinstance(p, bytes) else SOURCE[p[0] : p[0] + p[1]] for p in pieces)


@pytest.mark.parametrize("past_cache", [False, True])
@given(pieces=st.lists(PIECE, max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_pieces(
    tmp_path_factory: pytest.TempPathFactory, past_cache: bool, pieces: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("output") / "file"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_file, "_BUFFER_BYTES", 2 * output_file._BLOCK_BYTES)
        told = written(path, pieces, past_cache=past_cache)
    assert path.read_bytes() == joined(pieces)
    assert sum(told) == sum(piece[1] for piece in pieces if not isinstance(piece, bytes))


def test_a_device_with_other_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Blocks of one byte are none that a device takes, so the first write is refused.
    monkeypatch.setattr(output_file, "_BLOCK_BYTES", 1)
    pieces: list[bytes | tuple[int, int]] = [b"head", (3, 5000)]
    written(tmp_path / "file", pieces, past_cache=True)
    assert (tmp_path / "file").read_bytes() == joined(pieces)


@pytest.mark.parametrize("past_cache", [False, True])
def test_what_fails_is_raised(tmp_path: Path, past_cache: bool) -> None:
    (tmp_path / "there").touch()
    with pytest.raises(FileExistsError):
        output_file.create_output(tmp_path / "there", 1, past_cache=past_cache)
    with pytest.raises(OSError, match="ended early") as ended:
        written(tmp_path / "file", [(len(SOURCE) - 5, 10)], past_cache=past_cache)
    assert ended.value.errno == errno.EIO
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=256k", "none") as small:
        pieces: list[bytes | tuple[int, int]] = [(0, 90_000)] * 4
        with pytest.raises(OSError) as full:
            written(small / "file", pieces, past_cache=past_cache)
        assert full.value.errno == errno.ENOSPC


def test_shards_are_the_same_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {f"t{n}": torch.randn(1001 + n, 7, generator=generator) for n in range(6)}
    save_file(state, tmp_path / SAFETENSORS)
    entries, _ = read_header(tmp_path / SAFETENSORS)
    planned = [
        shards.PlannedTensor(
            name=entry.name,
            dtype="BF16" if entry.name == "t3" else entry.dtype,
            shape=entry.shape,
            source=(lambda: state["t5"].numpy()) if entry.name == "t5" else entry,
        )
        for entry in entries
    ]
    for past_cache in (False, True):
        monkeypatch.setattr(shards, "writes_past_cache", lambda _, told=past_cache: told)
        folder = tmp_path / str(past_cache)
        folder.mkdir()
        shards.write_shards(shards.plan_shards(planned, "80KB"), folder, lambda _: None)
    names = sorted(path.name for path in (tmp_path / "True").iterdir())
    assert len(names) > 2
    for name in names:
        assert (tmp_path / "True" / name).read_bytes() == (tmp_path / "False" / name).read_bytes()
        if name.endswith(".safetensors"):
            for key, value in load_file(tmp_path / "True" / name).items():
                assert torch.equal(value, state[key].to(value.dtype))


def test_only_what_is_large_goes_past_the_cache() -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert not output_file.writes_past_cache(memory // 11)
    assert output_file.writes_past_cache(memory // 9)
