"""Masked fine-tuning of autoregressive models (arXiv 2510.09885, section 3).

Says which prompts surround a document and how its copy is masked; masks are drawn in `collator.py`. Knows nothing of
checkpoints and the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from kinject import compat
from kinject.corruption import parse_mask_ratio
from kinject.prompts.templates import DEMASKING, INFILLING, MASKED_ANSWER, Wording, named_wordings, resolve_mask_token
from kinject.trainers.collator import DocumentCollator, Masking
from kinject.trainers.document_config import DocumentSFTConfig
from kinject.trainers.document_trainer import DocumentSFTTrainer
from kinject.trainers.infilling import EntityReport, Gap, Infilling, entity_gaps
from kinject.trainers.masked_config import MaskedSFTConfig

if TYPE_CHECKING:
    from kinject.prompts.encoding import EncodedDocument


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
