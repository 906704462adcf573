"""Fine-tuning of masked diffusion models (LLaDA, arXiv 2502.09992, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from kinject import compat
from kinject.corruption import parse_mask_ratio
from kinject.errors import ConfigurationError
from kinject.models import load_model
from kinject.models.adapters import write_diffusion_settings
from kinject.models.diffusion import diffusion_settings, is_diffusion, text_config, to_diffusion
from kinject.prompts.encoding import end_of_text_id
from kinject.prompts.templates import ANSWER, FACT, IGNORED, RAW_FROM_BEGIN, Wording, resolve_mask_token
from kinject.trainers.collator import DiffusionCollator, DocumentCollator, Masking
from kinject.trainers.diffusion_config import DiffusionSFTConfig
from kinject.trainers.document_config import DocumentSFTConfig
from kinject.trainers.document_trainer import DocumentSFTTrainer
from kinject.trainers.positions import token_scores

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# The eps of LLaDA's forward process, p = (1 - eps) t + eps, which bounds the weight 1 / p (arXiv 2502.09992; its public
# GUIDELINES.md, `forward_process`).
_LEAST_PROBABILITY = 1e-3


class DiffusionSFTTrainer(DocumentSFTTrainer):
    """Trains a masked diffusion model to fill in what is hidden, at every noise level.

    Each token of a document or answer, and the end of its turn, is hidden with the probability p of its sample; the
    cross-entropy of hidden tokens is weighted by 1 / p, which bounds the negative log-likelihood. Prompts stay visible.
    Besides trl's metrics, `mask_ratio` and the unweighted loss by quartile of p (`loss_ratio_q1` ... `loss_ratio_q4`) are
    logged.

    See [`DocumentSFTTrainer`] for the arguments and further errors. With `args.to_diffusion` the model may be
    autoregressive; it is turned into a diffusion model in place.

    Raises:
        ConfigurationError: the model is causal, or its configuration names no mask token; `compute_metrics` or
            `compute_loss_func` is given.
        DataError: a document or prompt holds the mask token.
    """

    _tag_names = ["kinject", "masked-diffusion"]
    _name = "Masked diffusion fine-tuning"
    _large_learning_rate = 1e-5
    loss_is_scaled_for_ga: bool | None = True  # type: ignore[assignment]  # by what `_get_num_items_in_batch` counts
    args: DiffusionSFTConfig

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: DiffusionSFTConfig,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        unusable = [name for name in ("compute_metrics", "compute_loss_func") if kwargs.get(name) is not None]
        if unusable:
            raise ConfigurationError(
                f"{unusable[0]} is not supported: logits of a noised document are no prediction of it. Leave it out, and "
                "follow the run with QuestionAnsweringCallback."
            )
        if isinstance(model, str):
            options = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
            loaded = load_model(model, **args.conversion_options(), **{"dtype": "float32", **options})
            model, args.model_init_kwargs = loaded.model, None
            processing_class = processing_class or loaded.tokenizer
        elif args.to_diffusion and not is_diffusion(model):
            if processing_class is None:
                raise ConfigurationError("to_diffusion finds the mask token in the tokenizer; pass processing_class.")
            mask_token_id = resolve_mask_token(processing_class, args.mask_token, text_config(model).vocab_size)
            to_diffusion(model, mask_token_id, shifted_logits=args.shifted_logits is not False)  # type: ignore[arg-type]
        if not is_diffusion(model):
            raise ConfigurationError(
                "the model is causal (autoregressive), not a masked diffusion model. Name a diffusion checkpoint, or turn "
                "this one into one with to_diffusion=True (--to_diffusion)."
            )
        self._settings = diffusion_settings(model)
        super().__init__(model, args, train_dataset, eval_dataset, processing_class, **kwargs)

    # What distinguishes it from the other objectives.

    def _document_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        return (FACT,) if isinstance(args, DiffusionSFTConfig) and args.frame == "chat" else (RAW_FROM_BEGIN,)

    def _row_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        return (ANSWER,)

    def _masking(self, vocab_size: int) -> Masking:
        return Masking(
            law=parse_mask_ratio(self.args.mask_ratio),
            mask_token_id=self._settings.mask_token_id,
            candidate_ids=torch.empty(0, dtype=torch.long),
            unit=self.args.mask_unit,  # type: ignore[arg-type]
            ratio_per=self.args.mask_ratio_per,  # type: ignore[arg-type]
        )

    def _collator(self, **options: Any) -> DocumentCollator:
        return DiffusionCollator(
            **options,
            eps=0.0 if self.args.normalize == "paper" else _LEAST_PROBABILITY,
            end_padding_id=end_of_text_id(compat.tokenizer_of(self)) if self.args.end_padding else None,
        )

    def _check_attention(self, model: PreTrainedModel) -> None:
        """Nothing is left to check: the settings were read before any data was."""

    def _forbidden_id(self) -> int:
        return self._settings.mask_token_id

    def _write_beside(self, directory: str) -> None:
        if hasattr(self.accelerator.unwrap_model(self.model), "peft_config"):  # a whole model's config.json says it
            write_diffusion_settings(directory, self.model)

    # Hooks of the trainer.

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """What the loss of the whole accumulated batch is divided by."""
        count = sum(self._divisor(batch["maskable"].to(device)) for batch in batch_samples)
        total = torch.as_tensor(count, device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total

    def _divisor(self, maskable: torch.Tensor) -> torch.Tensor:
        return maskable.sum() if self.args.normalize == "maskable" else torch.ones_like(maskable).sum()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The weighted loss, with only the hidden positions projected through the head."""
        mode = "train" if model.training else "eval"
        labels, mask_ratio, maskable = inputs["labels"], inputs["mask_ratio"], inputs["maskable"]
        where = inputs.get("supervised")
        rows, positions = (labels != IGNORED).nonzero(as_tuple=True) if where is None else where
        read = (positions - 1).clamp(min=0) if self._settings.shifted_logits else positions
        forwarded = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
        with self._supervised.at(rows, read):
            scores = token_scores(model, forwarded, labels[rows, positions])
        weights = 1 / mask_ratio if self.args.normalize == "maskable" else 1 / (mask_ratio * maskable)  # (batch,)
        weighted = scores.log_probs.float().to(rows.device) * weights[rows]  # (supervised,)
        divisor = self._divisor(maskable) if num_items_in_batch is None else num_items_in_batch
        loss = -weighted.sum() / divisor
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the processes' gradients are averaged
        self._tally.add_scores(mode, scores, inputs["attention_mask"].sum())
        self._tally.add_ratios(mode, mask_ratio, rows, scores.log_probs)
        return (loss, None) if return_outputs else loss

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor, None, None]:
        """The loss alone: logits of a noised document are no prediction of it."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None
