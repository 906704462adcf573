"""Fine-tuning of masked diffusion models (LLaDA, arXiv 2502.09992, section 2), also of those that attend in blocks.

Noise is drawn in `diffusion_collator.py`. Knows nothing of checkpoints and the Hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from kinject import compat
from kinject.corruption import parse_mask_ratio
from kinject.errors import ConfigurationError
from kinject.models import load_model
from kinject.models.adapters import write_diffusion_settings
from kinject.models.diffusion import (
    Tokens,
    attend_in_blocks,
    block_mask,
    diffusion_settings,
    is_diffusion,
    refuse_canvases,
    text_config,
    to_diffusion,
)
from kinject.prompts.encoding import end_of_text_id
from kinject.prompts.templates import ANSWER, FACT, IGNORED, RAW_FROM_BEGIN, Wording, resolve_mask_token
from kinject.trainers.collator import DocumentCollator, Masking
from kinject.trainers.diffusion_collator import BlockCollator, DiffusionCollator
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
# Weight of the diffusion loss beside the loss of next tokens (Nemotron-Labs-Diffusion, as NeMo Automodel trains it).
_BESIDE_NEXT_TOKENS = 0.3


class DiffusionSFTTrainer(DocumentSFTTrainer):
    """Trains a masked diffusion model to fill in hidden tokens, at every noise level.

    Each token of a document or answer, and the end of its turn, is hidden with the probability p of its sample. The
    cross-entropy of hidden tokens is weighted by 1 / p, which bounds the negative log-likelihood. Prompts stay visible.
    Besides trl's metrics, `mask_ratio` and the unweighted loss by quarter of p's range (`loss_ratio_q1` ... `loss_ratio_q4`)
    are logged.

    A block diffusion model learns on [noisy | clean] rows (`kinject.trainers.diffusion_collator`): every block is predicted
    given the clean blocks before it. The tokens that fill up the last block are learned, too.

    See [`DocumentSFTTrainer`] for the arguments and further errors. With `args.to_diffusion` the model may be
    autoregressive; it is turned into a diffusion model in place.

    Raises:
        ConfigurationError: the model is causal, or its configuration names no mask token; `compute_metrics` or
            `compute_loss_func` is given; a setting of block diffusion models is given for another model.
        DataError: a document or prompt holds the mask token.
    """

    _tag_names = ["kinject", "masked-diffusion"]
    _name = "Masked diffusion fine-tuning"
    large_learning_rate = 1e-5
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
        else:
            refuse_canvases(model, "train")
            if args.to_diffusion and not is_diffusion(model):
                if processing_class is None:
                    raise ConfigurationError(
                        "to_diffusion finds the mask token in the tokenizer; pass processing_class."
                    )
                mask_token_id = resolve_mask_token(processing_class, args.mask_token, text_config(model).vocab_size)
                to_diffusion(model, mask_token_id, shifted_logits=args.shifted_logits is not False)  # type: ignore[arg-type]
            in_blocks = args.to_diffusion == "block" or getattr(text_config(model), "block_length", None) is not None
            if in_blocks and is_diffusion(model):
                attend_in_blocks(model, args.block_length, args.clean_attention)
        refuse_canvases(model, "train")
        if not is_diffusion(model):
            raise ConfigurationError(
                "the model is causal (autoregressive), not a masked diffusion model. Name a diffusion checkpoint, or turn "
                "this one into one with to_diffusion=True (--to_diffusion)."
            )
        self._settings = diffusion_settings(model)
        self._check_blocks(args)
        super().__init__(model, args, train_dataset, eval_dataset, processing_class, **kwargs)

    def _check_blocks(self, args: DiffusionSFTConfig) -> None:
        """Refuse settings of block diffusion models for a model that has no blocks."""
        if self._settings.block_length is None:
            for name, value, default in (
                ("noise_per", args.noise_per, "row"),
                ("clean_attention", args.clean_attention, None),
            ):
                if value != default:
                    raise ConfigurationError(
                        f"{name} is '{value}', and the model has no blocks: every position attends to every other. Make it a "
                        "block diffusion model with to_diffusion='block' (--to_diffusion block), or leave it out."
                    )

    # What an objective decides.

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
        options |= {
            "eps": 0.0 if self.args.normalize == "paper" else _LEAST_PROBABILITY,
            "complementary": self.args.complementary,
        }
        end = end_of_text_id(compat.tokenizer_of(self)) if self.args.end_padding or self._in_blocks else None
        if self._settings.block_length is None:
            return DiffusionCollator(**options, end_padding_id=end)
        return BlockCollator(
            **options,
            end_padding_id=end,
            block_length=self._settings.block_length,
            noise_per=self.args.noise_per,
            shifted=self._settings.shifted_logits,
            to_longest=self.args.end_padding,
            learn_next=self._learns_next,
        )

    @property
    def _in_blocks(self) -> bool:
        return self._settings.block_length is not None

    @property
    def _learns_next(self) -> bool:
        """Whether the clean copy, which attends backwards only, also predicts the next token."""
        return self._settings.clean_attention == "causal"

    @property
    def _weighted(self) -> bool:
        """Whether the loss of a hidden token is weighted by 1 / p."""
        return self.args.weighting == "1/p" or (self.args.weighting is None and not self.args.complementary)

    def _check_attention(self, model: PreTrainedModel) -> None:
        """Do nothing: `__init__` has checked the attention before any data was read."""

    def _forbidden_id(self) -> int:
        return self._settings.mask_token_id

    def _write_beside(self, directory: str) -> None:
        if hasattr(
            self.accelerator.unwrap_model(self.model), "peft_config"
        ):  # a whole model has these settings in config.json
            write_diffusion_settings(directory, self.model)

    # Hooks of the trainer.

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """What the loss of the whole accumulated batch is divided by."""
        count = sum(self._divisor(self._counted(batch)).to(device) for batch in batch_samples)
        total = torch.as_tensor(count, device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total

    def _counted(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The number of tokens that the loss of each row is divided by for its mean, `(batch,)`.

        With weights these are all tokens that could have been hidden, without weights those that are. Two complementary rows,
        which together hide each token once, have half of them each.
        """
        if self.args.complementary:
            return batch["maskable"] / 2
        return batch["maskable"] if self._weighted else (batch["labels"] != IGNORED).sum(-1)

    def _divisor(self, counted: torch.Tensor) -> torch.Tensor:
        return counted.sum() if self.args.normalize == "maskable" else torch.ones_like(counted).sum()

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
        counted = self._counted(inputs)
        where = inputs.get("supervised")
        rows, positions = (labels != IGNORED).nonzero(as_tuple=True) if where is None else where
        read = (positions - 1).clamp(min=0) if self._settings.shifted_logits else positions
        targets, read_rows, hidden = labels[rows, positions], rows, len(rows)
        if self._learns_next:
            following = (inputs["next_labels"] != IGNORED).nonzero(as_tuple=True)
            targets = torch.cat([targets, inputs["next_labels"][following]])
            read_rows, read = torch.cat([rows, following[0]]), torch.cat([read, following[1]])
        with self._supervised.at(read_rows, read):
            scores = token_scores(model, self._forwarded(model, inputs), targets)
        ratios = inputs["ratios"][rows, positions] if "ratios" in inputs else mask_ratio[rows]  # (hidden,)
        shares = ratios if self._weighted else torch.ones_like(ratios)
        by_row = self.args.normalize != "maskable"
        weights = 1 / (shares * counted[rows]) if by_row else 1 / shares
        if self._learns_next:
            # All tokens that may be hidden are predicted as next tokens: their mean in a row, times what the row counts.
            beside = 1 / maskable if by_row else counted / maskable  # (batch,)
            weights = torch.cat([_BESIDE_NEXT_TOKENS * weights, beside[following[0]]])
        weighted = scores.log_probs.float().to(rows.device) * weights  # (hidden and next,)
        divisor = self._divisor(counted) if num_items_in_batch is None else num_items_in_batch
        if not self._weighted:  # the number of hidden tokens, which may be 0
            divisor = torch.as_tensor(divisor).clamp(min=1)
        loss = -weighted.sum() / divisor
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the processes' gradients are averaged
        self._tally.add_scores(mode, scores, inputs["attention_mask"].sum())
        self._tally.add_ratios(mode, mask_ratio, rows, scores.log_probs[:hidden], of_tokens=ratios)
        return (loss, None) if return_outputs else loss

    def _forwarded(self, model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the model's forward pass."""
        settings, visible = self._settings, inputs["attention_mask"]
        given = {"input_ids": inputs["input_ids"], "attention_mask": visible, "use_cache": False}
        if settings.block_length is None:
            return given
        tokens = Tokens(inputs["position_ids"], inputs["clean"], visible.bool())
        base = self.accelerator.unwrap_model(model)
        mask = block_mask(base, tokens, settings.block_length, settings.clean_attention)
        return given | {"attention_mask": mask, "position_ids": inputs["position_ids"]}

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor, None, None]:
        """The loss alone: logits of a noised document are no prediction of it."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None
