"""Settings of masked fine-tuning. Knows nothing of how masks are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from kinject.corruption import parse_mask_ratio
from kinject.errors import ConfigurationError
from kinject.trainers.document_config import CorruptionSFTConfig
from kinject.trainers.infilling import InfillUnit

Corruption = Literal["mask", "random"]
LossScope = Literal["document", "masked"]


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
