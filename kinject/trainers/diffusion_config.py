"""Settings of fine-tuning masked diffusion models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from kinject.errors import ConfigurationError
from kinject.trainers.document_config import CorruptionSFTConfig

Normalization = Literal["maskable", "sequence", "paper"]


@dataclass
class DiffusionSFTConfig(CorruptionSFTConfig):
    """Configuration of [`DiffusionSFTTrainer`]: how documents are noised, and how the loss is weighted.

    The defaults are LLaDA's (arXiv 2502.09992) except for the normalization. Those of arXiv 2510.09885 are
    `mask_ratio="uniform(0.05, 0.95)"`, `mask_ratio_per="batch"`, `normalize="paper"`.
    """

    objective: ClassVar[str] = "diffusion"

    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Peak learning rate. Default: 1e-4 for adapters and below a billion parameters, else 1e-5, the paper's."
        },
    )
    mask_ratio: str = field(
        default="uniform(0, 1)",
        metadata={
            "help": "Law of the noise level t: uniform(low, high), fixed(value), linear(start, end) over training, or "
            "stratified(low, high): each document meets evenly spread levels over its epochs."
        },
    )
    normalize: str = field(
        default="maskable",
        metadata={
            "help": "What the weighted loss is divided by: 'maskable', the number of tokens that could have been hidden in "
            "the whole accumulated batch; 'sequence', that number in each sample, then the mean over samples (LLaDA); "
            "'paper', as 'sequence' with p = t instead of LLaDA's p = .999 t + .001.",
            "choices": ["maskable", "sequence", "paper"],
        },
    )
    frame: str = field(
        default="raw",
        metadata={
            "help": "Around plain documents: 'raw': BOS, the document, EOS, as in the paper; 'chat': user 'Tell me a fact.', "
            "assistant the document.",
            "choices": ["raw", "chat"],
        },
    )
    end_padding: bool = field(
        default=False,
        metadata={
            "help": "Fill samples up to the longest of their batch with end-of-text tokens that are seen and learned (LLaDA), "
            "instead of padding that is neither. Ties a sample to its batch."
        },
    )
    to_diffusion: bool = field(
        default=False,
        metadata={
            "help": "Turn an autoregressive model into a masked diffusion model first. A model that is one stays as it is."
        },
    )
    shifted_logits: bool | None = field(
        default=None,
        metadata={
            "help": "With --to_diffusion: whether logits at i go on predicting token i + 1 (Dream), or token i (LLaDA). "
            "Default: true."
        },
    )
    mask_token: str | None = field(
        default=None,
        metadata={
            "help": "Mask token by name, where the model names none. Default, with --to_diffusion: the tokenizer's own, else a "
            "reserved or unused token."
        },
    )

    def __post_init__(self) -> None:
        """Refuse unknown choices and values out of range before anything is loaded."""
        super().__post_init__()
        self.require_choices(normalize=get_args(Normalization), frame=("raw", "chat"))
        if self.router_aux_loss_coef is not None:
            raise ConfigurationError(
                f"router_aux_loss_coef is {self.router_aux_loss_coef}, and would have no effect: the bound on the "
                "likelihood has no such term. Leave it out."
            )
        if self.anchor:
            raise ConfigurationError(
                f"anchor is {self.anchor}, and is not supported: a diffusion model's predictions depend on what is hidden. "
                "Leave it out; --rehearsal keeps what was known."
            )
        if self.label_smoothing_factor or self.loss_type == "dft":
            raise ConfigurationError(
                "label_smoothing_factor and loss_type dft are not supported: they would change the bound on the "
                "likelihood that this objective is. Leave both out."
            )

    def conversion_options(self) -> dict[str, Any]:
        """Options of [`load_model`] by which it loads a masked diffusion model, or turns a model into one."""
        return {name: getattr(self, name) for name in ("to_diffusion", "mask_token", "shifted_logits")}
