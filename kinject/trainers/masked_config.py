"""Settings of masked fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from kinject.trainers.corruption_config import CorruptionSFTConfig

Corruption = Literal["mask", "random", "keep"]
LossScope = Literal["document", "masked"]


@dataclass
class MaskedSFTConfig(CorruptionSFTConfig):
    """Configuration of [`MaskedSFTTrainer`]: what is hidden in the prompt's copy, and which tokens are scored.

    The defaults are the paper's (arXiv 2510.09885, section 3) except that the ratio is drawn for each sample, so that
    a mask never depends on its batch; `mask_ratio_per="batch"` is the paper's choice.
    """

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
        """Refuse unknown choices before anything is loaded."""
        super().__post_init__()
        self.require_choices(corruption=get_args(Corruption), loss_on=get_args(LossScope))
