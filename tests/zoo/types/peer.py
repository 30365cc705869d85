"""What mergekit makes of each type, measured by `benchmarks.mergekit_types`, in the page's words."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

VERDICTS = Path(__file__).with_name("mergekit.json")

_WORDS = {
    "right": "right",
    "refuses": "refuses or fails: {reason}",
    "dies": "dies after writing weights, no config.json: {reason}",
    "does not load": "does not load: {reason}",
    "drawn at random": "loads, {detail} drawn at random",
    "does not run": "loads, does not run",
    "computes something else": "**loads, computes something else**",
}
"""By verdict, what the table says. `{detail}` is what was measured, such as "27 tensors"."""
_WORDS_BY_HAND = {"does not load": "does not load"}
"""Without the reason: a list as long as before, or the last line of a table of them."""
_INTRODUCTION = """## What mergekit makes of them

Each type's tiny model, as transformers {transformers} writes it, was cut to the same first half by a
passthrough merge of mergekit {mergekit} (torch {torch}, {date}), with `slices`, or with `modules` where
it asks for them: `benchmarks/mergekit_types.py`. A result is right if transformers loads every tensor
and the logits are those of the whole model with the other blocks skipped, to 1e-5, as in the tests of
bequest's cuts. The tiny models are random and irregular on purpose: sliding and full attention, dense
and sparse blocks in no pattern. A regular model, or a checkpoint in the layout that mergekit's
definitions name, may fare better: tried by hand, a Qwen3-MoE without dense blocks was cut, while Qwen2,
Qwen3 and Gemma 2 with regular blocks and no `layer_types` in `config.json` died as here.

mergekit claims {claimed} of these {total} types: they have a definition among its own. The others it
infers, warning that it knows no field for the depth; `config.json` keeps the old one. For those the
column adds what came of it when we set the depth by hand.
"""


@cache
def record() -> dict[str, Any]:
    """Return versions, date and verdicts."""
    found: dict[str, Any] = json.loads(VERDICTS.read_text(encoding="utf-8"))
    return found


def verdict(model_type: str) -> str:
    """Return what mergekit makes of a type, in a few words."""
    entry = record()["verdicts"][model_type]
    if entry["claimed"]:
        return _in_words(entry)
    said = f"*inferred*: {_in_words(entry)}"
    if "depth_by_hand" in entry:
        by_hand = _WORDS_BY_HAND.get(entry["depth_by_hand"]["verdict"])
        said += f"; depth set by hand: {by_hand or _in_words(entry['depth_by_hand'])}"
    return said


def _in_words(entry: dict[str, Any]) -> str:
    detail: str = entry["detail"]
    reason = detail.rpartition(" ... ")[2].partition(" in model ")[0]
    reason = re.sub(r"^\w+Error: ", "", reason)
    return _WORDS[entry["verdict"]].format(detail=detail, reason=reason).removesuffix(": ")


def section() -> list[str]:
    """Return the page's section of counts: mergekit and bequest, claimed types and others."""
    entries = record()["verdicts"].values()
    claimed = [entry["verdict"] for entry in entries if entry["claimed"]]
    others = [entry for entry in entries if not entry["claimed"]]
    by_hand = [entry.get("depth_by_hand", entry)["verdict"] for entry in others]
    introduction = _INTRODUCTION.format(**record(), claimed=len(claimed), total=len(entries))
    head = " | ".join(["", *_HEADINGS.values()])
    return [
        introduction,
        f"| {head} |\n|{'---|' * (len(_HEADINGS) + 1)}",
        _row(f"mergekit, the {len(claimed)} it claims", claimed),
        _row(f"mergekit, the {len(others)} others", (entry["verdict"] for entry in others)),
        _row("the same, depth set by hand", by_hand),
        _row(f"bequest, all {len(entries)} (held by the tests)", ["right"] * len(entries)) + "\n",
    ]


_HEADINGS = {
    "right": "right",
    "refuses": "refused or failed",
    "dies": "died",
    "does not load": "does not load",
    "drawn at random": "blocks drawn at random",
    "does not run": "does not run",
    "computes something else": "silently wrong",
}


def _row(name: str, verdicts: Iterable[str]) -> str:
    counted = Counter(verdicts)
    assert counted.keys() <= _HEADINGS.keys()
    return f"| {name} | " + " | ".join(str(counted[kind]) for kind in _HEADINGS) + " |"
