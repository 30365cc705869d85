"""The tables and the figure of the cells that are done."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.page import write_section
from experiments.inheritance.command_tables import diagnosed, rivals
from experiments.inheritance.data import ROOT
from experiments.inheritance.figure import draw
from experiments.inheritance.run import LONGER, Study
from experiments.inheritance.runs import Run, chosen, gap, key, read_all, steps_to_reach

RESULTS = ROOT / "experiments" / "RESULTS.md"


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


def of_longer(runs: Sequence[Run], name: str) -> list[str]:
    """One row a rival: blocks of the longer trained reference less the rival, seed 0."""
    ours = [r for r in runs if r.cell.study == name and r.cell.reference_times > 1]
    if not ours:
        return []
    (our,) = ours
    times, depth = our.cell.reference_times, our.cell.depth
    rivals = (
        (f"the reference, {times} times the steps", f"reference x{times}", 0),
        ("inherited from the reference", "inherited", depth),
        ("drawn", "scratch", depth),
        ("drawn, twice the steps", "scratch x2", depth),
    )
    lines = [f"| {depth} blocks of the longer trained reference less | difference |", "|---|---|"]
    for label, start, blocks in rivals:
        for run in runs:
            same = run.cell.seed == our.cell.seed and run.cell.depth == (blocks or run.cell.depth)
            if key(run)[:2] == (name, start) and same:
                cell = written(gap([our.nats["raw"][-1]], [run.nats["raw"][-1]], our.tokens))
                lines.append(f"| {label} | {cell} |")
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
        f"A reference trained {LONGER} times as long:",
        "",
        *of_longer(runs, "small"),
        "",
        *diagnosed("small"),
        "",
        *diagnosed("small", LONGER),
        "",
        *rivals(),
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
