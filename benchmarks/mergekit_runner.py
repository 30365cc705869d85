"""Let mergekit cut many models, each in a fork of one process: run by mergekit's own Python.

    python -P mergekit_runner.py JOBS.json

Every job `{"source", "out", "layer_range", "blocks", "result"}` is a passthrough merge of one slice,
as mergekit's documentation has it: `slices:` where its architecture has one module, `modules:` where
it has several, the decoder sliced and the others whole. What became of it goes to `result`.
mergekit keeps what it inferred and opened for the life of a process, hence the forks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

_SECONDS = 180


def main(jobs: Path) -> None:
    """Carry out every job that has no result yet."""
    import mergekit.merge  # noqa: F401 - imported once, before the forks

    for job in json.loads(jobs.read_text()):
        if Path(job["result"]).exists():
            continue
        child = os.fork()
        if not child:
            signal.alarm(_SECONDS)
            _redirect(Path(job["result"]).with_suffix(".log"))
            Path(job["result"]).write_text(json.dumps(_merge(job)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            ended = {"claimed": None, "error": "Killed", "message": f"wait status {status}"}
            Path(job["result"]).write_text(json.dumps(ended))


def _redirect(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _merge(job: dict[str, Any]) -> dict[str, Any]:
    from mergekit.architecture import arch_info_for_config, get_architecture_info
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    options = MergeOptions(copy_tokenizer=False, write_model_card=False)
    sliced = {
        "slices": [{"sources": [{"model": job["source"], "layer_range": job["layer_range"]}]}]
    }
    configuration = MergeConfiguration.model_validate({**sliced, "merge_method": "passthrough"})
    claimed = None
    try:
        (model,) = configuration.referenced_models()
        claimed = arch_info_for_config(model.config()) is not None
        modules = list(get_architecture_info(configuration, options).modules)
        if len(modules) > 1:
            whole = {"models": [{"model": job["source"]}]}
            decoder = _decoder(modules, job["blocks"])
            parts = {name: sliced if name == decoder else whole for name in modules}
            configuration = MergeConfiguration.model_validate(
                {"modules": parts, "merge_method": "passthrough"}
            )
        run_merge(configuration, job["out"], options=options)
    except BaseException as error:  # Whatever it is, it is what the user would see.
        return {"claimed": claimed, "error": type(error).__name__, "message": str(error)}
    return {"claimed": claimed, "error": None, "message": ""}


def _decoder(modules: list[str], blocks: str) -> str:
    """The module of a multimodal model that holds the decoder's blocks."""
    if "text_decoder" in modules:
        return "text_decoder"
    matching = [name for name in modules if name.endswith(blocks) or blocks.endswith(name)]
    return matching[0] if matching else modules[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
