"""What mergekit makes of every type's tiny model: `python -m benchmarks.mergekit_types`.

For each decoder type of transformers the tiny model of the test suite is cut twice with mergekit's
passthrough method, to its first half and to blocks that do not follow one another. The result is
loaded with transformers and its logits are held to the whole model's with the other blocks skipped.
Verdicts go to `mergekit_types.json`, from which docs/architectures.md takes its column; types that
stand there already are left out, so a run that was broken off goes on. It takes minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, SCRATCH, remove
from benchmarks.mergekit import VERSION, mergekit_command

RESULTS = Path(__file__).with_name("mergekit_types.json")
TOLERANCE = 1e-5
"""Largest difference of logits that is right, as in the test suite."""
_WORKER = """
import json, sys, traceback
from mergekit.architecture import arch_info_for_config
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from transformers import AutoConfig
for line in sys.stdin:
    job, answer = json.loads(line), {"named": False, "error": None}
    try:
        answer["named"] = arch_info_for_config(AutoConfig.from_pretrained(job["source"])) is not None
        sources = [{"sources": [{"model": job["source"], "layer_range": part}]} for part in job["parts"]]
        merge = MergeConfiguration.model_validate(
            {"slices": sources, "merge_method": "passthrough", "dtype": "float32"}
        )
        run_merge(merge, job["out"], MergeOptions(copy_tokenizer=False, quiet=True))
    except BaseException as error:
        text = " ".join(str(error).split())
        answer["error"] = f"{type(error).__name__}: {text}"
    print("\\n@" + json.dumps(answer), flush=True)
"""


def slices(selection: tuple[int, ...]) -> list[list[int]]:
    """Return a selection as runs of blocks, each with its end behind the last."""
    starts = [0, *(at for at, (a, b) in enumerate(pairwise(selection), 1) if b != a + 1)]
    ends = [*starts[1:], len(selection)]
    return [[selection[a], selection[b - 1] + 1] for a, b in zip(starts, ends, strict=True)]


def main() -> None:
    """Judge what is not judged yet."""
    sys.path.insert(0, str(ROOT / "tests"))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from zoo.types import models

    stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    types: dict[str, Any] = stored.get("types", {}) if stored.get("version") == VERSION else {}
    python = str(Path(mergekit_command()).with_name("python"))
    worker = subprocess.Popen(
        [python, "-c", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for model_type in models.DECODERS:
        if model_type in types:
            continue
        try:
            types[model_type] = _judge_type(model_type, worker)
        except Exception as error:  # such as a type whose model needs a package
            types[model_type] = {"error": f"not built: {' '.join(str(error).split())[:200]}"}
        print(model_type, types[model_type], flush=True)
        result = {"version": VERSION, "types": dict(sorted(types.items()))}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    assert worker.stdin is not None
    worker.stdin.close()
    worker.wait()


def _judge_type(model_type: str, worker: subprocess.Popen[str]) -> dict[str, Any]:
    import torch
    from zoo.types import models, skipping

    from bequest.inheritance.config_cut import depth_of
    from bequest.inheritance.identity import find_block_modules

    folder = SCRATCH / "mergekit-types"
    remove(folder)
    models.build(model_type).save_pretrained(folder / "source")
    model_class: Any = models.model_class(model_type)
    whole = model_class.from_pretrained(folder / "source").eval()
    depth = depth_of(whole.config)
    chosen = models.chosen(model_type)
    if model_type in models.FIRST_ONLY:
        chosen = tuple(range(depth - 1))
    verdicts: dict[str, Any] = {}
    for name, selection in {"half": models.half(model_type, depth), "chosen": chosen}.items():
        out = folder / name
        job = {"source": str(folder / "source"), "parts": slices(selection), "out": str(out)}
        answer = _ask(worker, job)
        verdicts["named"] = answer["named"]
        if answer["error"]:
            verdicts[name] = {"verdict": "fails", "reason": answer["error"][:300]}
            continue
        path = _path_of_blocks(whole, depth, find_block_modules)
        reference = skipping.with_blocks_skipped(whole, path, depth, selection)
        try:
            cut, info = model_class.from_pretrained(out, output_loading_info=True)
            found = skipping.logits(cut.eval())
        except Exception as error:
            text = f"does not load or run: {' '.join(str(error).split())}"
            verdicts[name] = {"verdict": "fails", "reason": text[:300]}
            continue
        expected = skipping.logits(reference)
        off = float((found - expected).abs().max())
        drawn = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))
        right = off <= TOLERANCE and not drawn and not torch.isnan(found).any()
        verdicts[name] = {
            "verdict": "right" if right else "wrong",
            "logits_off": float(f"{off:.3g}"),
            "drawn": len(drawn),
            "left_over": len(info["unexpected_keys"]),
        }
    remove(folder)
    return verdicts


def _path_of_blocks(model: Any, depth: int, find: Any) -> str:
    """The name of the decoder's list of blocks, as the test suite's reference wants it."""
    from torch import nn

    from bequest.inheritance.blocks import is_tower

    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == depth
        and not is_tower(name)
        and "experts" not in name
    ]
    return min(found, key=len)


def _ask(worker: subprocess.Popen[str], job: dict[str, Any]) -> dict[str, Any]:
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(json.dumps(job) + "\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("@"):
            answer: dict[str, Any] = json.loads(line[1:])
            return answer
    raise RuntimeError("mergekit's process ended")


if __name__ == "__main__":
    main()
