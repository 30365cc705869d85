"""What the folder of every fine-tuned model is judged by, and what its lineage says it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from bequest.checkpoints.lineage import describe_file
from bequest.errors import BequestError


def check_finite(folder: Path) -> None:
    """Refuse weights of a run that diverged, reading one tensor at a time.

    Args:
        folder: with the weights, in safetensors.

    Raises:
        BequestError: there are none, or a value is not finite.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BequestError(
            f"{folder} holds no weights in safetensors; with FSDP, set its state_dict_type to "
            "FULL_STATE_DICT"
        )
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                value = tensors.get_tensor(name)
                if value.is_floating_point() and not torch.isfinite(value).all():
                    raise BequestError(
                        f"{name} holds values that are not finite: the run diverged, and nothing "
                        "was published; lower training.learning_rate and use --overwrite"
                    )


def check_loads(folder: Path, kind: Any, *, trust_remote_code: bool) -> None:
    """Let transformers judge what it would make of a folder.

    Args:
        folder: the model's.
        kind: the class that loads it, such as AutoModelForCausalLM.
        trust_remote_code: let Python files of the folder run.

    Raises:
        BequestError: weights would be missing, left over or of another shape.
    """
    _, told = kind.from_pretrained(
        folder,
        device_map="meta",
        output_loading_info=True,
        trust_remote_code=trust_remote_code,
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if told[problem]:
            raise BequestError(
                f"the trained model would not load whole: {min(map(str, told[problem]))} is among "
                f"its {problem.replace('_', ' ')}; nothing was published"
            )


def describe_data(named: Mapping[str, str | None], *, full_hash: bool) -> list[dict[str, Any]]:
    """Describe the data of a run for its lineage.

    Args:
        named: what each field of the configuration names: a file, a folder or a hub id; None is
            left out.
        full_hash: also of large files their SHA-256.
    """
    described = []
    for role, name in named.items():
        if name is None:
            continue
        path = Path(name).expanduser()
        files = [path] if path.is_file() else []
        described.append(
            {
                "role": role,
                "name": str(path.absolute()) if path.exists() else name,
                "files": [describe_file(file, full_hash=full_hash) for file in files],
            }
        )
    return described
