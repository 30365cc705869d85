"""Every token's loss under a model, in one pass over the data."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from tqdm import tqdm

from bequest.errors import InputError, UnsupportedModelError
from bequest.losses.batching import plan_batches
from bequest.losses.head import CausalHead, find_head, last_hidden_states, unwrapped
from bequest.losses.processes import (
    add_up,
    from_first,
    is_sharded,
    rank_and_size,
    same_everywhere,
    share_of,
)
from bequest.losses.spool import Losses, Spool, finished_batches, identity

IGNORED = -100
"""The label of a token whose loss nobody wants, in all of transformers."""

_PROBE_TOKENS = 16
_LOGITS_AT_ONCE = 2**24
"""Elements of the largest piece of logits, 64 MiB in float32: what memory the head takes does not
depend on the vocabulary, and a matrix product of that size is as fast as a larger one."""


def token_losses(
    model: nn.Module,
    input_ids: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]] | None = None,
    *,
    tokens_per_batch: int = 4096,
    progress: bool = False,
    spool: Path | None = None,
) -> list[Losses]:
    """Compute the loss of every token of every sequence, `-log p(label_t | tokens before t)`.

    Sequences run in batches of like length, the longest first, and only as far as their last label;
    the head is applied only where a label is wanted, a piece at a time. The model runs as it is
    (its device, its dtype, a surrounding autocast), in evaluation mode and without gradients; the
    modes of its modules are restored. Log-sum-exp is taken in float32 or better.

    Where a process group exists, every process must call this with the same sequences: they share
    out the batches of one plan, and all of them return all losses, the same as one process would.

    Args:
        model: A causal language model of transformers, possibly wrapped (PEFT, DDP, FSDP2).
        input_ids: The token ids of each sequence.
        labels: For each sequence the token to predict at each position, unshifted as in
            transformers: the label at position t is predicted from the tokens before t; -100 where
            nothing is. None means the tokens themselves.
        tokens_per_batch: The most tokens, padding included, that run through the model at once.
        progress: Show a progress bar with the time left (of the first process's share).
        spool: A folder to keep finished batches in. A call with the same model, sequences and
            `tokens_per_batch`, over any number of processes, takes up what is there. Whoever names
            the folder removes it when the losses are safe elsewhere.

    Returns:
        For each sequence an array of its length, in nats, float32; NaN at position 0 and where the
        label is -100.

    Raises:
        InputError: If the labels do not fit the tokens, an id is outside the vocabulary, the
            processes pass different sequences, or the spool is another's.
        UnsupportedModelError: If the model is not causal, or its logits are made in a way that
            bequest does not know.
    """
    bare: Any = unwrapped(model)
    wanted = labels if labels is not None else input_ids
    _check_lengths(input_ids, wanted)
    _check_processes(input_ids, wanted)
    # The token of the last label is predicted, never read: nothing after it matters either.
    read = [_last_label(sequence) for sequence in wanted]
    batches = plan_batches(read, tokens_per_batch)
    found: dict[int, Losses] = {}
    if batches:
        with _evaluation_mode(bare), torch.no_grad():
            _check_ids("input_ids", input_ids, bare.get_input_embeddings().weight.shape[0])
            head = _inspect(bare, _device_of(bare), input_ids[batches[0][0]])
            _check_ids("labels", wanted, head.num_classes, IGNORED)

            def losses_of(batch: int) -> Losses:
                rows = batches[batch]
                tokens = [input_ids[row][: read[row]] for row in rows]
                return _batch_losses(
                    bare, head, tokens, [wanted[row][1 : read[row] + 1] for row in rows]
                )

            header = {}
            if spool is not None:
                header["identity"] = identity(bare, (batches, read), input_ids, wanted)
            sizes = [sum(read[row] for row in batch) for batch in batches]
            in_step = is_sharded(bare)
            found = _run(losses_of, sizes, spool, header, in_step=in_step, progress=progress)
    return _gathered(found, batches, read, [len(ids) for ids in input_ids])


def _run(
    losses_of: Callable[[int], Losses],
    sizes: list[int],
    spool: Path | None,
    header: dict[str, str],
    *,
    in_step: bool,
    progress: bool,
) -> dict[int, Losses]:
    """Compute this process's share of the batches that no earlier run has finished."""
    rank, size = rank_and_size()
    header = from_first(header)
    # Only the first process holds old results, so that adding up over processes counts them once.
    found = finished_batches(spool, header) if spool is not None and rank == 0 else {}
    done = from_first(set(found))
    left = [batch for batch in range(len(sizes)) if batch not in done]
    share = share_of(left, rank, size, in_step=in_step)
    total = sum(sizes[batch] for batch in share)
    bar = tqdm(total=total, unit="token", desc="losses", disable=not progress or rank > 0)
    with Spool(spool, rank, header) if spool is not None else nullcontext() as file, bar:
        for position, batch in enumerate(share):
            values = losses_of(batch)
            bar.update(sizes[batch])
            if position * size + rank >= len(left):
                continue  # run only to keep in step: another process has this batch
            found[batch] = values
            if file is not None:
                file.append(batch, values)
    return found


def _gathered(
    found: dict[int, Losses], batches: list[list[int]], read: list[int], lengths: list[int]
) -> list[Losses]:
    """Bring the shares of all processes together, and into the order of the sequences."""
    order = [row for batch in batches for row in batch]
    flat = np.zeros(sum(read), dtype=np.float32)
    starts = np.cumsum([0, *(sum(read[row] for row in batch) for batch in batches)])
    for batch, values in found.items():
        flat[starts[batch] : starts[batch + 1]] = values
    add_up(torch.from_numpy(flat))
    losses = [np.full(length, np.nan, dtype=np.float32) for length in lengths]
    start = 0
    for row in order:
        losses[row][1 : read[row] + 1] = flat[start : start + read[row]]
        start += read[row]
    return losses


def _check_lengths(input_ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> None:
    if len(input_ids) != len(labels):
        raise InputError(
            f"labels holds {len(labels)} sequences and input_ids {len(input_ids)}; give one "
            "sequence of labels for each sequence of tokens"
        )
    for row, (ids, wanted) in enumerate(zip(input_ids, labels, strict=True)):
        if len(ids) != len(wanted):
            raise InputError(
                f"labels[{row}] holds {len(wanted)} labels for {len(ids)} tokens; give one label a "
                f"token, {IGNORED} where nothing is predicted"
            )


def _check_processes(input_ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> None:
    if rank_and_size()[1] == 1:
        return
    checksum = 0
    for row in (*input_ids, *labels):
        checksum = zlib.crc32(np.asarray(row, dtype=np.int64).tobytes() + b"|", checksum)
    if not same_everywhere(checksum):
        raise InputError(
            "input_ids or labels differ between processes; pass all sequences to every process, "
            "they are shared out here"
        )


def _last_label(labels: Sequence[int]) -> int:
    """The position of the last label, which is the number of tokens it is predicted from."""
    positions = np.flatnonzero(np.asarray(labels)[1:] != IGNORED)
    return int(positions[-1]) + 1 if len(positions) else 0


def _batch_losses(
    model: nn.Module,
    head: CausalHead,
    tokens: list[Sequence[int]],
    labels: list[Sequence[int]],
) -> Losses:
    """Losses of one batch, end to end; `labels[i][t]` is what `tokens[i][: t + 1]` predict."""
    # Padding stands after the tokens, where a causal model cannot see it: a mask would only cost
    # the attention its fast causal form.
    padded = _right_padded(tokens, 0).to(_device_of(model))
    hidden_states = last_hidden_states(model, head, padded)
    wanted = _right_padded(labels, IGNORED).to(hidden_states.device)
    losses = torch.full(wanted.shape, torch.nan, device=wanted.device)
    is_wanted = wanted != IGNORED
    losses[is_wanted] = _losses_of_positions(head, hidden_states[is_wanted], wanted[is_wanted])
    found = losses.cpu().numpy()
    return np.concatenate([found[row, : len(own)] for row, own in enumerate(labels)])


def _losses_of_positions(head: CausalHead, hidden_states: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at a number of positions, a piece of the logits at a time."""
    rows = max(1, _LOGITS_AT_ONCE // head.num_classes)
    pieces = [
        head.losses(hidden, wanted).float()
        for hidden, wanted in zip(hidden_states.split(rows), labels.split(rows), strict=True)
    ]
    return torch.cat(pieces)


def _right_padded(rows: list[Sequence[int]], value: int) -> Tensor:
    padded = np.full((len(rows), max(len(row) for row in rows)), value, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)


def _check_ids(name: str, rows: Sequence[Sequence[int]], size: int, *allowed: int) -> None:
    for row, ids in enumerate(rows):
        values = np.asarray(ids)
        wrong = values[((values < 0) | (values >= size)) & ~np.isin(values, allowed)]
        if len(wrong):
            raise InputError(
                f"{name}[{row}] holds the id {wrong[0]}, but the model knows {size} tokens; "
                "tokenize with the model's own tokenizer"
            )


def _inspect(model: nn.Module, device: torch.device, tokens: Sequence[int]) -> CausalHead:
    """Find the head and make sure that the model is causal, which padding on the right needs."""
    probe = torch.tensor([list(tokens[:_PROBE_TOKENS])], device=device)
    head = find_head(model, probe)
    half = probe.shape[1] // 2
    changed = probe.clone()
    changed[:, half:] = torch.where(probe[:, half:] == 0, 1, 0)
    hidden_states = last_hidden_states(model, head, torch.cat([probe, changed]))[:, :half]
    allowed = 0.02 if hidden_states.dtype in (torch.bfloat16, torch.float16) else 1e-4
    first, second = hidden_states.float()
    if half and (first - second).abs().max() > allowed * first.abs().max():
        raise UnsupportedModelError(
            f"{type(model).__name__} lets a token see the tokens after it, so its losses mean "
            "nothing; pass a causal model, or give it a causal attention implementation"
        )
    return head


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and every module of it back into its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        # After a forward without backward, groups such as the root, or the last norm and the head,
        # stay whole. An optimizer made next would hold parameters that no gradient ever reaches.
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
