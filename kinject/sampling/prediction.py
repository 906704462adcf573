"""What a masked diffusion model says of the columns in work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kinject.models.diffusion import DiffusionSettings
from kinject.sampling.config import SamplingConfig
from kinject.sampling.rows import Rows
from kinject.sampling.scores import guide


@dataclass(frozen=True)
class Predictor:
    """Calls a model on rows.

    Attributes:
        model: A masked diffusion model.
        config: How to decode.
        settings: How to call the model.
        padded: Whether any row is padded; if none is, the model is called without an attention mask.
        edged: Whether the very first token of any row is to be filled.
    """

    model: Any
    config: SamplingConfig
    settings: DiffusionSettings
    padded: bool
    edged: bool

    @classmethod
    def of(cls, model: Any, rows: Rows, config: SamplingConfig, settings: DiffusionSettings) -> Predictor:
        """The predictor for a batch that begins as ``rows``."""
        edged = rows.answer & (rows.positions == 0)
        return cls(model, config, settings, not bool(rows.visible.all()), bool(edged.any()))

    def __call__(self, rows: Rows, columns: torch.Tensor) -> torch.Tensor:
        """Logits of ``columns``, (rows, columns, vocabulary), in float32 or more.

        Only those columns are projected to the vocabulary, unless in exact mode. With shifted logits a column is
        predicted by the one before it, except for a row's first token: it has none, and reads its own.
        """
        if not self.settings.shifted_logits:
            logits = self._call(rows, columns)
        elif not self.edged:
            logits = self._call(rows, columns - 1)
        else:
            both = self._call(rows, torch.cat([(columns - 1).clamp(min=0), columns]))
            before, itself = both.split(len(columns), dim=1)
            logits = itself.where((columns == rows.first[:, None])[..., None], before)
        if not self.config.exact:
            mask = torch.tensor([self.settings.mask_token_id], device=logits.device)
            logits = logits.index_fill(-1, mask, -torch.inf)
        return logits

    def _call(self, rows: Rows, columns: torch.Tensor) -> torch.Tensor:
        """Logits at ``columns``, guided if so configured."""
        ids, visible, positions = rows.ids, rows.visible.long(), rows.positions
        if self.config.guidance:
            ids = torch.cat([ids, ids.masked_fill(rows.prompt, self.settings.mask_token_id)])
            visible, positions = visible.repeat(2, 1), positions.repeat(2, 1)
        output = self.model(
            input_ids=ids,  # (rows or twice as many, width)
            attention_mask=visible if self.padded else None,
            position_ids=positions if self.padded else None,
            use_cache=False,
            **({} if self.config.exact else {"logits_to_keep": columns}),
        )
        logits = output.logits[:, columns] if self.config.exact else output.logits
        if logits.dtype not in (torch.float32, torch.float64):
            logits = logits.float()
        if not self.config.guidance:
            return logits
        conditional, unconditional = logits.chunk(2)
        return guide(conditional, unconditional, self.config.guidance)
