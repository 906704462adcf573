"""Settings of the objectives that hide part of the documents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from kinject.corruption import MaskUnit, parse_mask_ratio
from kinject.trainers.document_config import DocumentSFTConfig

RatioScope = Literal["sample", "batch"]


@dataclass
class CorruptionSFTConfig(DocumentSFTConfig):
    """What the masked and the diffusion objective share: how much is hidden, and what together."""

    mask_ratio: str = field(
        default="uniform(0.05, 0.95)",
        metadata={
            "help": "Law of the mask ratio: uniform(low, high), fixed(value), linear(start, end) over training, or "
            "stratified(low, high): each document meets evenly spread ratios over its epochs."
        },
    )
    mask_ratio_per: str = field(
        default="sample",
        metadata={
            "help": "One ratio for each 'sample', or one for the whole 'batch' as in the paper.",
            "choices": ["sample", "batch"],
        },
    )
    mask_unit: str = field(
        default="token",
        metadata={
            "help": "What is hidden together: 'token', 'word', 'entity' (whole words, and whole names, dates and amounts: the "
            "row's 'entities', or else found by rule), 'span' (one contiguous stretch), or 'mixed' (half of the samples "
            "tokens, half of them a span).",
            "choices": ["token", "word", "entity", "span", "mixed"],
        },
    )

    def __post_init__(self) -> None:
        """Refuse unknown choices and ratios out of range before anything is loaded."""
        super().__post_init__()
        parse_mask_ratio(self.mask_ratio)
        self.require_choices(mask_ratio_per=get_args(RatioScope), mask_unit=get_args(MaskUnit))
