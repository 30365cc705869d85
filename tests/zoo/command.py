"""Runs the `bequest` command as a user does, or forked from a warm process and killed at will."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ENTRY = "import sys; from bequest.cli.main import main; sys.exit(main())"
"""What the console script does."""


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    """Exit code; minus a signal's number if one ended it."""
    stdout: str
    stderr: str


def command_line(*arguments: object) -> list[str]:
    """The command as a list for `subprocess`."""
    return [sys.executable, "-c", ENTRY, *map(str, arguments)]


def _home() -> Path:
    """Where the bequest under test lies."""
    import bequest

    return Path(bequest.__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """The surroundings of a user who has bequest on the path and no network."""
    return {**os.environ, "PYTHONPATH": str(_home()), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(*arguments: object, **options: Any) -> Outcome:
    """Run the command in a fresh interpreter."""
    options.setdefault("env", environment())
    done = subprocess.run(command_line(*arguments), capture_output=True, text=True, **options)
    return Outcome(done.returncode, done.stdout, done.stderr)


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["transformers.models.llama.modeling_llama", "bequest.inheritance.inherit", "zoo.command"]
    )
    # The server imports by its own path, which is that of the environment it is started in.
    outside = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if outside is not None:
            os.environ["PYTHONPATH"] = outside
    return context


def run_warm(*arguments: object, log: Path, moment: int | None = None) -> Outcome:
    """Run the command in a fork of a process that has imported everything, in a tenth of a second.

    Args:
        arguments: of the command.
        log: a folder outside of what the command touches, for its output.
        moment: kill it with SIGKILL just before its file system call of this number, counted from
            nought; None lets it end.
    """
    log.mkdir(exist_ok=True)
    process = _server().Process(
        target=_watch, args=(_home(), list(map(str, arguments)), log, moment)
    )
    process.start()
    process.join(120)
    assert not process.is_alive(), "the command hangs"
    texts = [(log / name).read_text() for name in ("code", "stdout", "stderr")]
    return Outcome(int(texts[0]), *texts[1:])


def _watch(home: Path, arguments: list[str], log: Path, moment: int | None) -> None:
    """Run the command in a child and write down how it ended.

    What multiprocessing itself says of a process's end cannot be trusted where threads start
    several: each start polls all others, and of two that poll one process the second reads 255.
    """
    (log / "code").unlink(missing_ok=True)
    command = os.fork()
    if not command:
        _run(home, arguments, log, moment)
    _, status = os.waitpid(command, 0)
    (log / "code").write_text(str(os.waitstatus_to_exitcode(status)))


def _run(home: Path, arguments: list[str], log: Path, moment: int | None) -> NoReturn:
    for number, name in [(1, "stdout"), (2, "stderr")]:
        os.dup2(os.open(log / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.argv = ["bequest", *arguments]
    from bequest.cli.main import main

    assert Path(sys.modules["bequest"].__file__ or "").is_relative_to(home)
    count_moments(log / "moments", moment)
    sys.exit(main())


WRITING = ["write", "pwrite", "pwritev", "writev", "sendfile", "copy_file_range", "splice"]
LASTING = ["fsync", "fdatasync", "ftruncate", "posix_fallocate", "close"]
EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")


def count_moments(record: Path, moment: int | None) -> None:
    """Count this process's calls that change files, and kill it just before the one numbered.

    Python reports most such calls to audit hooks; the calls on descriptors it does not report are
    wrapped. Calls through ctypes (exchanging two names) are reported as a look-up in a library.
    """
    descriptor = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    seen = 0
    real_write = os.write

    def reached(what: str) -> None:
        nonlocal seen
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
        real_write(descriptor, f"{what}\n".encode())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS or (event == "open" and _writes(arguments)):
            reached(f"{event} {arguments[0]}")
        elif event == "ctypes.dlsym":
            reached(event)

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            reached(name)
            return real(*arguments, **options)

        return call

    for name in [*WRITING, *LASTING]:
        setattr(os, name, counted(name, getattr(os, name)))
    sys.addaudithook(hook)


def _writes(arguments: tuple[Any, ...]) -> bool:
    path, _, flags = arguments
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and not str(path).startswith("/dev")


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own at `folder`; the test is skipped where mounting is forbidden."""
    import pytest

    folder.mkdir()
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
