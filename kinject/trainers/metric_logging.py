"""What is logged of every batch, summed over the processes: trl's metrics, and those by mask ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kinject.trainers.sharded_training import ShardedTrainer

if TYPE_CHECKING:
    from kinject.trainers.positions import TokenScores


class MetricLoggingTrainer(ShardedTrainer):
    """Logs entropy, accuracy and tokens where trl does not compute the loss, and losses by mask ratio."""

    def _log_scores(self, mode: str, scores: TokenScores, tokens: torch.Tensor) -> None:
        """Log entropy and accuracy of the supervised tokens, and how many ``tokens`` there were so far, in all."""
        counted = (scores.entropy.sum(), scores.correct.sum(), torch.tensor(len(scores.correct)), tokens)
        sums = torch.stack([count.to(tokens.device, torch.float32) for count in counted])
        entropy, correct, supervised, seen = self.accelerator.reduce(sums, reduction="sum").tolist()
        self._metrics[mode]["entropy"].append(entropy / max(supervised, 1))
        self._metrics[mode]["mean_token_accuracy"].append(correct / max(supervised, 1))
        if mode == "train":
            self._total_train_tokens += int(seen)
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]

    def _log_by_ratio(
        self, mode: str, mask_ratio: torch.Tensor, rows: torch.Tensor, log_probs: torch.Tensor | None
    ) -> None:
        """Log the mean mask ratio, and the mean loss of each quartile of the ratio range [0, 1], over the masked samples.

        Where no process has any, nothing is logged: there is no ratio of rehearsed answers.

        Args:
            mode: `train` or `eval`.
            mask_ratio: The ratio of each sample, `(batch,)`; NaN where there is no mask.
            rows: The sample of each supervised token, `(supervised,)`.
            log_probs: Their log-probabilities, if known.
        """
        sums = torch.zeros(10, device=mask_ratio.device)
        masked = ~mask_ratio.isnan()  # (batch,)
        if log_probs is not None:
            counted = masked[rows]  # (supervised,)
            quartile = (mask_ratio[rows][counted] * 4).long().clamp(max=3)
            losses = -log_probs.detach().float().to(mask_ratio.device)[counted]
            sums[:4].index_add_(0, quartile, losses)
            sums[4:8].index_add_(0, quartile, torch.ones_like(losses))
        sums[8], sums[9] = mask_ratio[masked].sum(), masked.sum()
        sums = self.accelerator.reduce(sums, reduction="sum")
        if sums[9] > 0:
            self._metrics[mode]["mask_ratio"].append((sums[8] / sums[9]).item())
        for index in range(4):
            if sums[4 + index] > 0:
                self._metrics[mode][f"loss_ratio_q{index + 1}"].append((sums[index] / sums[4 + index]).item())
