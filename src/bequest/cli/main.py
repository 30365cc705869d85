"""The `bequest` command: finds the file of the command that is asked for, and its exit code.

This file imports nothing heavy: `bequest --help` must answer at once.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from bequest.errors import INTERRUPTED, BequestError

COMMANDS = {
    "inherit": "cut a smaller model out of a bigger one",
    "grow": "append the teacher's next blocks to a student",
    "inheritune": "inherit, train and grow until the small model matches the big one",
    "diagnose": "see which blocks' attention has collapsed, and how deep to inherit",
    "average": "average checkpoints of a training run",
    "score": "weigh a data set's samples by their loss under the pre-trained model",
    "pretrain": "train a causal language model on text, with averages",
    "finetune": "fine-tune a model and forget less of what it could",
    "evaluate": "say what models gained and lost against another, item by item",
    "report": "show what other commands found in one HTML file",
    "lineage": "print where a model came from, and verify its files",
}
"""Every command and what it does; `cli/NAME.py` holds each."""

_TERMINATED = 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input, 1 failed, 130 interrupted.

    Args:
        arguments: the command line after `bequest`; that of this process if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        from bequest import __version__

        print(f"bequest {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        print(
            f"bequest: error: {name!r} is no command; choose one of {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        return 2
    signal.signal(signal.SIGTERM, _terminate)
    # Importing torch and transformers makes millions of objects that stay: collecting among them
    # with Python's usual eagerness takes a tenth of a short command's time.
    gc.set_threshold(50_000, 20, 100)
    try:
        command = importlib.import_module(f"bequest.cli.{name}")
        return int(command.run(rest))
    except BequestError as error:
        print(f"bequest {name}: error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        print(
            f"bequest {name}: error: the package {error.name} is missing; install bequest[train].",
            file=sys.stderr,
        )
        return 1
    except BrokenPipeError:
        # Whoever read the output stopped; say nothing more, also not when Python flushes it.
        sys.stdout = None
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"bequest {name}: error: {place}{error.strerror or error}.", file=sys.stderr)
        return 1
    except MemoryError as error:
        told = str(error) or "the machine's memory is full"
        print(f"bequest {name}: error: {told}.", file=sys.stderr)
        return 1
    except Exception as error:
        # A defect of bequest, or of a library: one line for the user, the rest for who mends it.
        if os.environ.get("BEQUEST_TRACEBACK"):
            raise
        text = " ".join(str(error).split())
        print(
            f"bequest {name}: error: unexpected {type(error).__name__}: {text} "
            "(set BEQUEST_TRACEBACK=1 to see where).",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"bequest {name}: interrupted; no half-written output was left.", file=sys.stderr)
        return INTERRUPTED


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    """Leave as on an interrupt, so that temporary files go, with the code that shells expect."""
    sys.exit(_TERMINATED)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: bequest COMMAND ...",
            "",
            "Get more out of models that are already pre-trained.",
            "",
            "commands:",
            *lines,
            "",
            "`bequest COMMAND --help` says what a command takes.",
        ]
    )
