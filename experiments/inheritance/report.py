"""The tables and the figure of the cells that are done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.page import write_section
from experiments.inheritance.data import CELLS, ROOT
from experiments.inheritance.run import Cell, Study, diagnosis_of

FIGURE = ROOT / "docs" / "inheritance.png"
RESULTS = ROOT / "experiments" / "RESULTS.md"
DRAWS = 2000
CURVES = ("raw", "lawa")
Losses = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """The losses of one cell."""

    cell: Cell
    """What was run."""
    steps: tuple[int, ...]
    """At which it was measured."""
    nats: dict[str, Losses]
    """(S, D) nats of each document at each step, by curve; NaN where an average was not yet."""
    tokens: NDArray[np.int64]
    """(D,) tokens of each document."""
    parameters: int
    """Of the model."""
    seconds: float
    """Of the processor."""

    @classmethod
    def read(cls, file: Path) -> Run:
        """Read a cell's file."""
        document = json.loads(file.read_text())
        points = document["curves"]
        tokens = np.array(points[0]["raw"]["tokens"])
        nothing = {"nats": [np.nan] * len(tokens)}
        nats = {c: np.array([p.get(c, nothing)["nats"] for p in points]) for c in CURVES}
        return cls(
            cell=Cell(**{k: document[k] for k in Cell.__dataclass_fields__ if k in document}),
            steps=tuple(point["step"] for point in points),
            nats=nats,
            tokens=tokens,
            parameters=document["parameters"],
            seconds=document["processor_seconds"],
        )

    def curve(self, name: str) -> Losses:
        """(S,) nats a token."""
        losses: Losses = self.nats[name].sum(1) / self.tokens.sum()
        return losses

    def at(self, step: int, name: str = "raw") -> Losses:
        """(D,) nats of each document at a step."""
        nats: Losses = self.nats[name][self.steps.index(step)]
        return nats


def gap(
    ours: Sequence[Losses], others: Sequence[Losses], tokens: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Mean difference in nats a token over seeds, and its 95 % interval over seeds and documents.

    Args:
        ours: (D,) nats of each document, one array a seed.
        others: what each is compared with, in the same order, on the same documents.
        tokens: (D,) tokens of each document.
    """
    generator = np.random.default_rng(0)
    apart = np.array(ours) - np.array(others)
    seeds, documents = apart.shape
    found = []
    for _ in range(DRAWS):
        drawn = generator.integers(documents, size=documents)
        chosen = generator.integers(seeds, size=seeds)
        found.append(apart[chosen][:, drawn].sum() / (seeds * tokens[drawn].sum()))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(apart.sum() / (seeds * tokens.sum())), float(low), float(high)


def steps_to_reach(steps: Sequence[int], losses: Iterable[float], level: float) -> float | None:
    """The step at which a curve, drawn straight between its points, is first at or below a level."""
    before: tuple[int, float] | None = None
    for step, loss in zip(steps, losses, strict=True):
        if loss <= level:
            if before is None:
                return float(step)
            share = (before[1] - level) / (before[1] - loss)
            return before[0] + share * (step - before[0])
        before = step, loss
    return None


def best_rate(runs: Sequence[Run], study: str, start: str, depth: int) -> float | None:
    """The rate of the lowest raw loss at the end, with seed 0."""
    own = [r for r in runs if key(r) == (study, start, depth) and r.cell.seed == 0]
    if not own:
        return None
    return min(own, key=lambda run: run.curve("raw")[-1]).cell.rate


def key(run: Run) -> tuple[str, str, int]:
    """What a row of a table is about: study, start (and how many times the steps), depth."""
    longer = "" if run.cell.times == 1 else f" x{run.cell.times}"
    longer += "" if run.cell.reference_times == 1 else f" of x{run.cell.reference_times}"
    return run.cell.study, run.cell.start + longer, run.cell.depth


def chosen(runs: Sequence[Run], study: str, start: str, depth: int) -> dict[int, Run]:
    """The runs of the best rate, by seed."""
    rate = best_rate(runs, study, start, depth)
    own = [r for r in runs if key(r) == (study, start, depth) and r.cell.rate == rate]
    return {run.cell.seed: run for run in sorted(own, key=lambda run: run.cell.seed)}


def sweep(runs: Sequence[Run], name: str, study: Study) -> list[str]:
    """One row a depth, start and rate, of seed 0: the raw loss along the run."""
    own = [r for r in runs if r.cell.study == name and r.cell.rate and r.cell.seed == 0]
    own.sort(key=lambda run: (-run.cell.depth, run.cell.start, run.cell.rate))
    if not own:
        return []
    steps = [step for step in own[0].steps if step % (2 * study.evaluate_every) == 0 or step < 100]
    head = "| blocks | start | rate | " + " | ".join(f"step {s}" for s in steps) + " |"
    lines = [head, "|---" * (len(steps) + 3) + "|"]
    for run in own:
        curve = dict(zip(run.steps, run.curve("raw"), strict=True))
        cells = " | ".join(f"{curve[step]:.3f}" for step in steps)
        cell = run.cell
        lines.append(f"| {cell.depth} | {key(run)[1]} | {cell.rate:g} | {cells} |")
    return lines


def written(found: tuple[float, float, float]) -> str:
    """A difference with its interval."""
    return f"{found[0]:+.3f} ({found[1]:+.3f} to {found[2]:+.3f})"


def compared(runs: Sequence[Run], name: str, study: Study) -> list[str]:
    """One row a depth: inherited less drawn, each at its own best rate, same seeds and text."""
    lines: list[str] = []
    depths = sorted({r.cell.depth for r in runs if key(r)[:2] == (name, "inherited")}, reverse=True)
    for depth in depths:
        ours = chosen(runs, name, "inherited", depth)
        others = chosen(runs, name, "scratch", depth)
        seeds = sorted(ours.keys() & others.keys())
        if not seeds:
            continue
        one, other = ours[seeds[0]], others[seeds[0]]
        steps = [step for step in one.steps if step]
        if not lines:
            head = "".join(f" step {step} |" for step in steps)
            lines = [f"| blocks | rates | seeds |{head} reaches the other's end at |"]
            lines.append("|---" * (len(steps) + 4) + "|")
        cells = []
        for step in steps:
            found = gap(
                [ours[s].at(step) for s in seeds], [others[s].at(step) for s in seeds], one.tokens
            )
            cells.append(
                written(found) if step >= study.steps - study.decay else f"{found[0]:+.3f}"
            )
        mean = np.mean([ours[seed].curve("raw") for seed in seeds], axis=0)
        level = float(np.mean([others[seed].curve("raw")[-1] for seed in seeds]))
        reached = steps_to_reach(one.steps, mean, level)
        when = "never" if reached is None else f"step {reached:.0f}"
        rates = f"{one.cell.rate:g}, {other.cell.rate:g}"
        row = [str(depth), rates, str(len(seeds)), *cells, when]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def against_reference(runs: Sequence[Run], name: str) -> list[str]:
    """One row a start: the loss at the end, and its difference to the trained reference."""
    references = [r for r in runs if key(r)[:2] == (name, "reference")]
    if not references:
        return []
    reference = references[0]
    lines = ["| blocks | start | parameters | seeds | loss at the end | less the reference's |"]
    lines.append("|---" * 6 + "|")
    loss = reference.curve("raw")[-1 if reference.cell.rate else 0]
    lines.append(
        f"| {reference.cell.depth} | reference | {reference.parameters:,} | 1 | {loss:.3f} | |"
    )
    target = reference.nats["raw"][-1 if reference.cell.rate else 0]
    rows = sorted({key(r)[:0:-1] for r in runs if r.cell.study == name} - {key(reference)[:0:-1]})
    for depth, start in reversed(rows):
        own = list(chosen(runs, name, start, depth).values())
        ends = [run.nats["raw"][-1] for run in own]
        loss = float(np.mean([run.curve("raw")[-1] for run in own]))
        cell = written(gap(ends, [target] * len(ends), reference.tokens))
        lines.append(
            f"| {depth} | {start} | {own[0].parameters:,} | {len(own)} | {loss:.3f} | {cell} |"
        )
    return lines


def averaged(runs: Sequence[Run], name: str, study: Study) -> list[str]:
    """One row a start: LAWA less the raw weights of the same run and step."""
    lines: list[str] = []
    own = [r for r in runs if r.cell.study == name and r.cell.rate and r.cell.times == 1]
    rows = sorted({key(r)[:0:-1] for r in own})
    for depth, start in reversed(rows):
        own = list(chosen(runs, name, start, depth).values())
        steps = [
            step
            for step, loss in zip(own[0].steps, own[0].curve("lawa"), strict=True)
            if not np.isnan(loss)
        ]
        if not lines:
            lines = ["| blocks | start | seeds | " + " | ".join(f"step {s}" for s in steps) + " |"]
            lines.append("|---" * (len(steps) + 3) + "|")
        cells = []
        for step in steps:
            found = gap([r.at(step, "lawa") for r in own], [r.at(step) for r in own], own[0].tokens)
            cells.append(
                written(found) if step >= study.steps - study.decay else f"{found[0]:+.3f}"
            )
        lines.append(f"| {depth} | {start} | {len(own)} | " + " | ".join(cells) + " |")
    return lines


def draw(runs: Sequence[Run], panels: Sequence[tuple[str, int, str]]) -> None:
    """Held-out loss along the runs, a panel a study and depth, at each start's best rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.8), dpi=90)
    colours = {"inherited": "tab:blue", "scratch": "tab:orange", "reference": "grey"}
    for axis, (study, depth, title) in zip(np.atleast_1d(axes), panels, strict=True):
        for start, colour in colours.items():
            depths = {r.cell.depth for r in runs if key(r)[:2] == (study, start)}
            of = depth if depth in depths else max(depths, default=0)
            own = list(chosen(runs, study, start, of).values())
            if start == "reference" and own and not own[0].cell.rate:
                axis.axhline(own[0].curve("raw")[0], color=colour, label="whole model")
            if not own or not own[0].cell.rate:
                continue
            for name, style in zip(CURVES, ("-", ":"), strict=True):
                curves = np.array([run.curve(name) for run in own])
                x = np.array(own[0].steps)
                label = start if name == "raw" else f"{start}, LAWA"
                axis.plot(x, curves.mean(0), style, color=colour, label=label)
                axis.fill_between(x, curves.min(0), curves.max(0), color=colour, alpha=0.15)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(axes)[0].set_ylabel("held-out loss (nats/token)")
    np.atleast_1d(axes)[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(FIGURE)


def read_all() -> list[Run]:
    """The cells that are done."""
    return [Run.read(file) for file in sorted(CELLS.glob("*_*_*_*_*.json"))]


def _trained_here(runs: Sequence[Run], small: Study) -> list[str]:
    """Return the part on the reference that is trained here."""
    return [
        f"### A reference trained here, {small.steps} steps of {small.tokens_per_step} tokens",
        "",
        f"{small.depth} blocks of width 192, vocabulary {small.vocab_size}; its half inherits "
        "the reference's weights at the end of its training.",
        "",
        *against_reference(runs, "small"),
        "",
        f"Inherited less scratch; the decay begins at {small.steps - small.decay}:",
        "",
        *compared(runs, "small", small),
        "",
        f"LAWA (snapshots {small.spacing} steps apart) less the raw weights of the same step:",
        "",
        *averaged(runs, "small", small),
        "",
        *diagnosed("small"),
    ]


def report(studies: dict[str, Study]) -> None:
    """Write RESULTS.md's section and the figure."""
    runs = read_all()
    small, big = studies["small"], studies["smollm2"]
    body = "\n".join(
        [
            "`python -m experiments.inheritance`: Brown corpus and a sample of Wikipedia, one passage "
            "held out of each of 61 texts, AdamW (0.9, 0.95), weight decay 0.1, gradient norm at "
            "most 1, bf16 autocast, warm-up, constant rate, linear decay to a tenth. LAWA: the mean "
            "of five snapshots. Held-out loss in nats a token; in brackets 95 % bootstrap intervals "
            "over seeds and documents, the same documents in all runs. `inherited` has the first "
            "blocks of the reference and all of its tensors outside the blocks, `scratch` the same "
            "shape, drawn, `scratch x2` the same for twice the steps.",
            "",
            f"### SmolLM2-135M cut, {big.steps} steps of {big.tokens_per_step} tokens",
            "",
            *against_reference(runs, "smollm2"),
            "",
            f"Inherited less scratch, each at its best rate; the decay begins at "
            f"{big.steps - big.decay}:",
            "",
            *compared(runs, "smollm2", big),
            "",
            f"LAWA (snapshots {big.spacing} steps apart) less the raw weights of the same step:",
            "",
            *averaged(runs, "smollm2", big),
            "",
            "All rates, seed 0, raw weights:",
            "",
            *sweep(runs, "smollm2", big),
            "",
            *(_trained_here(runs, small) if any(run.cell.study == "small" for run in runs) else ()),
        ]
    )
    write_section("inheritance", "Inherited blocks against drawn ones", body, RESULTS)
    panels = [
        ("smollm2", 8, "SmolLM2, 8 of 30 blocks"),
        ("smollm2", 15, "SmolLM2, 15 of 30 blocks"),
        ("small", small.depth // 2, f"{small.depth // 2} of {small.depth} blocks trained here"),
    ]
    done = {(run.cell.study, run.cell.depth) for run in runs}
    draw(runs, [panel for panel in panels if panel[:2] in done])
    print(body)


def diagnosed(name: str) -> list[str]:
    """What `bequest diagnose` says of a study's reference: one row a block."""
    file = diagnosis_of(name)
    if not file.is_file():
        return []
    (table,) = (
        section["data"]
        for section in json.loads(file.read_text())["sections"]
        if section["title"] == "Blocks"
    )
    lines = ["`bequest diagnose --leave-one-out` on the reference:", ""]
    lines += ["| " + " | ".join(table["columns"]) + " |", "|---" * len(table["columns"]) + "|"]
    for row in table["rows"]:
        lines.append("| " + " | ".join(_shown(value) for value in row) + " |")
    return lines


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
