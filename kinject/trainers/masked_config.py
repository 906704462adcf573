"""Settings of masked fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from kinject.corruption import MaskUnit, parse_mask_ratio
from kinject.errors import ConfigurationError
from kinject.trainers.document_config import DocumentSFTConfig

Corruption = Literal["mask", "random", "keep"]
RatioScope = Literal["sample", "batch"]
LossScope = Literal["document", "masked"]


@dataclass
class MaskedSFTConfig(DocumentSFTConfig):
    """Configuration of [`MaskedSFTTrainer`]: what is hidden in the prompt's copy, and which tokens are scored.

    The defaults are the paper's (arXiv 2510.09885, section 3) except that the ratio is drawn for each sample, so that
    a mask never depends on its batch; `mask_ratio_per="batch"` is the paper's choice.
    """

    mask_ratio: str = field(
        default="uniform(0.05, 0.95)",
        metadata={
            "help": "Law of the mask ratio: uniform(low, high), fixed(value), linear(start, end) over training, or "
            "stratified(low, high): each document meets evenly spread ratios over its epochs."
        },
    )
    mask_ratio_per: str = field(
        default="sample",
        metadata={"help": "One ratio for each 'sample', or one for the whole 'batch' as in the paper."},
    )
    mask_unit: str = field(
        default="token",
        metadata={
            "help": "What is hidden together: 'token', 'word', 'span' (one contiguous stretch), or 'mixed' (half of the "
            "samples tokens, half of them a span)."
        },
    )
    corruption: str = field(
        default="mask",
        metadata={
            "help": "What the prompt shows instead of a hidden token: the 'mask' token, a 'random' token in place of every "
            "document token (the random-token control), or 'keep' (never masked)."
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
    loss_on: str = field(
        default="document",
        metadata={
            "help": "'document': every document token and the end of turn; 'masked': only tokens that are hidden in the "
            "prompt (the paper's masked SFT)."
        },
    )

    def __post_init__(self) -> None:
        """Refuse unknown choices and ratios out of range before anything is loaded."""
        super().__post_init__()
        parse_mask_ratio(self.mask_ratio)
        for name, choices in (
            ("mask_ratio_per", get_args(RatioScope)),
            ("mask_unit", get_args(MaskUnit)),
            ("corruption", get_args(Corruption)),
            ("loss_on", get_args(LossScope)),
        ):
            if getattr(self, name) not in choices:
                raise ConfigurationError(f"{name} is '{getattr(self, name)}'; expected one of {', '.join(choices)}.")
