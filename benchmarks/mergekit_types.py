"""What mergekit makes of every type that bequest cuts, held to what bequest's own cuts are held to.

    PYTHONPATH=src:tests:. python -m benchmarks.mergekit_types [TYPE ...]

Each type's tiny random model of the tests is cut to its first half by a passthrough merge (in
mergekit's own environment, `mergekit_runner`), loaded by transformers, and compared with the whole
model in which the other blocks are skipped. `tests/zoo/types/mergekit.json` keeps the verdicts, so
that docs/architectures.md can be made without mergekit.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.harness import SCRATCH, remove
from benchmarks.mergekit import VERSION, mergekit_command
from bequest.checkpoints.checkpoint import open_checkpoint
from bequest.inheritance.architectures import MULTIMODAL
from bequest.inheritance.blocks import find_blocks
from bequest.inheritance.config_cut import decoder_config, depth_field, depth_of
from bequest.inheritance.refused_types import REFUSED
from zoo.types import models, skipping
from zoo.types.peer import VERDICTS

FOLDER = SCRATCH / "mergekit-types"
TYPES = sorted({*models.DECODERS, *MULTIMODAL} - set(REFUSED))
TOLERANCE = 1e-5
"""Largest difference of a logit, as in the tests of bequest's own cuts."""


def main(asked: Sequence[str]) -> None:
    """Cut, judge and write the verdicts of the types asked for, or of all."""
    types = list(asked) or TYPES
    python = Path(mergekit_command()).with_name("python")
    jobs = [_prepare(model_type) for model_type in types]
    listed = FOLDER / "jobs.json"
    listed.write_text(json.dumps(jobs))
    runner = Path(__file__).with_name("mergekit_runner.py")
    # What it infers goes through sets of names, so its result may follow their hashes.
    subprocess.run(
        [str(python), "-P", str(runner), str(listed)],  # -P: its folder holds a mergekit.py
        check=True,
        env={"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    written = json.loads(VERDICTS.read_text()) if VERDICTS.exists() else {"verdicts": {}}
    verdicts = written["verdicts"]
    for model_type, job in zip(types, jobs, strict=True):
        verdicts[model_type] = judge(model_type, job)
        print(f"{model_type}: {verdicts[model_type]}", flush=True)
    record = {
        "mergekit": VERSION,
        "transformers": transformers.__version__,
        "torch": torch.__version__.partition("+")[0],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "verdicts": {name: verdicts[name] for name in sorted(verdicts) if name in TYPES},
    }
    VERDICTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _prepare(model_type: str) -> dict[str, Any]:
    folder = FOLDER / model_type
    remove(folder)
    model = models.build(model_type)
    model.save_pretrained(folder / "source")
    depth = depth_of(model.config)
    selection = models.half(model_type, depth)
    assert list(selection) == list(range(selection[0], selection[-1] + 1))
    keys = open_checkpoint(folder / "source").tensors
    path = find_blocks(keys, depth, model=model_type).prefix.rstrip(".")
    listed = skipping.block_list(model, path, depth)
    (blocks,) = [name for name, module in model.named_modules() if module is listed]
    return {
        "source": str(folder / "source"),
        "out": str(folder / "out"),
        "result": str(folder / "result.json"),
        "layer_range": [selection[0], selection[-1] + 1],
        "blocks": blocks,
    }


def judge(model_type: str, job: dict[str, Any]) -> dict[str, Any]:
    """Return what became of a type: whether mergekit claims it, the verdict and a detail."""
    result = json.loads(Path(job["result"]).read_text())
    out = Path(job["out"])
    said = {"claimed": result["claimed"]}
    if result["error"] is not None:
        weights = any(out.glob("*.safetensors")) if out.is_dir() else False
        detail = _said(result["error"], result["message"])
        return {**said, "verdict": "dies" if weights else "refuses", "detail": detail}
    found = {**said, **_compare(model_type, job)}
    if found["verdict"] != "right" and _set_depth(job):
        found["depth_by_hand"] = _compare(model_type, job)
    return found


def _set_depth(job: dict[str, Any]) -> bool:
    """Put the new depth into a configuration in which mergekit left the old one."""
    first, end = job["layer_range"]
    path = Path(job["out"]) / "config.json"
    config = transformers.AutoConfig.from_pretrained(Path(job["source"]))
    stated = json.loads(path.read_text())
    inner = decoder_config(config)
    field = depth_field(inner)
    place = stated if inner is config else stated.get("text_config", stated)
    if place.get(field) == end - first:
        return False
    place[field] = end - first
    path.write_text(json.dumps(stated, indent=2))
    return True


def _compare(model_type: str, job: dict[str, Any]) -> dict[str, Any]:
    loader = models.model_class(model_type)
    try:
        cut, report = loader.from_pretrained(Path(job["out"]), output_loading_info=True)
    except Exception as error:  # What a user would see.
        return {"verdict": "does not load", "detail": _said(type(error).__name__, str(error))}
    drawn = len(report["missing_keys"]) + len(report["mismatched_keys"])
    if drawn:
        return {"verdict": "drawn at random", "detail": f"{drawn} tensors"}
    whole = loader.from_pretrained(Path(job["source"])).eval()
    selection = range(*job["layer_range"])
    reference = skipping.with_blocks_skipped(
        whole, job["blocks"], depth_of(whole.config), selection
    )
    try:
        off = (skipping.logits(cut.eval()) - skipping.logits(reference)).abs().max().item()
    except Exception as error:  # As above.
        return {"verdict": "does not run", "detail": _said(type(error).__name__, str(error))}
    if off <= TOLERANCE:
        return {"verdict": "right", "detail": ""}
    return {"verdict": "computes something else", "detail": f"logits differ by {off:.2g}"}


def _said(kind: str, message: str) -> str:
    """An error as the page shows it: its class, its first line and its last, in few words."""
    lines = [" ".join(line.split()) for line in message.strip().splitlines()] or [""]
    text = " ... ".join(dict.fromkeys([lines[0], lines[-1]]))
    return f"{kind}: {text.replace(f'{FOLDER}/', '')}"[:240]


if __name__ == "__main__":
    main(sys.argv[1:])
