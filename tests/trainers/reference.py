"""Plain computations of the training losses, written from their definitions, to compare the trainers with."""

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


def diffusion_reference_loss(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], answers: list[list[int]], normalize: str, shifted: bool
) -> torch.Tensor:
    """LLaDA's loss (arXiv 2502.09992, equation 5), one row at a time, without padding.

    `answers` are the clean tokens that could be hidden, those at the end of each row; where the model's mask token stands
    among them is read from the noised row itself.
    """
    mask = int(model.config.mask_token_id)  # type: ignore[union-attr, arg-type]
    rows = []
    for ids, attention, p, answer in zip(
        batch["input_ids"], batch["attention_mask"], batch["mask_ratio"], answers, strict=True
    ):
        ids = ids[: int(attention.sum())]
        logits: Any = model(input_ids=ids[None], attention_mask=torch.ones_like(ids[None])).logits[0]
        log_probs = logits.float().log_softmax(-1)
        start = len(ids) - len(answer)
        total = torch.zeros(())
        for index, token in enumerate(answer):
            position = start + index
            if ids[position] == mask:
                total = total - log_probs[max(position - 1, 0) if shifted else position, token] / p
        rows.append(total)
    if normalize == "maskable":
        return torch.stack(rows).sum() / sum(len(answer) for answer in answers)
    return torch.stack([row / len(answer) for row, answer in zip(rows, answers, strict=True)]).mean()
