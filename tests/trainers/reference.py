"""A plain computation of the training loss, written from its definition, to compare the trainers with."""

from __future__ import annotations

from typing import Any

import torch


def reference_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy over supervised tokens, one row at a time, without padding."""
    total, count = torch.zeros(()), 0
    for ids, attention, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        length = int(attention.sum())
        logits: Any = model(input_ids=ids[None, :length]).logits[0]
        log_probs = logits.float().log_softmax(-1)
        for position in range(1, length):
            if labels[position] != -100:
                total = total - log_probs[position - 1, labels[position]]
                count += 1
    return total / count
