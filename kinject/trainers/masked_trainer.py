"""Masked fine-tuning of autoregressive models (arXiv 2510.09885, section 3): its settings and its trainer.

Says which prompts surround a document and how its copy is masked; masks are drawn in `collator.py`. Knows nothing of
checkpoints and the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, get_args

import torch

from kinject import compat
from kinject.corruption import parse_mask_ratio
from kinject.errors import ConfigurationError
from kinject.prompts.templates import DEMASKING, INFILLING, MASKED_ANSWER, Wording, named_wordings, resolve_mask_token
from kinject.trainers.collator import Corruption, DocumentCollator, LossScope, Masking
from kinject.trainers.document_config import CorruptionSFTConfig, DocumentSFTConfig
from kinject.trainers.document_trainer import DocumentSFTTrainer
from kinject.trainers.infilling import EntityReport, Gap, Infilling, InfillUnit, entity_gaps

if TYPE_CHECKING:
    from kinject.prompts.encoding import EncodedDocument


@dataclass
class MaskedSFTConfig(CorruptionSFTConfig):
    """Configuration of [`MaskedSFTTrainer`]: what is hidden in the prompt's copy, and which tokens are scored.

    The defaults are the paper's (arXiv 2510.09885, section 3), except that a ratio is drawn for each sample, so that a mask
    never depends on its batch. With `recipe="paper"` one is drawn for each batch, as published.
    """

    recipe: str | None = field(
        default=None,
        metadata={
            "help": "'paper': the objective as published: mask_ratio uniform(0.05, 0.95), drawn for each batch, single tokens "
            "masked, the paper's prompt, loss on the document, no infilling. Overrides these settings in a --config file. "
            "Default: as set one by one.",
            "choices": ["paper"],
        },
    )
    corruption: str = field(
        default="mask",
        metadata={
            "help": "What the prompt shows instead of a hidden token: the 'mask' token, or a 'random' token in place of every "
            "document token (the random-token control).",
            "choices": ["mask", "random"],
        },
    )
    wordings: str = field(
        default="paper",
        metadata={
            "help": "Prompts around the documents: 'paper', 'rotating' (several, one drawn for each sample and epoch), or "
            "a YAML file with a list of {user, assistant}."
        },
    )
    mask_token: str | None = field(
        default=None,
        metadata={"help": "Mask token by name. Default: the tokenizer's own, else a reserved or unused added token."},
    )
    collapse_masks: bool = field(
        default=False,
        metadata={
            "help": "Show one mask for each run of hidden tokens in the prompt's copy, instead of one for each token: the "
            "number of masks then does not tell how long the hidden text is, and the sample gets shorter."
        },
    )
    loss_on: str = field(
        default="document",
        metadata={
            "help": "'document': every document token and the end of turn; 'masked': only tokens that are hidden in the "
            "prompt (the paper's masked SFT).",
            "choices": ["document", "masked"],
        },
    )
    infill_share: float = field(
        default=0.0,
        metadata={
            "help": "Share of samples, from 0 to 1, whose target is only the part that is missing from the prompt's copy, "
            "instead of the whole document: it begins and ends as an answer to a question does. Rows of questions are not "
            "affected."
        },
    )
    infill_unit: str = field(
        default="span",
        metadata={
            "help": "What is missing in such a sample: a 'span' (any contiguous stretch), an 'entity' (one of the row's "
            "'entities', or if it has none one found by rule: names, dates, amounts; a document without any is "
            "learned whole), or a 'side' (an entity, or the longer of the texts before and after one).",
            "choices": ["span", "entity", "side"],
        },
    )
    infill_ratio: str = field(
        default="uniform(0.3, 0.8)",
        metadata={"help": "The part of the document that a missing span takes: a law as for mask_ratio."},
    )

    def __post_init__(self) -> None:
        """Refuse unknown choices before anything is loaded."""
        if self.recipe == "paper":
            defaults = {each.name: each.default for each in fields(self)}
            against = [name for name, value in PAPER.items() if getattr(self, name) not in (value, defaults[name])]
            if against:
                raise ConfigurationError(
                    f"recipe paper sets {against[0]} to {PAPER[against[0]]!r}, and {against[0]} is "
                    f"{getattr(self, against[0])!r}: leave one of them out."
                )
            vars(self).update(PAPER)
        super().__post_init__()
        self.require_choices(
            **({} if self.recipe is None else {"recipe": ("paper",)}),
            corruption=get_args(Corruption),
            loss_on=get_args(LossScope),
            infill_unit=get_args(InfillUnit),
        )
        parse_mask_ratio(self.infill_ratio)
        if not 0.0 <= self.infill_share <= 1.0:  # also catches NaN
            raise ConfigurationError(f"infill_share is {self.infill_share}; expected a share from 0 to 1.")
        if self.infill_share and self.corruption != "mask":
            raise ConfigurationError(
                f"infill_share is {self.infill_share} with corruption '{self.corruption}': what is missing is shown as "
                "masks. Set --infill_share 0 or --corruption mask."
            )
        if self.collapse_masks and self.corruption != "mask":
            raise ConfigurationError(
                f"collapse_masks needs masks to collapse, and corruption '{self.corruption}' shows none. Leave out "
                "--collapse_masks, or set --corruption mask."
            )


PAPER = {
    "mask_ratio": "uniform(0.05, 0.95)",
    "mask_ratio_per": "batch",
    "mask_unit": "token",
    "corruption": "mask",
    "wordings": "paper",
    "collapse_masks": False,
    "loss_on": "document",
    "infill_share": 0.0,
}
"""What `recipe="paper"` sets (arXiv 2510.09885, section 3)."""


class MaskedSFTTrainer(DocumentSFTTrainer):
    """Trains a model to restore a document from a randomly masked copy in its prompt.

    The prompt holds the document with a share `t` of its tokens replaced; the target is the whole, unaltered document. With
    prompt/completion or chat rows the question stays visible and the answer is masked. Besides trl's metrics, `mask_ratio` and
    the loss by quarter of the ratio range (`loss_ratio_q1` ... `loss_ratio_q4`) are logged.

    See [`DocumentSFTTrainer`] for the arguments and errors.
    """

    _tag_names = ["kinject", "masked-fine-tuning"]
    _name = "Masked fine-tuning"
    args: MaskedSFTConfig

    def _document_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        if not isinstance(args, MaskedSFTConfig):
            return (DEMASKING,)
        # The infilling prompt is the last one, where `_collator` expects it.
        return (*named_wordings(args.wordings), *((INFILLING,) if args.infill_share else ()))

    def _row_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        return (MASKED_ANSWER,)

    def _gaps(self, document: EncodedDocument, row: Mapping[str, Any], args: Any) -> list[Gap] | None:
        if not isinstance(args, MaskedSFTConfig) or not args.infill_share or args.infill_unit == "span":
            return None
        return entity_gaps(document, row, sides=args.infill_unit == "side")

    def _entity_report(self, args: DocumentSFTConfig) -> EntityReport | None:
        if isinstance(args, MaskedSFTConfig) and args.infill_share and args.infill_unit != "span":
            return EntityReport(f"infill_unit {args.infill_unit}", "they are learned whole")
        return super()._entity_report(args)

    def _collator(self, **options: Any) -> DocumentCollator:
        if not self.args.infill_share:
            return super()._collator(**options)
        *frames, frame = options.pop("frames")
        infilling = Infilling(
            frame=frame,
            share=self.args.infill_share,
            unit=self.args.infill_unit,  # type: ignore[arg-type]
            law=parse_mask_ratio(self.args.infill_ratio),
            mask_token_id=options["masking"].mask_token_id,
            collapsed=self.args.collapse_masks,
        )
        return super()._collator(frames=frames, infilling=infilling, **options)

    def _masking(self, vocab_size: int) -> Masking:
        tokenizer = compat.tokenizer_of(self)
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        ordinary = sorted(
            index for index in tokenizer.get_vocab().values() if index not in special and index < vocab_size
        )
        mask_token_id = -1  # the random-token control needs no mask token, and runs on tokenizers without one
        if self.args.corruption == "mask":
            mask_token_id = resolve_mask_token(tokenizer, self.args.mask_token, vocab_size)
        return Masking(
            law=parse_mask_ratio(self.args.mask_ratio),
            mask_token_id=mask_token_id,
            candidate_ids=torch.tensor(ordinary),
            corruption=self.args.corruption,  # type: ignore[arg-type]
            unit=self.args.mask_unit,  # type: ignore[arg-type]
            ratio_per=self.args.mask_ratio_per,  # type: ignore[arg-type]
            loss_on=self.args.loss_on,  # type: ignore[arg-type]
            collapsed=self.args.collapse_masks,
        )
