"""FlowTrainer: TRL's SFTTrainer with a weight on every sample or token of its training loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import ArrayLike
from torch import Tensor, nn
from trl import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from bequest.errors import InputError
from bequest.losses.token_losses import IGNORED
from bequest.training.anchored_trainer import AnchoredTrainer
from bequest.training.flow_inputs import (
    WEIGHT,
    check_args,
    check_collator,
    check_column,
    check_trainer,
    method_of,
    weighing_of,
    with_weight_column,
)
from bequest.training.method import MethodConfig
from bequest.training.response_losses import row_hashes
from bequest.training.row_weights import weights_by_hash
from bequest.training.starting_losses import starting_scores, token_rows
from bequest.training.token_weights import (
    LOSS_WEIGHTS,
    WeighedModel,
    WeightCollator,
    Weights,
    attach_weights,
    pack_with_weights,
)
from bequest.training.trl_hooks import check_hooks
from bequest.weighting.score_file import ScoreTable

TOKEN_WEIGHTS = "token_weights"
"""The column that `bequest score --to-dataset` writes under a scheme of token weights."""
_ROW = "bequest_row"


class FlowTrainer(AnchoredTrainer):
    """SFTTrainer whose training loss is weighted: `sum_t w_t l_t / sum_t 1` over response tokens.

    Everything else is SFTTrainer's: arguments, data formats, tokenization, packing, PEFT,
    checkpoints. The loss that is logged while training is the weighted one; `eval_loss` is never
    weighted, and is of all samples: `dataloader_drop_last` drops training samples only. The update
    does not depend on micro-batch, accumulation, padding, packing by `bfd` or number of processes.

    Weights come from the first of these that is there: a `weight` column of the data set; `scores`;
    the losses of the model itself, which are then computed before training, adapters off.

    Source: FLOW (arXiv 2502.02797) and its released code; DFT (2508.05629); STM (2501.14315).
    """

    train_dataset: Dataset
    data_collator: Any
    _signature_columns: list[str]

    def __init__(
        self,
        model: Any,
        args: Any = None,
        data_collator: DataCollatorForLanguageModeling | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        scores: str | Path | ScoreTable | ArrayLike | None = None,
        scheme: str | None = None,
        temperature: float | str | None = None,
        normalizer: str | None = None,
        method: MethodConfig | None = None,
        **options: Any,
    ) -> None:
        """Prepare the data and its weights.

        Args:
            model: As SFTTrainer takes it.
            args: As SFTTrainer takes them.
            data_collator: None, or TRL's own.
            train_dataset: A map-style data set, as SFTTrainer takes it; a column `weight` with one
                number a row is used as weights.
            eval_dataset: As SFTTrainer takes it.
            processing_class: As SFTTrainer takes it.
            scores: What `bequest score` wrote, by path or read, joined to the rows by what they
                are after tokenization and truncation; or an array of weights, one a row.
            scheme: `flow` (`w = exp(-loss / temperature)` of a sample's mean loss), `flow-token`
                (of each token's), `stm` (1 where the token's probability is above 0.4, else 0),
                `dft` (the token's present probability, renewed at each step) or `uniform` (the
                plain SFTTrainer). None means the scheme, temperature and weights of the score
                file, and `flow` without one.
            temperature: In nats, or `median`, which is the default.
            normalizer: `tokens`, the default, divides by the number of response tokens, as the
                authors do; `weights` by the sum of their weights (static schemes only).
            method: Weighting, and what holds the model to where it started, in one; then scheme,
                temperature and normalizer are left out.
            **options: SFTTrainer's other arguments.

        Raises:
            InputError: A row has no score, weights are not weights, an argument of SFTTrainer
                would lose them, or the installed TRL is not one that is known.
        """
        check_hooks()
        if not isinstance(train_dataset, Dataset):
            raise InputError(
                f"train_dataset is a {type(train_dataset).__name__}; give a datasets.Dataset: its "
                "weights must be known before training"
            )
        check_collator(data_collator)
        method = method_of(method, scheme, temperature, normalizer)
        self.weighing = weighing_of(method, scores)
        method.check_adapters(options.get("peft_config") is not None)
        self.scores: ScoreTable | None = None
        if TOKEN_WEIGHTS in train_dataset.column_names and self.weighing.needs_scores:
            raise InputError(
                f"train_dataset has a column {TOKEN_WEIGHTS!r}, which is for other trainers; pass "
                "the score file it came from as scores, or remove the column"
            )
        if WEIGHT in train_dataset.column_names:
            check_column(train_dataset, self.weighing)
        elif isinstance(self.weighing.scores, np.ndarray):
            train_dataset = with_weight_column(train_dataset, self.weighing.scores)
        if self.weighing.is_static:
            train_dataset = train_dataset.add_column(_ROW, np.arange(len(train_dataset)))
        self._unprepared: Dataset | None = train_dataset
        super().__init__(
            model, args, data_collator, train_dataset, eval_dataset, processing_class, **options
        )
        check_trainer(self)
        self.apply_method(method)
        # The fused head leaves every division to `compute_loss`, whatever the model's own forward
        # accepts: without this a model that takes no loss arguments depends on accumulation.
        self.model_accepts_loss_kwargs = True
        if self.weighing.is_static:
            self.train_dataset = self._weigh(self.train_dataset)
        self.data_collator = WeightCollator(self.data_collator)

    def _prepare_dataset(
        self,
        dataset: Any,
        processing_class: Any,
        args: SFTConfig,
        packing: bool,
        formatting_func: Callable[[dict[str, Any]], str] | None,
        dataset_name: str,
    ) -> Any:
        if dataset is self._unprepared:
            self._unprepared = None
            check_args(args)
            if self.weighing.is_static:
                # Packing keeps token ids and labels alone, so it waits until there are weights.
                args = copy.copy(args)
                args.shuffle_dataset = False
                if packing and args.packing_strategy == "bfd":
                    args.truncation_mode = "keep_start"  # as that packing truncates
                elif packing:
                    args.max_length = None  # nothing is cut off
                packing = False
        return super()._prepare_dataset(
            dataset, processing_class, args, packing, formatting_func, dataset_name
        )

    def _weigh(self, dataset: Dataset) -> Dataset:
        """Find the weights of the tokenized samples, attach them, shuffle and pack."""
        if not len(dataset):
            raise InputError(
                f"train_dataset has no response token left within max_length={self.args.max_length}"
            )
        weights = self._weights_of(dataset)
        if not any(np.any(own) for own in weights):
            raise InputError("train_dataset has no token whose weight is above 0")
        with self.args.main_process_first(desc="weighting"):
            weighted = attach_weights(dataset.remove_columns(_ROW), weights)
            return pack_with_weights(weighted, self.args)

    def _weights_of(self, dataset: Dataset) -> Weights:
        if WEIGHT in dataset.column_names:
            return list(np.asarray(dataset[WEIGHT], dtype=np.float32))
        input_ids, labels = token_rows(dataset)
        if isinstance(self.weighing.scores, ScoreTable):
            self.scores = self.weighing.scores
        else:
            self.scores = starting_scores(self, input_ids, labels)
        rows = np.asarray(dataset[_ROW], dtype=np.int64)
        return weights_by_hash(self.scores, self.weighing, row_hashes(input_ids, labels), rows)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if LOSS_WEIGHTS not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, LOSS_WEIGHTS]

    def _get_num_items_in_batch(
        self, batch_samples: Sequence[dict[str, Tensor]], device: torch.device
    ) -> Tensor | None:
        """Add up what the loss of one step is divided by, over its micro-batches and processes."""
        if not batch_samples:
            return None
        if self.method.kl:
            tokens = [_response_tokens(batch) for batch in batch_samples]
            self.response_tokens = self._over_all(tokens, device)
        return self._over_all([self._items(batch) for batch in batch_samples], device)

    def _over_all(self, counts: list[Tensor], device: torch.device) -> Tensor:
        total = torch.stack(counts).sum().to(device)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        # Ranks of tensor parallelism are given the same batch.
        items: Tensor = total / self.get_tp_size()
        return items

    def _items(self, batch: dict[str, Tensor]) -> Tensor:
        if self.weighing.normalizer == "tokens" or LOSS_WEIGHTS not in batch:
            return _response_tokens(batch)
        is_predicted = batch["labels"][..., 1:] != IGNORED
        return (batch[LOSS_WEIGHTS][..., 1:] * is_predicted).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Compute SFTTrainer's loss, with weights while training and without in evaluation."""
        weights = inputs.pop(LOSS_WEIGHTS, None)
        # Like SFTTrainer, which tells training from evaluation by the same flag.
        if not self.model.training or self.weighing.scheme == "uniform":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if weights is None and self.weighing.is_static:
            raise InputError(
                f"a training batch has no {LOSS_WEIGHTS}; leave train_dataset as it is"
            )
        if self.weighing.normalizer == "weights" and num_items_in_batch is not None:
            # SFTTrainer divides by no less than 1, which a sum of weights can well be below.
            weights = weights / torch.where(num_items_in_batch > 0, num_items_in_batch, 1).clamp(
                max=1
            )
        weighed = WeighedModel(model, weights)
        loss = super().compute_loss(weighed, inputs, return_outputs, num_items_in_batch)
        if weighed.calls != 1:
            raise InputError(
                f"SFTTrainer ran the model {weighed.calls} times for one loss, so weights would be "
                "lost; install 'trl>=1.16,<1.17'"
            )
        return loss


def _response_tokens(batch: dict[str, Tensor]) -> Tensor:
    return (batch["labels"][..., 1:] != IGNORED).sum()
