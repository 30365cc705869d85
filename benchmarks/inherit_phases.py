"""Where `bequest inherit` spends its time: the command in one process, its parts timed.

    python -m benchmarks.inherit_phases RESULT.json SOURCE OUT --layers N

writes {phase: seconds}. "start" is the time until the plan: imports of bequest and the parsing of the
command line; the interpreter's own start comes before that.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARTS = {
    "plan": ("bequest.cli.inherit", "plan_inherit"),
    "copy": ("bequest.inheritance.build", "write_shards"),
    "verify": ("bequest.inheritance.build", "verify"),
    "small files": ("bequest.inheritance.build", "_write_small_files"),
    "flush": ("bequest.checkpoints.publish", "_flush"),
    "build": ("bequest.cli.planned", "build"),
}
"""Each phase and the function that is it."""


def main() -> int:
    """Run the command with its parts timed, and write what they took."""
    began = time.perf_counter()
    result, *arguments = sys.argv[1:]
    spent: dict[str, float] = {}
    starts: list[float] = []
    for phase, (module_name, name) in PARTS.items():
        module = importlib.import_module(module_name)
        setattr(module, name, _timed(getattr(module, name), phase, spent, starts))
    from bequest.cli.main import main as command

    code = command(["inherit", *arguments])
    spent["start"] = starts[0] - began
    spent["whole"] = time.perf_counter() - began
    Path(result).write_text(json.dumps(spent))
    return code


def _timed(
    function: Callable[..., Any], phase: str, spent: dict[str, float], starts: list[float]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        starts.append(started)
        try:
            return function(*args, **kwargs)
        finally:
            spent[phase] = spent.get(phase, 0.0) + time.perf_counter() - started

    return timed


if __name__ == "__main__":
    sys.exit(main())
