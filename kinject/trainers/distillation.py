"""The loss of a run that rehearses what the untrained model predicted, beside the documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset

from kinject.trainers.collator import PREDICTED
from kinject.trainers.metric_logging import MetricLoggingTrainer
from kinject.trainers.positions import scores_of
from kinject.trainers.rehearsal import divergence

if TYPE_CHECKING:
    from kinject.trainers.document_config import DocumentSFTConfig
    from kinject.trainers.positions import SupervisedPositions


class DistillingTrainer(MetricLoggingTrainer):
    """Learns rows with predictions by their divergence from the model's, and all others by their tokens."""

    args: DocumentSFTConfig
    _supervised: SupervisedPositions

    def _has_predictions(self) -> bool:
        """Whether training rehearses predictions, which takes the loss that trl has by default."""
        data = self.train_dataset.data if isinstance(self.train_dataset, Dataset) else None
        if data is None or data.column("predictions").null_count == len(data):
            return False
        plain = self.label_smoother is None and not getattr(self, "aux_loss_enabled", False)
        return plain and self.args.loss_type == "nll" and self.compute_loss_func is None

    def _distilling_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        predictions: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """The loss of a batch in which the tokens that are rehearsed have ``predictions`` for targets.

        All batches of a run come here, those without any too: processes that share a model have to take the same way.
        """
        targets = inputs.pop("shift_labels")[0]  # (supervised,)
        log_probs = model(**inputs, use_cache=False).logits[0].float().log_softmax(-1)  # (supervised, vocabulary)
        scores = scores_of(log_probs, targets)
        self._supervised.log_probs = scores.log_probs.detach()
        losses = -scores.log_probs
        if predictions:
            rehearsed, *predicted = (predictions[name].to(log_probs.device) for name in PREDICTED)
            losses = losses.index_put((rehearsed,), divergence(log_probs[rehearsed], *predicted))
        loss = losses.sum() / (max(1, len(losses)) if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the processes' gradients are averaged
        shown = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))  # a packed batch has no padding
        self._log_scores("train", scores, shown.sum())
        return loss
