"""`bequest average RUN OUT --window K --spacing STEPS`, along a run, in search, or live."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.averaging.average import plan_average
from bequest.averaging.average_config import AverageConfig
from bequest.averaging.build import build, summary, verify
from bequest.averaging.plan import AveragePlan
from bequest.checkpoints.lineage import command_line
from bequest.cli.arguments import build_parser, to_config
from bequest.cli.output import print_json, print_notes, print_table, print_written
from bequest.errors import INTERRUPTED, InputError
from bequest.results import Section, results_document

if TYPE_CHECKING:
    from bequest.evaluation.held_out import HeldOutText

_MODES = ("sliding", "search", "follow")
_MODE_OF = {
    "texts": ("sliding", "search"),
    "discard": ("sliding",),
    "windows": ("search",),
    "spacings": ("search",),
    "keep": ("follow",),
    "poll": ("follow",),
}
"""Fields that mean something in one mode only."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the command line after `bequest average`.
    """
    parser = build_parser(
        AverageConfig,
        prog="bequest average",
        description="Average checkpoints of a training run: `bequest average RUN OUT --window 5`.",
        positionals=("sources",),
    )
    started = time.monotonic()
    parsed = parser.parse_args(list(arguments))
    config = _placed(to_config(AverageConfig, parsed))
    mode = _mode(config)
    show = _Show(quiet=parsed.quiet, as_json=parsed.json, started=started)
    if mode is not None and parsed.dry_run:
        return _forecast(mode, config, show)
    if mode == "sliding":
        return _slide(config, show)
    if mode == "search":
        return _search(config, show)
    if mode == "follow":
        return _follow(config, show)
    plan = plan_average(config)
    if not parsed.dry_run:
        plan = build(plan, progress=show.progress)
    elif plan.judged:
        verify(plan)
    show.plan(plan, dry_run=parsed.dry_run)
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Show:
    """What is printed, and how."""

    quiet: bool
    as_json: bool
    started: float

    @property
    def progress(self) -> bool:
        """Whether bars are shown."""
        return not self.quiet and not self.as_json and sys.stderr.isatty()

    def sections(
        self, sections: Sequence[Section], lines: Sequence[str], folder: Path | None = None
    ) -> None:
        """Print tables and sentences, or as JSON what lies in the folder, if it was written."""
        if self.as_json and folder is not None:
            print_written(folder)
        elif self.as_json:
            print_json(results_document(command_line(), sections))
        elif not self.quiet:
            for section in sections:
                if section.type == "table":
                    print_table(section)
            print_notes(lines)

    def plan(self, plan: AveragePlan, *, dry_run: bool) -> None:
        """Print one average."""
        lines = [
            f"file    {shard.file_name}  {len(shard.header) + shard.num_bytes:,} bytes"
            for shard in plan.shards
            if dry_run
        ]
        done = "Nothing was written: dry run." if dry_run else self.written(plan.target)
        folder = None if dry_run else plan.target
        self.sections(summary(plan), [*lines, *plan.notes, done], folder)

    def written(self, target: object) -> str:
        """Say what was written and how long it took."""
        return f"{target} in {time.monotonic() - self.started:.1f} s"


def _forecast(mode: str, config: AverageConfig, show: _Show) -> int:
    """Say what one of the modes would read and write."""
    from bequest.averaging.follow_plan import plan_follow
    from bequest.averaging.search import plan_search
    from bequest.averaging.sliding import plan_slide

    if mode == "sliding":
        evaluated = _evaluator(config) is not None
        planned = plan_slide(config, evaluated=evaluated, keep=not config.discard)
    elif mode == "search":
        _required_evaluator(config)
        planned = plan_search(config, **_choices(config))
    else:
        planned = plan_follow(config, keep=config.keep, poll=config.poll)
    show.sections(planned.sections(), [*planned.notes, "Nothing was written: dry run."])
    return 0


def _choices(config: AverageConfig) -> dict[str, Any]:
    """Return what a search chooses from."""
    from bequest.averaging.search import DEFAULT_WINDOWS

    return {
        "windows": _numbers("windows", config.windows) or DEFAULT_WINDOWS,
        "spacings": _numbers("spacings", config.spacings),
    }


def _slide(config: AverageConfig, show: _Show) -> int:
    from bequest.averaging.sliding import slide

    evaluate = _evaluator(config)
    made = slide(
        config,
        evaluate=evaluate,
        evaluation=None if evaluate is None else evaluate.fingerprint,
        keep=not config.discard,
        progress=show.progress,
    )
    show.sections(made.sections(), [*made.notes, show.written(made.target)], made.target)
    return 0


def _search(config: AverageConfig, show: _Show) -> int:
    from bequest.averaging.search import search

    evaluate = _required_evaluator(config)
    found = search(
        config,
        **_choices(config),
        evaluate=evaluate,
        evaluation=evaluate.fingerprint,
        progress=show.progress,
    )
    window = found.best.window
    best = f"best: window {window.size}, spacing {window.spacing}"
    lines = [*found.notes, best, show.written(found.plan.target)]
    show.sections(found.sections(), lines, found.plan.target)
    return 0


def _follow(config: AverageConfig, show: _Show) -> int:
    from bequest.averaging.follow import follow

    def report(plan: AveragePlan) -> None:
        if show.as_json:
            print_written(plan.target)
        elif not show.quiet:
            steps = ", ".join(str(member.step) for member in plan.members)
            print(f"  {plan.target}  of the steps {steps}", flush=True)

    try:
        follow(
            config,
            keep=config.keep,
            poll=config.poll,
            report=report,
            progress=show.progress,
        )
    except KeyboardInterrupt:
        print(
            "bequest average: stopped; the same command goes on from here.",
            file=sys.stderr,
        )
        return INTERRUPTED
    if not show.quiet and not show.as_json:
        print("  The run has ended.")
    return 0


def _placed(config: AverageConfig) -> AverageConfig:
    """Take the folder to write from the end of what was given by place, as `cp` does."""
    if config.out is None and config.sources:
        *sources, out = config.sources
        return dataclasses.replace(config, sources=tuple(sources), out=out)
    return config


def _mode(config: AverageConfig) -> str | None:
    """Return which of the modes is asked for, refusing two, and options of others."""
    chosen = [name for name in _MODES if getattr(config, name)]
    if len(chosen) > 1:
        raise InputError(f"--{chosen[0]} and --{chosen[1]} exclude each other; choose one.")
    default = AverageConfig()
    for field, modes in _MODE_OF.items():
        if getattr(config, field) != getattr(default, field) and not set(modes) & set(chosen):
            wanted = " or ".join(f"--{mode}" for mode in modes)
            raise InputError(f"{field} means something with {wanted} only; leave it out.")
    return chosen[0] if chosen else None


def _evaluator(config: AverageConfig) -> HeldOutText | None:
    if config.texts is None:
        return None
    from bequest.evaluation.held_out import HeldOutText

    return HeldOutText(config.texts)


def _required_evaluator(config: AverageConfig) -> HeldOutText:
    evaluate = _evaluator(config)
    if evaluate is None:
        raise InputError("texts is missing; --search needs held-out text to choose by.")
    return evaluate


def _numbers(field: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{field} is {text!r}; give whole numbers, such as 500,1000.") from error
