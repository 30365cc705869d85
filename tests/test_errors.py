"""What a library raises becomes one sentence, of the kind that its exit code tells."""

from __future__ import annotations

import errno

import pytest
import torch

from bequest.cli import evaluate as command
from bequest.cli.main import main
from bequest.errors import InputError, StorageError, explained


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), MemoryError),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MemoryError),
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (FileNotFoundError(errno.ENOENT, "No such file"), InputError),
        (RuntimeError("size mismatch"), InputError),
        (InputError("as it is"), InputError),
    ],
)
def test_what_ran_out_is_no_fault_of_the_input(
    raised: Exception,
    kind: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(_arguments: object) -> int:
        with explained("model x cannot be loaded"):
            raise raised

    with pytest.raises(kind) as caught:
        fails(())
    assert type(caught.value) is kind
    monkeypatch.setattr(command, "run", fails)
    assert main(["evaluate"]) == (2 if kind is InputError else 1)
    told = capsys.readouterr().err
    assert told.startswith("bequest evaluate: error: ") and str(caught.value) in told
