"""What is to be diagnosed: all that can be refused before the model is loaded."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.checkpoints.locate import Location, locate
from bequest.errors import InputError
from bequest.results import FILE_NAME

if TYPE_CHECKING:
    import torch

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_BYTES_PER_WEIGHT = 40
"""Of an attention matrix: as it is, in float64, its product, and what the solver needs."""


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig:
    """What `bequest diagnose` is asked to do."""

    model: str
    """Model to diagnose: a folder, or a hub id."""
    texts: str
    """Texts to read: a .jsonl file with a "text" in each line, or a .txt file."""
    out: str | None = None
    """Folder to write results.json to."""
    sequences: int = 100
    """Sequences to measure ranks, masses and influence of."""
    length: int = 100
    """Tokens of a sequence."""
    threshold: float = 0.90
    """Share of an attention matrix's squared norm that rank and mass must hold."""
    leave_one_out: bool = False
    """Also measure the loss without each block, which takes several times as long."""
    leave_one_out_sequences: int = 20
    """Of how many of the sequences."""
    sequences_per_batch: int = 10
    """Sequences that run through the model at once."""
    dtype: str = "auto"
    """Run the model in float32, bfloat16 or float16; auto is that of its files."""
    revision: str | None = None
    """Branch, tag or commit, if the model is a hub id."""
    overwrite: bool = False
    """Replace results.json in `out`."""
    trust_remote_code: bool = False
    """Let Python files of the model's folder run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DiagnosePlan:
    """Sequences ready to be read by a model that is not loaded yet."""

    config: DiagnoseConfig
    """What was asked."""
    location: Location
    """Where the model is."""
    input_ids: Sequence[Sequence[int]]
    """The sequences, all of one length."""
    num_parameters: int
    """Of the model."""
    num_layers: int
    """Blocks of the model."""
    num_heads: int
    """Query heads of a block."""
    dtype: torch.dtype
    """In which it runs."""

    def cost(self) -> tuple[float, float]:
        """Return about how many seconds and bytes it takes, by a quick test of the machine."""
        import torch

        from bequest.inheritance.diagnose_ranks import attention_rank

        config = self.config
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        matrix = torch.ones(1024, 1024, device=device, dtype=self.dtype)
        rates = []
        for _ in range(3):
            started = time.perf_counter()
            float((matrix @ matrix)[0, 0])
            rates.append(2 * 1024**3 / (time.perf_counter() - started))
        passes = float(config.sequences)
        if config.leave_one_out:
            # Half of the blocks on average, but always the head.
            passes += config.leave_one_out_sequences * (1 + 0.7 * self.num_layers)
        seconds = 2 * self.num_parameters * config.length * passes / max(rates)
        some = torch.rand(8, config.length, config.length, dtype=torch.float64).tril()
        started = time.perf_counter()
        attention_rank(some, config.threshold)
        per_matrix = (time.perf_counter() - started) / len(some)
        matrices = self.num_heads * config.sequences * self.num_layers
        batch = config.sequences_per_batch * self.num_heads * config.length**2
        num_bytes = self.num_parameters * torch.finfo(self.dtype).bits // 8
        return seconds + per_matrix * matrices, float(num_bytes + batch * _BYTES_PER_WEIGHT)


def plan_diagnose(config: DiagnoseConfig, texts: Sequence[str]) -> DiagnosePlan:
    """Read the model's configuration, cut the texts into sequences, refuse what must be refused.

    Args:
        config: what is asked.
        texts: the texts that `config.texts` names.

    Raises:
        InputError: an argument, the model's folder or the texts are at fault.
    """
    _check(config)
    location = locate(config.model, revision=config.revision, field="model")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    trust = {"trust_remote_code": config.trust_remote_code}
    try:
        model_config = AutoConfig.from_pretrained(location.folder, **trust)
        asked = None if config.dtype == "auto" else getattr(torch, config.dtype)
        dtype = asked or getattr(model_config, "dtype", None) or torch.float32
        with torch.device("meta"):
            skeleton: Any = AutoModelForCausalLM.from_config(model_config, dtype=dtype, **trust)
        tokenizer = AutoTokenizer.from_pretrained(location.folder, **trust)
    except Exception as error:  # Which kinds it raises depends on what is wrong.
        raise problem(f"model {location.name} cannot be read", error) from error
    text_config = model_config.get_text_config()
    positions = getattr(text_config, "max_position_embeddings", None)
    if positions is not None and config.length > positions:
        raise InputError(
            f"length is {config.length}, but the model has {positions} positions; give {positions} "
            "or less"
        )
    return DiagnosePlan(
        config=config,
        location=location,
        input_ids=cut_sequences(tokenizer, texts, config.sequences, config.length),
        num_parameters=skeleton.num_parameters(),
        num_layers=text_config.num_hidden_layers,
        num_heads=getattr(text_config, "num_attention_heads", None) or 1,
        dtype=dtype,
    )


def cut_sequences(tokenizer: Any, texts: Sequence[str], count: int, length: int) -> list[list[int]]:
    """Return sequences of equal length: each text's beginning, then, if too few, what follows.

    Texts that are too short are joined with the ones after them by an empty line. Every sequence
    begins with the tokens that the tokenizer puts before a text.

    Args:
        tokenizer: of transformers.
        texts: any number of texts.
        count: how many sequences are wanted.
        length: tokens of each.

    Raises:
        InputError: the texts are too short in all.
    """
    if isinstance(texts, str):
        raise InputError("texts must be a sequence of texts, got one str; pass [text]")
    prefix = _prefix(tokenizer)
    room = length - len(prefix)
    pieces: list[list[list[int]]] = []
    pending = ""
    for text in texts:
        pending = f"{pending}\n\n{text}" if pending else text
        ids: list[int] = tokenizer(
            pending, add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]
        if len(ids) < room:
            continue
        starts = range(0, len(ids) - room + 1, room)
        pieces.append([[*prefix, *ids[start : start + room]] for start in starts])
        pending = ""
        if len(pieces) == count:
            break
    found: list[list[int]] = []
    for place in range(max(map(len, pieces), default=0)):
        found += [own[place] for own in pieces if place < len(own)]
    if len(found) < count:
        raise InputError(
            f"texts give {len(found)} sequences of {length} tokens, and {count} are asked for; "
            "give more text, or lower sequences or length"
        )
    return found[:count]


def problem(what: str, error: Exception) -> InputError:
    """Turn whatever transformers raised into one sentence."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{what}: {reason[:200].rstrip('.')}")


def _prefix(tokenizer: Any) -> list[int]:
    """Return the tokens that a tokenizer puts before a text by itself."""
    plain: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    return []


def _check(config: DiagnoseConfig) -> None:
    from bequest.inheritance.diagnose_anatomy import PROBE_TOKENS

    if config.dtype not in _DTYPES:
        raise InputError(f"dtype is {config.dtype!r}; choose one of {', '.join(_DTYPES)}")
    if not 0.0 < config.threshold < 1.0:
        raise InputError(f"threshold is {config.threshold}; give a share between 0 and 1")
    least = {
        "sequences": 1,
        "length": PROBE_TOKENS,
        "leave_one_out_sequences": 1,
        "sequences_per_batch": 1,
    }
    for field, value in least.items():
        if getattr(config, field) < value:
            raise InputError(f"{field} is {getattr(config, field)}; it must be at least {value}")
    if config.leave_one_out and config.leave_one_out_sequences > config.sequences:
        raise InputError(
            f"leave_one_out_sequences is {config.leave_one_out_sequences}, but there are "
            f"{config.sequences} sequences; raise sequences"
        )
    if config.out is not None:
        _check_out(Path(config.out).expanduser(), overwrite=config.overwrite)


def _check_out(out: Path, *, overwrite: bool) -> None:
    nearest = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"out {out} cannot be written: {nearest} takes no files; name a folder")
    if (out / FILE_NAME).exists() and not overwrite:
        raise InputError(f"out {out} holds a {FILE_NAME}; name another folder or pass --overwrite")
